"""What no anomaly model can be made of, through the recipe and `eval anomaly`: a sentence each, and nothing written."""

import json

import numpy as np
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data import build, load_split, read_head
from tests import launch, tiny_anomaly
from tests.tiny_anomaly import SIDE

SIZES = [(SIDE, SIDE), (40, 90), (200, 31), (17, 17), (300, 300)]  # width, height


def recipe(data, out, *more):
    return launch.recipe(
        "anomaly", "--config", "recipes/anomaly/tiny.yaml", "--data", data, "--output_dir", out, *more
    )  # fmt: skip


def built(folder):
    build("mvtec_ad", folder / "data", src=folder / "raw", accept_license=True)
    return folder / "data"


def refused(data, out, message, *more):
    done = recipe(data, out, *more)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr[-2000:]
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("anomaly: ")
    assert not list(out.rglob("*.safetensors"))


def test_one_good_image(tmp_path):
    tiny_anomaly.mvtec(tmp_path / "raw", {"grid": (1, 2, 2)})
    refused(built(tmp_path), tmp_path / "models", "has 1 good images to fit to")


def test_images_that_are_all_equal(tmp_path):
    tiny_anomaly.mvtec(tmp_path / "raw", {"grid": (9, 2, 2)})
    same = Image.open(tmp_path / "raw/grid/train/good/000.png")
    for i in range(9):  # other files, the same pixels
        note = PngImagePlugin.PngInfo()
        note.add_text("number", str(i))
        same.save(tmp_path / f"raw/grid/train/good/{i:03}.png", pnginfo=note)
    refused(built(tmp_path), tmp_path / "models", "features are the same, so nothing varies")


def test_more_components_than_images(tmp_path):
    tiny_anomaly.mvtec(tmp_path / "raw", {"grid": (9, 2, 2)})
    refused(built(tmp_path), tmp_path / "models", "at most 8 leave anything over", "--keep", "50", "--hold_out", "0")


def test_pixels_that_are_not_numbers_are_left_out_and_named_by_the_build(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "raw/good").mkdir(parents=True)
    for i in range(6):
        pixels = rng.uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
        pixels[3, 4] = np.nan if i == 2 else 0.5
        Image.fromarray(pixels).save(tmp_path / f"raw/good/{i}.tif")
    options = {"license": "cc0-1.0", "good": "good", "shares": "100/0/0/0"}
    build("folder", tmp_path / "data", src=tmp_path / "raw", options=options)
    head = read_head(tmp_path / "data")
    assert head["counts"]["default"]["train"]["good"] == 5
    assert "2.tif" in json.dumps(head["rejected"])


def test_images_of_many_sizes_are_fitted_to_and_measured_with_masks_of_theirs(tmp_path):
    raw = tiny_anomaly.mvtec(tmp_path / "raw", {"grid": (10, 5, 5)})
    for path in raw.rglob("*.png"):
        number = int(path.stem.removesuffix("_mask"))
        Image.open(path).resize(SIZES[number % len(SIZES)], Image.Resampling.NEAREST).save(path)
    data = built(tmp_path)
    done = recipe(data, tmp_path / "models")
    assert done.returncode == 0, done.stderr[-2000:]
    given = ["--data", data, "--out", tmp_path / "r.json", "--sheet", tmp_path / "s.png"]
    done = CliRunner().invoke(app, ["eval", "anomaly", *map(str, [tmp_path / "models", *given])])
    assert done.exit_code == 0, done.output
    grid = json.loads((tmp_path / "r.json").read_text())["categories"]["grid"]
    assert (grid["n"], grid["mapped"], grid["unreadable"]["k"]) == (10, 10, 0)
    assert "| grid | 10 |" in done.output
    assert len(load_split(data, "grid/test")) == 10

"""Pixel figures against their definitions, and `hf-inspect eval anomaly` from the command to its pictures."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from hf_inspect import cli, files
from hf_inspect.anomaly import Settings, fit
from hf_inspect.errors import DataError
from hf_inspect.metrics.pixels import PixelCounts
from hf_inspect.reports import evaluate_anomaly
from hf_inspect.tasks.heat import in_pixels, overlay
from tests import tiny_anomaly
from tests.tiny_anomaly import RANDOM, SIDE

SETTINGS = Settings(RANDOM, ("blocks.1", "blocks.2"), SIDE, pool=2, keep=0.95, smooth=2.0)
COUNTS = {"grid": (24, 8, 8), "wood": (16, 6, 6)}


def maps(seed, n=6, side=24):
    """Maps that see the masks' blots more or less, and the masks; the last image has none."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        mask = np.zeros((side, side), bool)
        for _ in range(0 if i == n - 1 else 2):
            y, x = rng.integers(0, side - 6, 2)
            mask[y : y + 5, x : x + 4] = True
        found.append((rng.gamma(2.0, 1.0, mask.shape).astype(np.float32) * (1 + 2 * mask), mask))
    return found


def by_definition(found, limit=0.3):
    """AUPRO as Bergmann et al. state it: every threshold tried, every region's overlap, the trapezium rule."""
    good = np.concatenate([scores[~mask] for scores, mask in found])
    regions = [scores[label(mask, np.ones((3, 3)))[0] == i + 1] for scores, mask in found
               for i in range(label(mask, np.ones((3, 3)))[1])]  # fmt: skip
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in found]))[::-1]
    x = np.array([0.0, *((good >= t).mean() for t in thresholds)])
    y = np.array([0.0, *(np.mean([(one >= t).mean() for one in regions]) for t in thresholds)])
    inside = np.append(x[x <= limit], limit)
    return np.trapezoid(np.append(y[x <= limit], np.interp(limit, x, y)), inside) / limit


def counted(found):
    counts = PixelCounts()
    for i, (scores, mask) in enumerate(found):
        counts.add(scores, mask, i)
    return counts.report()


@pytest.mark.parametrize("seed", range(4))
def test_pixel_figures_are_those_of_their_definitions(seed):
    found, report = maps(seed), counted(maps(seed))
    y, s = (np.concatenate([one[i].ravel() for one in found]) for i in (1, 0))
    assert report["pixel_auroc"]["value"] == pytest.approx(roc_auc_score(y, s), abs=1e-3)
    assert report["aupro"]["value"] == pytest.approx(by_definition(found), abs=3e-3)
    for key in ("pixel_auroc", "aupro"):
        assert report[key]["low"] < report[key]["value"] < report[key]["high"]
    assert counted(found[::-1])["aupro"]["value"] == pytest.approx(report["aupro"]["value"])


def test_a_perfect_map_scores_one_and_an_inverted_one_nothing():
    found = [(np.where(mask, 2.0, 1.0).astype(np.float32), mask) for _, mask in maps(0)]
    assert counted(found)["aupro"]["value"] == counted(found)["pixel_auroc"]["value"] == pytest.approx(1.0)
    inverted = counted([(np.where(mask, 1.0, 2.0).astype(np.float32), mask) for _, mask in found])
    assert inverted["pixel_auroc"]["value"] == 0.0
    assert inverted["aupro"]["value"] == 0.0


def test_without_defects_there_is_no_figure_and_a_map_below_zero_is_refused():
    report = counted([maps(0)[-1]])
    assert report["aupro"]["value"] is None
    assert "pixels of both" in report["aupro"]["method"]
    with pytest.raises(DataError, match="finite values from 0"):
        PixelCounts().add(np.full((2, 2), -1.0, np.float32), np.zeros((2, 2), bool), 0)


def test_a_map_lies_over_the_whole_image_and_heat_begins_at_low():
    spot = np.zeros((8, 8), np.float32)
    spot[1, 6] = 4.0
    large = in_pixels(spot, 80, 160)
    assert np.unravel_index(large.argmax(), large.shape) == pytest.approx((15, 130), abs=8)
    grey = np.full((80, 160, 3), 100, np.uint8)
    shown = overlay(grey, spot, 0.5, 4.0)
    assert (shown[large <= 0.5] == 100).all()
    assert shown[15, 130, 0] > 180


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), COUNTS)


@pytest.fixture(scope="module")
def models(data, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    for name in COUNTS:
        fit(SETTINGS, data, name).save(folder / name)
    return folder


def evaluated(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["hf-inspect", "eval", "anomaly", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as left:
        return left.code or 0
    return 0


def test_a_model_a_category_is_measured_with_its_maps_and_drawn(data, models, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("evaluations.json"))
    out, plot, sheet = tmp_path / "r.json", tmp_path / "p.png", tmp_path / "s.png"
    given = (models, "--data", data, "--out", out, "--plot", plot, "--sheet", sheet)
    assert evaluated(monkeypatch, *given) == 0
    table = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:] == [
        "| grid",
        "| wood",
        "| mean",
    ]
    assert results["anomaly"]["categories"] == 2
    grid = results["categories"]["grid"]
    assert (grid["mapped"], grid["regions"], grid["without_mask"]) == (16, 8, 0)
    for key in ("auroc", "average_precision", "pixel_auroc", "aupro"):
        assert 0 <= grid[key]["low"] <= grid[key]["value"] <= grid[key]["high"] <= 1
        both = [results["categories"][name][key]["value"] for name in COUNTS]
        assert results["anomaly"][key]["value"] == pytest.approx(np.mean(both))
    assert grid["pixel_auroc"]["value"] > 0.8  # the blots are where it says
    assert grid["score"]["kind"] == "quantile"
    assert results["data"]["categories"]["grid"]["evaluations_of_this_split"] == 1
    assert {p.name for p in tmp_path.glob("*.png")} == {"p-grid.png", "p-wood.png", "s.png"}
    width, height = Image.open(sheet).size
    assert width > 5 * 128
    assert height > 5 * 128
    assert evaluated(monkeypatch, *given) == 0  # read again: it is not another evaluation
    again = json.loads(out.read_text())
    assert again["data"] == results["data"]
    assert again["anomaly"] == results["anomaly"]


def test_the_sheet_names_each_image_by_where_it_came_from(data, models, tmp_path):
    _, shown = evaluate_anomaly(models, data, "test", tmp_path / "s.jsonl")
    captions = [one.caption.split("\n") for one in shown]
    assert len({tuple(lines[1:]) for lines in captions}) == len(shown) == 16  # 000.png is in every folder
    for one, (said, folder, name) in zip(shown, captions, strict=True):
        assert folder == f"{one.of.split('/')[0]}/test/{'blot' if one.mask.any() else 'good'}"
        assert said.startswith("defect, score 0." if one.mask.any() else "good, score 0.")
        raw = data.parent / "raw" / folder / name
        assert (np.asarray(Image.open(raw)) == one.rgb).all()


def test_one_category_alone_and_what_is_refused(data, models, tmp_path, monkeypatch, capsys):
    out = tmp_path / "r.json"
    assert evaluated(monkeypatch, models / "grid", "--data", data, "--split", "grid/test", "--out", out) == 0
    results = json.loads(out.read_text())
    assert results["anomaly"]["n"] == 16
    assert results["inputs"]["models"]
    for arguments, message in (
        ((models / "grid", "--split", "grid/train"), "was trained on"),
        ((models / "grid", "--split", "test"), "several configs have a split 'test'"),
        ((tmp_path, "--split", "grid/test"), "holds no anomaly model"),
    ):
        other = tmp_path / f"{message[:3]}.json"
        assert evaluated(monkeypatch, arguments[0], "--data", data, *arguments[1:], "--out", other) == 1
        assert message in capsys.readouterr().err
        assert not other.exists()


def test_a_category_without_defects_says_what_cannot_be_told(tmp_path, monkeypatch, capsys):
    data = tiny_anomaly.built_mvtec(tmp_path, {"grid": (20, 5, 0)})
    fit(SETTINGS, data, "grid").save(tmp_path / "model")
    out = tmp_path / "r.json"
    assert evaluated(monkeypatch, tmp_path / "model", "--data", data, "--out", out) == 0
    assert "AUROC needs both classes, came 5 good and 0 defect" in capsys.readouterr().out


def test_the_chunk_of_mvtec_ad_runs_end_to_end(real_images, tmp_path, monkeypatch, capsys):
    from hf_inspect.data import build

    build("mvtec_ad", tmp_path / "data", src=real_images / "mvtec_ad", accept_license=True)
    fit(SETTINGS, tmp_path / "data", "grid").save(tmp_path / "model")
    given = ("--data", tmp_path / "data", "--out", tmp_path / "r.json", "--sheet", tmp_path / "s.png")
    assert evaluated(monkeypatch, tmp_path / "model", *given) == 0
    report = files.read_json(tmp_path / "r.json")["anomaly"]
    assert (report["n"], report["mapped"]) == (14, 14)
    assert report["score"]["kind"] == "distance"  # of seven good images none is held out

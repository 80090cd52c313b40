"""The cascade's table, by its documented command: on generated parts, with tiny models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_inspect import files
from hf_inspect.data import build
from tests import raw

ROOT = Path(__file__).parent.parent
ROWS = ("edge", "vlm", "vlm_zero_shot", "baseline")


def run(data, out, cache):
    command = [sys.executable, "recipes/saec/run.py", "--config", "recipes/saec/tiny.yaml"]
    environment = os.environ | {"HF_INSPECT_CACHE": str(cache)}
    more = ["--data", str(data), "--output_dir", str(out)]
    return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=580, env=environment)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def parts(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("parts")
    source = raw.ksdd2(folder / "raw", {"train": (120, 70), "test": (80, 50)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(cache))
        options = {"shares": "55/10/15/20"}
        build("ksdd2_balanced", folder / "built", src=source, options=options, accept_license=True)
    return folder / "built"


def test_one_command_makes_the_whole_table_and_does_nothing_twice(parts, cache, tmp_path):
    done = run(parts, tmp_path / "out", cache)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    results = files.read_json(tmp_path / "out" / "results.json")
    for report in (*(results[name] for name in ROWS), *results["cascade"].values()):
        assert report["n"] == sum(results["data"]["counts"].values())
        assert {"accuracy", "escapes", "overkill", "ms_per_image"} <= set(report)
    assert set(results["cascade"]) == {"calibrated", "saec"}
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in done.stdout
    assert len(table.splitlines()) == 2 + len(ROWS) + 2
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert len(set(names)) == len(names)
    again = run(parts, tmp_path / "out", cache)
    assert again.returncode == 0
    assert "$" not in again.stdout
    assert table in again.stdout


def test_a_data_set_without_calibration_is_refused_by_name(tmp_path, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(cache))
        source = raw.ksdd2(tmp_path / "raw", {"train": (30, 8), "test": (20, 4)})
        build("ksdd2_balanced", tmp_path / "built", src=source, accept_license=True)
    done = run(tmp_path / "built", tmp_path / "out", cache)
    assert done.returncode == 1
    assert "no split calibration, validation" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_yaml_names_recipes_that_are_there():
    import yaml

    for path in (ROOT / "recipes/saec").glob("*.yaml"):
        stated = yaml.safe_load(path.read_text())
        for key in ("edge", "vlm"):
            assert (ROOT / stated[key]).is_file(), f"{path.name}: {key}"
        assert files.shipped("recipes").joinpath("saec", "run.py").is_file()

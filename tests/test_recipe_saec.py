"""The cascade's table, by its documented command: on generated parts, with tiny models."""

from pathlib import Path

import pytest

from hf_inspect import files
from hf_inspect.data import build
from tests import launch, raw

ROOT = Path(__file__).parent.parent
ROWS = ("edge", "vlm", "vlm_zero_shot", "baseline")


def run(data, out, cache, *given):
    command = ["recipes/saec/run.py", "--config", "recipes/saec/tiny.yaml", "--data", data, "--output_dir", out]
    return launch.script([*command, *given], {"HF_INSPECT_CACHE": str(cache)})


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


def commands(said):
    return [line.split()[2:4] for line in said.splitlines() if line.startswith("$")]


def test_one_command_makes_the_table_and_only_what_changed_anew(parts, cache, tmp_path):
    """The parts of a run in the order of their days: they share its folder."""
    edge, out = tmp_path / "edge.yaml", tmp_path / "out"
    edge.write_text((ROOT / "recipes/edge_classifier/tiny.yaml").read_text())
    first = run(parts, out, cache, "--edge", edge)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-3000:]
    assert len(commands(first.stdout)) == 7
    check_table(out, first.stdout)

    again = run(parts, out, cache, "--edge", edge)
    assert (again.returncode, commands(again.stdout)) == (0, [])
    assert (out / "table.md").read_text() in again.stdout

    other = run(parts, out, cache, "--edge", edge, "--escape", "0.2")
    assert other.returncode == 0, other.stderr[-3000:]
    assert commands(other.stdout) == [["calibrate", "--edge"], ["eval", "cascade"]]
    assert files.read_json(out / "cascade" / "cascade.json")["policies"]["certified"]["promise"]["escape"] == 0.2

    edge.write_text(edge.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 1.0e-3"))
    refused = run(parts, out, cache, "--edge", edge)
    assert refused.returncode == 1
    assert "learning_rate 0.003 there, 0.001 here" in refused.stderr
    assert "training_log.json was made from something else: reads." in refused.stdout
    assert len(commands(refused.stdout)) == 1


def check_table(out, said):
    results = files.read_json(out / "results.json")
    for report in (*(results[name] for name in ROWS), *results["cascade"].values()):
        assert report["n"] == sum(results["data"]["counts"].values())
        assert {"accuracy", "escapes", "overkill", "speed"} <= set(report)
    assert set(results["cascade"]) == {"certified", "saec"}
    table = (out / "table.md").read_text()
    assert table in said
    promised, whole = table.split("\n\n")
    assert [line.split("|")[1].strip() for line in promised.splitlines()[2:]] == ["edge alone", "VLM alone", "cascade"]
    names = [line.split("|")[1].strip() for line in whole.splitlines()[2:]]
    assert len(names) == len(ROWS) + 3  # each policy, and below the one without a promise its edge alone
    assert len(set(names)) == len(names)


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

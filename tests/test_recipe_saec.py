"""The cascade's table, by its documented command: on generated parts, with tiny models."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from hf_inspect import files
from hf_inspect.data import build
from tests import launch, raw

ROOT = Path(__file__).parent.parent
ROWS = ("edge", "vlm", "vlm_zero_shot", "baseline")


def run(data, out, cache, *given):
    command = ["recipes/saec/run.py", "--config", "recipes/saec/tiny.yaml", "--data", data, "--output_dir", out]
    return launch.script([*command, *given], {"HF_INSPECT_CACHE": str(cache)}, timeout=1200)


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


@pytest.mark.timeout(1500)  # ten commands, each of which imports everything: eight minutes where the disk is slow
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
    assert len(table.splitlines()) == 2 + len(ROWS) + 2 * 2  # each policy, and below it its edge alone
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
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


@pytest.fixture
def step(tmp_path, recipe):
    """A step that reads one file and adds a line to its result each time it is done."""
    read, made = tmp_path / "read.json", tmp_path / "out" / "sub" / "made.txt"
    read.write_text("{}")
    made.parent.mkdir(parents=True)
    return recipe.Step(made, [sys.executable, "-c", f"open({str(made)!r}, 'a').write('done\\n')"], [read])


@pytest.fixture
def recipe():
    spec = importlib.util.spec_from_file_location("saec_run", ROOT / "recipes/saec/run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["saec_run"] = module
    spec.loader.exec_module(module)
    return module


def times(step):
    return step.made.read_text().count("done")


def test_a_step_is_done_again_when_anything_it_was_made_from_changed(recipe, step, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        recipe.do(step, out, "data")
        assert times(step) == 1
    recipe.do(step, out, "other data")
    assert times(step) == 2
    step.reads[0].write_text("{ }")
    recipe.do(step, out, "other data")
    assert times(step) == 3
    recipe.do(dataclasses.replace(step, command=[*step.command, "more"]), out, "other data")
    assert times(step) == 4
    step.made.unlink()
    recipe.do(step, out, "other data")
    assert times(step) == 1


def test_a_result_that_nothing_is_known_of_is_made_again(recipe, step, tmp_path):
    step.made.write_text("somebody's")
    recipe.do(step, tmp_path / "out", "data")
    assert times(step) == 1


def test_a_step_that_failed_leaves_no_word_that_it_was_done(recipe, step, tmp_path):
    out = tmp_path / "out"
    recipe.do(step, out, "data")
    fails = dataclasses.replace(step, command=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match="ended with 3"):
        recipe.do(fails, out, "data")
    recipe.do(step, out, "data")
    assert times(step) == 2, "its old result counted as the new one"


def test_every_yaml_names_recipes_that_are_there():
    import yaml

    for path in (ROOT / "recipes/saec").glob("*.yaml"):
        stated = yaml.safe_load(path.read_text())
        for key in ("edge", "vlm"):
            assert (ROOT / stated[key]).is_file(), f"{path.name}: {key}"
        assert files.shipped("recipes").joinpath("saec", "run.py").is_file()

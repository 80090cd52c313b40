"""A folder of photos -> a cascade and its report by one command, as a user runs it, with tiny models."""

import inspect
import re
import runpy
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_inspect import files
from hf_inspect.training import newest_whole_checkpoint
from hf_inspect.vlm import base as demo
from hf_inspect.vlm import tiny
from tests import launch

SCRIPT = "recipes/own_parts/run.py"
TINY = ["--edge", "random:test_efficientnet", "--vlm", "tiny-base", "--side", "64", "--steps", "24"]
TINTS = {"ok": (60, 255, 60), "crack": (255, 60, 60), "dent": (60, 60, 255)}


def photo(tint, rng):
    """A smooth random picture (48, 40) in a class's tint, like no other."""
    coarse = Image.fromarray(rng.integers(60, 256, (8, 8), np.uint8))
    grey = np.asarray(coarse.resize((48, 40), Image.Resampling.BICUBIC), float)
    return Image.fromarray((grey[:, :, None] * tint / 255).astype(np.uint8))


def photos(folder, each, seed=0):
    rng = np.random.default_rng(seed)
    for name, tint in TINTS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            photo(tint, rng).save(folder / name / f"{i:04}.png")
    (folder / "ok" / "notes.txt").write_text("not a photo")
    (folder / "ok" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    photos(folder / "photos", 90)
    return folder


@pytest.fixture(scope="module")
def environment(place):
    return {"HF_INSPECT_CACHE": str(place / "cache")}


def run(place, environment, *given):
    return launch.script([SCRIPT, place / "photos", "--good", "ok", *TINY, *given], environment)


def commands(said):
    return [line.split()[1:4] for line in said.splitlines() if line.startswith("$")]


def verbs(said):
    """What was done, the data set apart, which is looked at each time."""
    named = [" ".join(words[1:]) if "hf-inspect" in words[0] else words[2].split("/")[-2] for words in commands(said)]
    assert named[0] == "data build"
    return [name.split(" /")[0] for name in named[1:]]


EVERY = [
    "edge_classifier",
    "export",
    "edge_classifier",
    "vlm_sft",
    "calibrate --edge",
    "eval cascade",
    "card",
    "report",
]


@pytest.fixture(scope="module")
def first(place, environment):
    """The documented command, killed within its first training, then given again."""
    out = place / "out"
    said = [place / name for name in ("killed.out", "killed.err")]
    killed = launch.started([SCRIPT, place / "photos", "--good", "ok", *TINY, "--out", out], environment, *said)
    while killed.is_alive() and not newest_whole_checkpoint(out / "student"):
        time.sleep(0.1)
    killed.kill()
    killed.join()
    assert newest_whole_checkpoint(out / "student"), said[0].read_text() + said[1].read_text()
    assert not (out / "student" / "training_log.json").exists(), "it was killed too late to show anything"
    done = run(place, environment, "--out", out)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return out, done.stdout


def test_a_killed_run_goes_on_and_comes_to_its_end(first):
    out, said = first
    assert [name for name in verbs(said) if name != "export"] == [name for name in EVERY if name != "export"]
    assert re.search(r"steps of 16 images, [1-9]\d* of them done -> ", said)
    assert "is dropped" not in said
    assert "the system never says good:" in said
    assert f"Read {out / 'report.html'}" in said


def test_the_same_again_does_nothing(first, place, environment):
    out, _ = first
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if "settings" not in path.parts}
    again = run(place, environment, "--out", out)
    assert (again.returncode, verbs(again.stdout)) == (0, [])
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_its_settings_follow_from_the_photos_and_are_kept(first):
    import yaml

    out, said = first
    for name in ("edge", "vlm"):
        text = (out / "settings" / f"{name}.yaml").read_text()
        assert text.startswith(f"# {name}: ")
        assert text.splitlines()[0].removeprefix("# ") in said
        settings = yaml.safe_load(text)
        log = files.read_json(out / {"edge": "student", "vlm": "adapter"}[name] / "training_log.json")
        assert log["trainer"]["learning_rate"] == settings["learning_rate"]
        assert (log["recipe"]["side"], settings["side"]) == (64, 64)


def test_its_cascade_inspects_and_its_card_is_written(first, place):
    from hf_inspect import Inspector

    out, _ = first
    verdict = Inspector.from_pretrained(out / "cascade")(place / "photos" / "crack" / "0001.png")
    assert verdict.label in ("good", "defect", "undecided")
    stated = files.read_json(out / "cascade" / "cascade.json")
    assert stated["vlm"] == {"base": {"packaged": "tiny-base"}, "adapter": {"folder": "adapter"}}
    assert stated["policies"]["certified"]["promise"] == {"escape": 0.05, "overkill": 0.1, "confidence": 0.95}
    assert stated["policies"]["certified"]["statement"] in (out / "cascade" / "README.md").read_text()


def test_its_report_says_what_went_in_what_is_promised_and_what_was_measured(first):
    out, _ = first
    page, results = (out / "report.html").read_text(), files.read_json(out / "cascade" / "results.json")
    assert "1 .txt" in page
    assert "torn.png" in page
    assert f"{100 * results['undecided']['cascade']['value']:.0f} go to a person" in page
    assert len(re.findall(r"more are wanted, about \d+ more photos of (?:defects|good parts) in all", page)) >= 1
    for name, rate in results["undecided"].items():
        assert f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%}; {rate['k']} of {rate['n']})" in page, (
            name
        )
    assert page.count("data:image/png;base64,") >= 1
    assert not re.search(r'(?:src|href)="(?!data:)', page), "it needs a file beside it"
    assert str(out) not in page


@pytest.fixture
def copied(first, tmp_path):
    """The folder of the first run at another place, for what changes it."""
    return Path(shutil.copytree(first[0], tmp_path / "copied"))


def test_another_promise_is_a_new_certificate_and_no_new_training(copied, place, environment):
    other = run(place, environment, "--out", copied, "--escape", "0.5", "--overkill", "0.5")
    assert other.returncode == 0, other.stderr[-3000:]
    assert verbs(other.stdout) == EVERY[4:]
    page = (copied / "report.html").read_text()
    assert "never says good" not in page.split("The promise in full")[0]
    assert "at most\n50.0% of the defects good" in page


def test_new_photos_begin_its_trainings_anew_and_the_edge_may_be_alone(copied, place, environment, tmp_path):
    more, rng = shutil.copytree(place / "photos", tmp_path / "photos"), np.random.default_rng(9)
    for i in range(12):
        photo(TINTS["dent"], rng).save(more / "dent" / f"new{i}.png")
    done = launch.script([SCRIPT, more, "--good", "ok", *TINY, "--vlm", "none", "--out", copied], environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "training_log.json was made from something else: data " in done.stdout
    assert "is dropped" in done.stdout
    assert [name for name in verbs(done.stdout) if name != "export"] == [EVERY[0], *EVERY[4:]]
    assert "no vision-language model" in (copied / "report.html").read_text()


def test_what_sees_for_each_base_is_of_its_tower_s_architecture(monkeypatch):
    monkeypatch.setattr("sys.argv", [SCRIPT])
    eyes = runpy.run_path(str(Path(__file__).parent.parent / SCRIPT))["EYES"]
    named = {"tiny-base": eyes["tiny-base"].removeprefix("random:").partition(".")[0]}
    named["demo-base"] = "tf_efficientnet_" + eyes["demo-base"].split("-")[1]
    for base, module in (("tiny-base", tiny), ("demo-base", demo)):
        assert f'"{named[base]}"' in inspect.getsource(module), f"the student that starts {base}'s tower does not fit"


def test_a_base_that_needs_settings_of_its_own_is_refused_by_name(place, environment):
    done = run(place, environment, "--out", place / "other", "--vlm", "org/large")
    assert done.returncode == 1
    assert "own_parts: --vlm org/large is not known here; give demo-base, tiny-base or none." in done.stderr
    assert "Traceback" not in done.stderr

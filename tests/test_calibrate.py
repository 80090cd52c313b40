"""What is fitted, on a small data set: which split sets what, whose answers are kept, what nobody may have seen."""

import dataclasses
import functools
import random
import shutil

import numpy as np
import pytest

from hf_inspect import files, images, metrics
from hf_inspect.calibrate import calibrate
from hf_inspect.cascade import CalibrationScores, Promise, complexity, fit_certified, fit_composite, fit_saec
from hf_inspect.data import count, load_split, read_manifest, read_task, record_history, write_history
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.prompts import Question
from hf_inspect.reading import Reading
from hf_inspect.reports import evaluate_vlm
from hf_inspect.runtime import INSPECT, TRAINED_ON, Engine
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.scoring import read_rows
from hf_inspect.vlm import VLM, Asking
from tests.raw import pairs
from tests.scripted import brightness_engine

RISK = {"escape": 0.2, "overkill": 0.3, "confidence": 0.8}
SPLITS = ("validation", "calibration")


class Own:
    """A VLM whose answer is a hash of the pixels: no two images share one, none is the edge's."""

    def __init__(self, task, history=None):
        self.task, self.history, self.identity, self.reading = task, history or History(), "own", None

    def severity(self, rgb):
        return random.Random(int(rgb.astype(np.int64).sum()) * 7919 + int(rgb[0, 0, 0])).random()

    def predict(self, rgbs):
        found = []
        for severity in map(self.severity, rgbs):
            share = {self.task.good[0]: 1 - severity, self.task.defects[0]: severity}
            found.append(Prediction(severity, tuple(share.get(name, 0.0) for name in self.task.classes)))
        return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A good part and one with a dent of each of 250 numbers, which are one group: 38 to calibrate on."""
    return pairs(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def edge(data, tmp_path_factory):
    return brightness_engine(tmp_path_factory.mktemp("edge") / "edge", task=read_task(data))


@pytest.fixture
def base(tmp_path):
    """What looks like the folder of a VLM that was fine-tuned whole."""
    files.write_json(tmp_path / "base" / "config.json", {"architectures": ["TinyForConditionalGeneration"]})
    files.write_bytes(tmp_path / "base" / "model.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    return tmp_path / "base"


@pytest.fixture
def with_vlm(data, edge, base, tmp_path, monkeypatch):
    """A calibration with `Own` for a VLM."""

    def run(vlm=None, **settings):
        vlm = vlm or Own(read_task(data))
        monkeypatch.setattr(VLM, "from_pretrained", lambda *given: vlm)
        return calibrate(edge, (base, None), data, tmp_path / "cascade", **RISK | settings)

    return run


def test_parts_that_were_made_of_images_read_otherwise_are_no_cascade(data, with_vlm, tmp_path):
    vlm = Own(read_task(data))
    vlm.reading = Reading(12)
    with pytest.raises(DataError, match="edge was made of 8-bit images alone, its VLM of 12 bits of 16-bit images"):
        with_vlm(vlm)
    assert not (tmp_path / "cascade").exists()


def rows_of(cascade, split):
    return [row for row in read_rows(cascade / "calibration.jsonl") if row["split"] == split]


def test_each_split_sets_its_own_policy_and_every_answer_is_kept(data, edge, with_vlm, tmp_path):
    stated, engine, vlm = with_vlm(), Engine.from_pretrained(edge), Own(read_task(data))
    assert stated == files.read_json(tmp_path / "cascade" / "cascade.json")
    found = {}
    for split in SPLITS:
        rows, kept = load_split(data, split), rows_of(tmp_path / "cascade", split)
        assert [row["source"] for row in kept] == [row["path"] for row in rows["image"]]
        assert [row["group"] for row in kept] == rows["group"]
        assert [row["label"] == "defect" for row in kept] == rows["label"]
        rgbs = [images.load(row["bytes"]).rgb for row in rows["image"]]
        severity = [one.severity for one in engine.predict(rgbs)]
        assert [row["edge"]["severity"] for row in kept] == pytest.approx(severity, abs=1e-6)
        assert [row["vlm"]["severity"] for row in kept] == list(map(vlm.severity, rgbs))
        assert [row["complexity"] for row in kept] == list(map(complexity, rgbs))
        answers = ([row[name]["severity"] for row in kept] for name in ("edge", "vlm"))
        found[split] = (*answers, [int(label) for label in rows["label"]], [str(group) for group in rows["group"]])
    assert len(set(found["calibration"][3])) < len(found["calibration"][3]), "no group is of two parts"
    own, of = ([np.array(column) for column in found[split]] for split in SPLITS)
    sizes = tuple(len(set(of[3][of[2] == label])) for label in (1, 0))
    composite = fit_composite(*own, Promise(*RISK.values()), sizes)
    assert stated["policies"] == {
        "certified": fit_certified(composite, *of, Promise(*RISK.values())).to_dict(),
        "saec": fit_saec([row["complexity"] for row in rows_of(tmp_path / "cascade", "validation")]).to_dict(),
    }
    assert stated["policies"]["certified"] != fit_certified(composite, *own, Promise(*RISK.values())).to_dict()


def test_the_composite_does_not_know_the_calibration_answers(data, with_vlm, tmp_path, monkeypatch):
    """Another VLM on the calibration split alone: the same composite, other limits."""
    composites, limits, given = [], [], CalibrationScores.from_rows
    for turn in (False, True):
        monkeypatch.setattr(CalibrationScores, "from_rows", functools.partial(turned, given, turn))
        fitted = with_vlm()["policies"]["certified"]
        composites.append(fitted["composite"])
        limits.append(fitted["limits"])
        shutil.rmtree(tmp_path / "cascade")
    assert composites[0] == composites[1]
    assert limits[0] != limits[1]


def turned(given, turn, rows, split="calibration"):
    scores = given(rows, split)
    return (
        dataclasses.replace(scores, edge=1 - scores.edge, vlm=1 - scores.vlm) if turn and split == SPLITS[1] else scores
    )


def test_it_states_its_data_task_parts_and_files(data, edge, base, with_vlm, tmp_path):
    stated = with_vlm()
    assert stated["calibration"] == {
        "data": read_manifest(data)["fingerprint"], "fold": None, "scores": "calibration.jsonl", "not_scored": [],
        "images": {split: count(data, split) for split in SPLITS},
    }  # fmt: skip
    assert (stated["version"], stated["policy"], stated["task"]) == (3, "certified", read_task(data).to_dict())
    assert (stated["edge"], stated["vlm"]) == ({"folder": "edge"}, {"base": {"folder": "base"}, "adapter": None})
    assert stated["files"]["base/model.safetensors"] == files.sha256(base / "model.safetensors")
    assert stated["files"]["calibration.jsonl"] == files.sha256(tmp_path / "cascade" / "calibration.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "cascade"}, "scores lie beside it"


def test_kinds_that_are_not_calibrated_on_are_named_in_the_statement(data, edge, tmp_path):
    lacking = shutil.copytree(data, tmp_path / "lacking")
    manifest = read_manifest(data)
    assert manifest["absent"]["calibration"] == []
    files.write_json(lacking / "manifest.json", manifest | {"absent": {"calibration": ["bent", "torn"], "test": ["x"]}})
    fitted = calibrate(edge, None, lacking, tmp_path / "cascade")["policies"]["certified"]
    whole = calibrate(edge, None, data, tmp_path / "whole")["policies"]["certified"]
    sentence = (
        "calibration has no image of bent, torn: what is promised of thresholds set on it is not promised of them."
    )
    assert fitted == whole | {"statement": f"{whole['statement']} {sentence}"}
    files.write_json(lacking / "manifest.json", {key: manifest[key] for key in manifest if key != "absent"})
    with pytest.raises(DataError, match="what its splits lack; build it again"):
        calibrate(edge, None, lacking, tmp_path / "other")


def test_the_risks_asked_for_are_those_stated(with_vlm):
    asked = {"escape": 0.25, "overkill": 0.35, "confidence": 0.7}
    fitted = with_vlm(**asked)["policies"]["certified"]
    assert fitted["promise"] == asked


def test_the_risks_are_the_documented_ones_where_none_is_asked_for(data, edge, tmp_path):
    fitted = calibrate(edge, None, data, tmp_path / "cascade")["policies"]["certified"]
    assert fitted["promise"] == {"escape": 0.05, "overkill": 0.10, "confidence": 0.95}


@pytest.mark.parametrize("split", ["calibration", "validation", "test"])
def test_a_vlm_may_have_seen_anything_but_the_calibration_split(data, with_vlm, tmp_path, split):
    vlm = Own(read_task(data), record_history(data, {split: None}))
    if split == "calibration":
        with pytest.raises(LeakageError, match=r"(\d+) of \1 images .* vlm or an ancestor of it"):
            with_vlm(vlm)
        assert not (tmp_path / "cascade").exists()
    else:
        with_vlm(vlm)


def test_an_edge_that_has_seen_the_calibration_split_is_refused(data, edge, tmp_path):
    seen = shutil.copytree(edge, tmp_path / "seen")
    write_history(seen, record_history(data, {"calibration": None}))
    info = files.read_json(seen / INSPECT)
    info["files"][TRAINED_ON] = files.sha256(seen / TRAINED_ON)
    files.write_json(seen / INSPECT, info)
    with pytest.raises(LeakageError, match="edge or an ancestor"):
        calibrate(seen, None, data, tmp_path / "cascade")


def test_a_vlm_of_other_classes_is_refused(data, with_vlm):
    other = TaskSpec.of(read_task(data).classes, ["dent"])
    with pytest.raises(DataError, match="answer different questions"):
        with_vlm(Own(other))


def test_an_image_that_cannot_be_read_is_named_and_left_out(data, edge, tmp_path, monkeypatch):
    load = images.load
    bad = {split: load_split(data, split)[3]["image"] for split in SPLITS}
    spoilt = {image["bytes"] for image in bad.values()}
    monkeypatch.setattr(
        "hf_inspect.scoring.images.load", lambda source, *more: load(source[:40] if source in spoilt else source, *more)
    )
    stated = calibrate(edge, None, data, tmp_path / "cascade")
    named = {(one["split"], one["source"]) for one in stated["calibration"]["not_scored"]}
    assert named == {(split, image["path"]) for split, image in bad.items()}
    assert stated["calibration"]["images"] == {split: count(data, split) - 1 for split in SPLITS}
    assert all("error" in rows_of(tmp_path / "cascade", split)[3] for split in SPLITS)


def test_a_killed_calibration_goes_on(data, with_vlm, tmp_path):
    class Dies(Own):
        def predict(self, rgbs):
            if len(rgbs) + self.asked > 70:
                raise KeyboardInterrupt
            self.asked += len(rgbs)
            return super().predict(rgbs)

    dying = Dies(read_task(data))
    dying.asked = 0
    with pytest.raises(KeyboardInterrupt):
        with_vlm(dying)
    kept = {path.name for path in tmp_path.glob("*.scores.jsonl")}
    assert kept >= {"cascade.validation.scores.jsonl"}
    with_vlm()
    assert not list(tmp_path.glob("*.scores.jsonl"))


class Knowing(Own):
    """Right on four images in five, and too sure of itself."""

    question, asking = Question("", "Which?", TaskSpec.of(["dent", "good"], ["good"])), Asking().with_views(1)

    def __init__(self, data, splits):
        super().__init__(read_task(data))
        rows = [row for split in splits for row in load_split(data, split)]
        self.defect = {Own.severity(self, images.load(row["image"]["bytes"]).rgb): row["label"] for row in rows}

    def severity(self, rgb):
        known = super().severity(rgb)
        return abs(self.defect[known] - (0.98 if known < 0.2 else 0.02))


def test_a_temperature_is_fitted_on_validation_and_measured_on_the_split(data, base, tmp_path, monkeypatch):
    vlm, splits = Knowing(data, ("validation", "test")), {}
    monkeypatch.setattr(VLM, "from_pretrained", lambda *given, **more: vlm)
    found = evaluate_vlm(str(base), None, data, "test", tmp_path / "scores.jsonl")["vlm"]["calibration"]
    for split, name in (("test", "scores.jsonl"), ("validation", "scores.validation.jsonl")):
        rows = read_rows(tmp_path / name)[1:]
        classes = np.array([vlm.task.index(row["class"]) for row in rows])
        p = np.array([row["vlm"]["probabilities"] for row in rows])
        splits[split] = (p, classes, metrics.fit_temperature(p, classes))
    p, classes, own = splits["test"]
    assert found["fitted_on"] == {"split": "validation", "n": count(data, "validation"), "not_scored": []}
    assert found["temperature"] == splits["validation"][2] != pytest.approx(own, rel=1e-3)
    assert found["temperature"] > 1.1, "it is too sure"
    for key, scaled in (("error", p), ("error_with_temperature", metrics.with_temperature(p, found["temperature"]))):
        right = scaled.argmax(1) == classes
        assert found[key] == pytest.approx(metrics.reliability(right, scaled.max(1))["calibration_error"])
    assert found["error_with_temperature"] < found["error"]

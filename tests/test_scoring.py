"""The one loop over images: any order of classes, streamed, gone on from, and never another image's answer."""

import json
import random

import numpy as np
import pytest

from hf_inspect import files, images, scoring
from hf_inspect.data import load_split, read_manifest
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, History, Prediction, TaskSpec
from hf_inspect.scoring import read_rows, run
from tests.raw import built_parts

NAMES = ("sauber $1$", "<b>Riß", '| "crack", `x`')  # the first is the good one


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three classes of odd names, 240 images."""
    folder = tmp_path_factory.mktemp("parts")
    return built_parts(folder, NAMES[0], **dict(zip(NAMES, (120, 60, 60), strict=True)))


class Looking:
    """A predictor whose answer is a hash of the pixels, so that each image's is its own; counts what it saw."""

    history, reading = History(), None

    def __init__(self, task, dies_at=None):
        self.task, self.seen, self.dies_at = task, 0, dies_at

    @property
    def identity(self):
        return "looking"

    def p(self, rgb):
        """Probabilities by class name."""
        found = random.Random(int(rgb.astype(np.int64).sum()) * 7919 + int(rgb[0, 0, 0]))
        weights = {name: found.random() for name in sorted(self.task.classes)}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    def predict(self, images):
        self.seen += len(images)
        if self.dies_at is not None and self.seen > self.dies_at:
            raise KeyboardInterrupt
        rows = [self.p(rgb) for rgb in images]
        return [
            Prediction(
                sum(row[name] for name in sorted(self.task.defects)), tuple(row[name] for name in self.task.classes)
            )
            for row in rows
        ]


@pytest.fixture
def task(parts):
    return TaskSpec.from_dict(read_manifest(parts)["task"], "manifest.json")


def test_each_image_has_its_own_answer_and_its_own_group(parts, task, tmp_path):
    found = run({"one": Looking(task)}, parts, "train", tmp_path / "s.jsonl")
    rows = load_split(parts, "train")
    assert found.groups.tolist() == rows["group"]
    assert len(set(rows["group"])) > 1
    assert rows["group"] != list(range(len(rows)))
    names = rows.features["class_name"].names
    assert [task.classes[i] for i in found.classes] == [names[i] for i in rows["class_name"]]
    for i, row in enumerate(rows["image"]):
        wanted = Looking(task).p(images.load(row["bytes"]).rgb)
        assert found.answers["one"].probabilities[i] == pytest.approx([wanted[name] for name in task.classes])


def test_a_model_s_own_order_of_classes_changes_nothing(parts, task, tmp_path):
    orders = [task.classes, task.classes[::-1], (task.classes[1], task.classes[2], task.classes[0])]
    found = [
        run({"m": Looking(TaskSpec.of(order, task.good))}, parts, "train", tmp_path / f"{i}.jsonl")
        for i, order in enumerate(orders)
    ]
    for other in found[1:]:
        assert np.array_equal(found[0].answers["m"].severity, other.answers["m"].severity)
        assert np.array_equal(found[0].answers["m"].probabilities, other.answers["m"].probabilities)
        assert np.array_equal(found[0].labels, other.labels)


@pytest.mark.parametrize("other", [BINARY, "turned"])
def test_a_predictor_of_another_task_is_refused_with_both_printed(parts, task, tmp_path, other):
    other = TaskSpec.of(task.classes, task.defects) if other == "turned" else other
    with pytest.raises(DataError, match="answer different questions") as refused:
        run({"m": Looking(other)}, parts, "train", tmp_path / "s.jsonl")
    assert str(task) in str(refused.value)
    assert str(other) in str(refused.value)


@pytest.mark.parametrize("dies_at", [1, 70, 130])
def test_a_killed_run_goes_on_and_asks_no_image_twice(parts, task, tmp_path, dies_at):
    whole = run({"m": Looking(task)}, parts, "train", tmp_path / "whole.jsonl", complexity=True)
    out, dying = tmp_path / "s.jsonl", Looking(task, dies_at)
    with pytest.raises(KeyboardInterrupt):
        run({"m": dying}, parts, "train", out, complexity=True)
    kept = len(read_rows(out)) - 1
    with out.open("a") as file:
        file.write('{"source": "tor')  # torn by the kill
    again = Looking(task)
    found = run({"m": again}, parts, "train", out, complexity=True)
    assert again.seen == len(whole.sources) - kept
    assert found.sources == whole.sources
    assert np.array_equal(found.answers["m"].severity, whole.answers["m"].severity)
    assert np.array_equal(found.complexity, whole.complexity)
    assert len(read_rows(out)) == len(whole.sources) + 1


def test_scores_of_another_run_are_refused(parts, task, tmp_path):
    out = tmp_path / "s.jsonl"
    run({"m": Looking(task)}, parts, "train", out)
    other = Looking(task)
    for change, models, split in (
        ("split", {"m": Looking(task)}, "validation"),
        ("predictors", {"n": Looking(task)}, "train"),
        ("complexity", {"m": Looking(task)}, "train"),
    ):
        with pytest.raises(DataError, match=f"another run \\(other .*{change}"):
            run(models, parts, split, out, complexity=change == "complexity")
    type(other).identity = property(lambda self: "another")
    try:
        with pytest.raises(DataError, match="other predictors"):
            run({"m": other}, parts, "train", out)
    finally:
        type(other).identity = property(lambda self: "looking")
    out.write_text("[1]\n")
    with pytest.raises(DataError, match="no scores that can be gone on from"):
        run({"m": Looking(task)}, parts, "train", out)


def test_an_image_that_cannot_be_read_is_a_row_with_its_reason(parts, task, tmp_path, monkeypatch):
    load, bad = images.load, load_split(parts, "train")[5]["image"]

    def spoiled(source, *more):
        return load(source[:40] if source == bad["bytes"] else source, *more)

    monkeypatch.setattr(scoring.images, "load", spoiled)
    found = run({"m": Looking(task)}, parts, "train", tmp_path / "s.jsonl")
    rows = list(found.rows())
    assert found.numbers.tolist() == [i for i in range(len(rows)) if i != 5]
    assert len(found.classes) == len(rows) - 1
    assert [one["source"] for one in found.not_scored] == [bad["path"]]
    assert "damaged image" in found.not_scored[0]["reason"]
    assert "m" not in rows[5]


class Failing(Looking):
    """Fails at every batch with one of some images in it."""

    def __init__(self, task, at):
        super().__init__(task)
        self.at = at

    def predict(self, images):
        if any(int(rgb.astype(np.int64).sum()) in self.at for rgb in images):
            raise RuntimeError("no memory\nleft")
        return super().predict(images)


def test_a_predictor_that_fails_at_an_image_loses_no_other_s_answer(parts, task, tmp_path):
    rows = load_split(parts, "train")
    sums = [int(images.load(one["bytes"]).rgb.astype(np.int64).sum()) for one in rows["image"]]
    bad = [3, 70]
    found = run({"m": Failing(task, {sums[i] for i in bad})}, parts, "train", tmp_path / "failing.jsonl")
    whole = run({"m": Looking(task)}, parts, "train", tmp_path / "whole.jsonl")
    severity = found.answers["m"].severity
    assert np.flatnonzero(np.isnan(severity)).tolist() == bad
    others = np.delete(np.arange(len(severity)), bad)
    assert severity[others].tolist() == whole.answers["m"].severity[others].tolist()
    assert list(found.rows())[3]["m"] == {"unreadable": "RuntimeError: no memory left"}


def test_the_file_holds_severities_and_probabilities_to_the_last_bit(parts, task, tmp_path):
    out = tmp_path / "s.jsonl"
    found = run({"m": Looking(task)}, parts, "validation", out)
    head, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert head["task"] == task.to_dict()
    assert head["predictors"] == {"m": "looking"}
    for i, row in enumerate(rows):
        assert row["m"]["severity"] == found.answers["m"].severity[i]
        assert row["m"]["probabilities"] == found.answers["m"].probabilities[i].tolist()
        assert row["label"] == task.disposition(row["class"])
    assert files.read_text(out).isascii()

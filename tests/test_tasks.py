"""The vocabulary that every task shares: classes in any order, under any names, mean the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import metrics
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, History, Part, Prediction, Source, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.classification import compare, decode, draw, measure, of_probabilities

NAMES = st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=7, unique=True)


@st.composite
def specs(draw):
    """A spec with a good and a defect class, of any names, and an order of its classes."""
    names = draw(NAMES)
    good = draw(st.sets(st.sampled_from(names), min_size=1, max_size=len(names) - 1))
    return TaskSpec.of(names, good), draw(st.permutations(range(len(names))))


def permuted(task, order):
    return TaskSpec(tuple(task.classes[i] for i in order), tuple(task.dispositions[i] for i in order))


@given(specs())
def test_a_spec_survives_json_and_knows_its_partner_in_any_order(drawn):
    task, order = drawn
    other = permuted(task, order)
    assert TaskSpec.from_dict(json.loads(json.dumps(task.to_dict())), "x.json") == task
    assert task.same_as(other)
    task.refuse_other(other, "one", "the other")
    assert [other.classes[i] for i in task.order_in(other)] == list(task.classes)
    assert set(task.good) | set(task.defects) == set(task.classes)


@settings(max_examples=50)
@given(specs(), st.integers(0, 2**32 - 1))
def test_the_order_of_classes_changes_no_answer_and_no_figure(drawn, seed):
    """Logits permuted with the spec: equal severities to the last bit, and equal figures of results.json."""
    task, order = drawn
    other, rng = permuted(task, order), np.random.default_rng(seed)
    logits = rng.normal(0, 3, (23, len(order)))
    one, two = decode(logits, task), decode(logits[:, order], other)
    assert [a.severity for a in one] == [b.severity for b in two]
    for a, b in zip(one, two, strict=True):
        assert dict(zip(task.classes, a.probabilities, strict=True)) == dict(
            zip(other.classes, b.probabilities, strict=True)
        )
        for side in ("good", "defect"):
            assert a.likeliest(task, side) == b.likeliest(other, side)
    classes = rng.integers(0, len(order), 23)
    in_other = np.array([other.index(task.classes[i]) for i in classes])
    reports = [
        measure(spec, ids, np.array([x.severity for x in said]), np.array([x.probabilities for x in said]))
        for spec, ids, said in ((task, classes, one), (other, in_other, two))
    ]
    for key in ("n", "accuracy", "macro_f1", "auroc", "escapes", "overkill", "classes", "reliability"):
        assert reports[0][key] == reports[1][key], key
    counted = [
        {(row, column): n for row, of_row in zip(r["confusion"]["rows"], r["confusion"]["counts"], strict=True)
         for column, n in zip(r["confusion"]["columns"], of_row, strict=True)}
        for r in reports
    ]  # fmt: skip
    assert counted[0] == counted[1]
    moved = [decode(logits + rng.normal(0, 0.5, logits.shape) * (rng.random((23, 1)) < 0.5), task)]
    back = [replace(a, probabilities=tuple(a.probabilities[i] for i in order)) for a in moved[0]]
    assert compare(task, classes, one, moved[0]) == compare(other, in_other, two, back)


def test_severity_is_of_the_defects_whatever_they_are_called():
    task = TaskSpec.of(["broken", "ok", "scratched"], ["ok"])
    found = decode(np.log([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]]), task)
    assert [one.severity for one in found] == pytest.approx([0.8, 0.1])
    assert found[0].likeliest(task, "defect") == ("broken", pytest.approx(0.7))
    assert found[0].likeliest(task, "good") == ("ok", pytest.approx(0.2))
    assert str(task) == "classification into broken (defect), ok (good), scratched (defect)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskSpec((), ()), "0 classes"),
        (lambda: TaskSpec(("a", "a"), ("good", "defect")), "names a class twice"),
        (lambda: TaskSpec(("a", " "), ("good", "defect")), "is called ' '"),
        (lambda: TaskSpec(("a", "b"), ("good", "bad")), "is 'bad'"),
        (lambda: TaskSpec(("a", "b"), ("good", "defect"), "poetry"), "kind 'poetry'"),
        (lambda: TaskSpec.of(["a", "b"], ["c"]), "c is said to be good"),
        (lambda: TaskSpec.from_dict(None, "manifest.json"), r"manifest\.json does not say which classes there are"),
        (lambda: TaskSpec.from_dict({"labels": ["good", "defect"]}, "x"), "made by an older version: make it again"),
        (lambda: TaskSpec.of(["a", "b"], ["a", "b"]).refuse_one_sided("A student"), "A student needs a good and a"),
        (lambda: BINARY.index("crack"), "'crack' is no class of"),
        (lambda: Prediction(float("nan")), "finite"),
        (lambda: Prediction(None), "or a reason"),
        (lambda: Prediction(0.5, unreadable="why"), "not both"),
        (lambda: Prediction(0.5, (0.5, 0.6)), "sum to 1"),
        (lambda: decode(np.zeros((2, 3)), BINARY), "2 classes are wanted"),
        (lambda: decode(np.full((1, 2), np.nan), BINARY), "not finite"),
    ],
)
def test_what_is_no_task_and_no_answer_is_said(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_specs_of_two_tasks_are_refused_with_both_printed():
    turned = TaskSpec.of(["good", "defect"], ["defect"])
    with pytest.raises(DataError) as refused:
        BINARY.refuse_other(turned, "The data set", "the edge")
    for text in ("The data set", "the edge", str(BINARY), str(turned)):
        assert text in str(refused.value)


def test_an_answer_that_could_not_be_read_is_wrong_on_its_side():
    task = TaskSpec.of(["ok", "crack"], ["ok"])
    report = measure(
        task, np.array([0, 0, 1, 1]), np.array([0.1, np.nan, 0.9, np.nan]),
        np.array([[0.9, 0.1], [np.nan] * 2, [0.1, 0.9], [np.nan] * 2]),
    )  # fmt: skip
    counts = {
        name: (report[name]["k"], report[name]["n"]) for name in ("accuracy", "escapes", "overkill", "unreadable")
    }
    assert counts == {"accuracy": (2, 4), "escapes": (1, 2), "overkill": (1, 2), "unreadable": (2, 4)}
    assert report["confusion"] == {"rows": ["ok", "crack"], "columns": ["ok", "crack", "unreadable"],
                                   "counts": [[1, 0, 1], [0, 1, 1]]}  # fmt: skip


def test_a_flip_is_a_class_or_a_side():
    task = TaskSpec.of(["ok", "crack", "dent"], ["ok"])
    before = of_probabilities(np.array([[0.1, 0.5, 0.4], [0.52, 0.3, 0.18], [0.9, 0.05, 0.05]]), task)
    after = of_probabilities(np.array([[0.1, 0.4, 0.5], [0.48, 0.34, 0.18], [0.9, 0.05, 0.05]]), task)
    report = compare(task, np.array([1, 0, 0]), before, after)
    assert report["flips"] == {"k": 2, "n": 3}  # crack became dent; good became a defect
    assert report["max_change"] == pytest.approx(0.1)
    assert [report["accuracy"][when]["k"] for when in ("before", "after")] == [3, 2]


def test_macro_f1_is_the_mean_over_classes_and_covers_itself():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 300, p=[0.7, 0.2, 0.08, 0.02])
    said = np.where(rng.random(300) < 0.8, y, rng.integers(-1, 4, 300))
    found = metrics.class_report(y, said, list("abcd"))["macro_f1"]
    by_hand = []
    for c in range(4):
        right, named, there = ((y == c) & (said == c)).sum(), (said == c).sum(), (y == c).sum()
        by_hand.append(2 * right / (named + there))
    assert found["value"] == pytest.approx(np.mean(by_hand))
    assert found["low"] < found["value"] < found["high"]
    assert metrics.class_report([], [], ["a", "b"])["macro_f1"]["value"] is None
    alone = metrics.class_report([1], [1], ["a", "b"])["macro_f1"]
    assert (alone["low"], alone["high"]) == (pytest.approx(2 * 0.025 / 1.025), 1.0)  # one part: 0.025 to 1 right


def test_the_confusion_matrix_is_drawn_to_the_letter(tmp_path):
    names = ["gut, $ok$", "<b>Riß</b>", "a very long name of a class that nobody can read", '| "x" |\n']
    task = TaskSpec.of(names, names[:1])
    p = np.eye(4)[[0, 1, 2, 3, 3]] * 0.9 + 0.025
    figures = measure(task, np.array([0, 1, 2, 3, 0]), task.severity(p), p)
    draw(figures, tmp_path / "confusion.png")
    again = tmp_path / "again.png"
    TASKS[task.kind].draw(figures, again)
    assert again.read_bytes() == (tmp_path / "confusion.png").read_bytes()
    assert min(Image.open(again).size) >= 400


def test_a_history_is_the_union_of_its_ancestors():
    a = History((Source("a", "1", "CC-BY-NC-4.0", 2),), (("x", "y", "z"), ("u", "v", "w")), ("somebody's",))
    b = History((Source("b", "2", "Apache-2.0", 1),), (("x", "y", "z"), ("p", "q", "r")))
    both = b.union(a, a)
    assert both.fingerprints == ("2", "1")
    assert both.licences == ("Apache-2.0", "CC-BY-NC-4.0")
    assert both.unknown == ("somebody's",)
    assert set(both.signatures) == set(a.signatures) | set(b.signatures)
    assert len(both.signatures) == 3
    assert History.from_dict(json.loads(json.dumps(both.to_dict())), "trained_on.json") == both
    for old in ({"fingerprint": "f", "licence": "x", "thumbs": "", "images": []}, None, {"format": 2}):
        with pytest.raises(DataError, match="train the model again"):
            History.from_dict(old, "trained_on.json")


@pytest.mark.parametrize(
    "value",
    [None, "edge", {}, {"folder": ""}, {"folder": 3}, {"hub": "org/name"}, {"folder": "a", "hub": "b"}, {"path": "x"}],
)
def test_a_part_is_one_of_three_things(value):
    with pytest.raises(DataError, match=r"cascade\.json names a part as"):
        Part.from_dict(value, "cascade.json")


@pytest.mark.parametrize("name", ["/edge", "../edge", "a/../../edge"])
def test_a_part_lies_inside_its_artefact(name):
    with pytest.raises(DataError):
        Part("folder", name)

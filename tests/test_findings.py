"""Things found in images: the value, and what decodes, compares and draws them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_inspect.errors import DataError
from hf_inspect.schema import DETECTION, SEGMENTATION, Finding, Meaning, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import Decoding, box_overlap, drawn, severity_of

TASK = TaskSpec(("scratch", "label", "dent"), ("defect", "good", "defect"), DETECTION)
MASKED = TaskSpec(TASK.classes, TASK.dispositions, SEGMENTATION)
HOW = Decoding(least=0.1).to_dict()


@st.composite
def boxes(draw, side=64.0):
    x0, y0 = (draw(st.floats(0, side - 2)) for _ in "xy")
    return x0, y0, draw(st.floats(x0 + 0.5, side)), draw(st.floats(y0 + 0.5, side))


@settings(max_examples=60)
@given(boxes(), st.integers(0, 2**32 - 1))
def test_a_finding_survives_json_with_its_mask(box, seed):
    plain = Finding("dent", 0.25, box)
    mask = np.random.default_rng(seed).random(plain.extent) > 0.5
    found = Finding("dent", 0.25, box, mask)
    back = Finding.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back == found
    assert (back.mask == mask).all()
    assert back.mask_in(64, 64).sum() == mask.sum()
    assert Finding.from_dict(plain.to_dict()).mask is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Finding("dent", 0.5, (3.0, 0.0, 3.0, 1.0)), "x0 < x1"),
        (lambda: Finding("dent", 0.5, (-1.0, 0.0, 3.0, 1.0)), "inside the image"),
        (lambda: Finding("dent", 0.5, (0.0, 0.0, float("nan"), 1.0)), "x0 < x1"),
        (lambda: Finding("dent", 1.5, (0.0, 0.0, 1.0, 1.0)), r"\[0, 1\]"),
        (lambda: Finding("dent", 0.5, (0.0, 0.0, 2.5, 1.0), np.ones((1, 2), bool)), "touches"),
        (lambda: Finding.from_dict({"class": "dent", "box": [0, 0, 1]}), "no finding"),
        (lambda: Decoding(least=2), "least"),
        (lambda: Decoding.from_dict({"least": 0.1}, "inspect.json"), "inspect.json"),
        (lambda: TaskSpec(("a",), ("good",), DETECTION).refuse_one_sided("A detector"), "good ones alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(make, said):
    with pytest.raises(DataError, match=said):
        make()


def test_an_image_without_findings_is_good_and_a_good_thing_is_no_defect():
    TASK.refuse_one_sided("A detector")
    TaskSpec(("wire",), ("defect",), DETECTION).refuse_one_sided("A detector")
    label, dent = (Finding(name, 0.9, (0.0, 0.0, 2.0, 2.0)) for name in ("label", "dent"))
    assert severity_of([], TASK, 0.01) == 0.0
    assert severity_of([label], TASK, 0.01) == 0.0
    assert severity_of([label, dent], TASK, 0.01) == 0.9
    meaning = Meaning("probability", 10, 10, "validation", slope=2.0, intercept=1.0)
    told = TaskSpec(TASK.classes, TASK.dispositions, DETECTION, meaning)
    assert severity_of([dent], told, 0.01) == pytest.approx(1 / (1 + np.exp(-(2 * np.log(0.9) + 1))))
    nothing = severity_of([], told, 0.01)
    assert nothing == severity_of([Finding("dent", 0.01, dent.box)], told, 0.01)  # what is fitted so is said so
    assert nothing == severity_of([label], told, 0.01) == pytest.approx(1 / (1 + np.exp(-(2 * np.log(0.01) + 1))))
    assert TaskSpec.from_dict(json.loads(json.dumps(told.to_dict())), "x") == told
    one = Prediction(0.9, findings=(label, dent))
    assert one.likeliest(TASK, "defect") == ("dent", 0.9)
    assert one.likeliest(TASK, "good") == ("label", 0.9)
    assert Prediction(0.0, findings=()).likeliest(TASK, "defect") is None


def raw(rows, k=3):
    """One image's outputs from (class, score, box in shares)."""
    scores, boxed = np.zeros((1, len(rows), k)), np.zeros((1, len(rows), 4))
    for i, (kind, score, box) in enumerate(rows):
        scores[0, i, kind], boxed[0, i] = score, box
    return scores, boxed


def test_boxes_come_in_pixels_of_the_image_the_surest_first_and_one_a_thing():
    rows = [
        (0, 0.5, (0.1, 0.1, 0.5, 0.5)), (0, 0.9, (0.1, 0.1, 0.5, 0.52)),  # one scratch twice
        (2, 0.6, (0.1, 0.1, 0.5, 0.5)),  # a dent in the same place is another thing
        (0, 0.05, (0.7, 0.7, 0.9, 0.9)), (1, 0.3, (0.9, 0.9, 1.4, 1.2)), (1, 0.8, (0.2, 0.3, 0.2, 0.6)),
    ]  # fmt: skip
    (said,) = TASKS[DETECTION].decode(raw(rows), TASK, [(100, 200)], HOW)
    assert [(f.name, f.score) for f in said.findings] == [("scratch", 0.9), ("dent", 0.6), ("label", 0.3)]
    np.testing.assert_allclose(said.findings[0].box, (20, 10, 100, 52))
    np.testing.assert_allclose(said.findings[2].box, (180, 90, 200, 100))  # clipped to the image
    assert said.severity == 0.9
    (all_of_them,) = TASKS[DETECTION].decode(raw(rows), TASK, [(100, 200)], {**HOW, "overlap": None})
    assert len(all_of_them.findings) == 4
    (few,) = TASKS[DETECTION].decode(raw(rows), TASK, [(100, 200)], {**HOW, "most": 1})
    assert len(few.findings) == 1


def test_the_order_of_classes_and_of_queries_changes_no_finding():
    rng = np.random.default_rng(0)
    scores, corners = rng.random((2, 40, 3)), np.sort(rng.random((2, 40, 2, 2)), 2).reshape(2, 40, 4)
    sizes = [(80, 60), (33, 200)]
    said = TASKS[DETECTION].decode((scores, corners), TASK, sizes, HOW)
    order, queries = [2, 0, 1], rng.permutation(40)
    other = TaskSpec(tuple(TASK.classes[i] for i in order), tuple(TASK.dispositions[i] for i in order), DETECTION)
    again = TASKS[DETECTION].decode((scores[:, queries][..., order], corners[:, queries]), other, sizes, HOW)
    assert said == again
    alone = [TASKS[DETECTION].decode((scores[[i]], corners[[i]]), TASK, [sizes[i]], HOW)[0] for i in range(2)]
    assert alone == said


def test_masks_lie_where_the_prototypes_say():
    scores, boxed = raw([(0, 0.9, (0.25, 0.0, 0.75, 1.0))])
    prototypes = np.full((1, 1, 40, 40), -1.0)
    prototypes[0, 0, 20:, :] = 1.0  # the lower half
    (said,) = TASKS[SEGMENTATION].decode((scores, boxed, np.ones((1, 1, 1)), prototypes), MASKED, [(80, 160)], HOW)
    inside = said.findings[0].mask_in(80, 160)
    assert inside[:39].sum() == 0
    assert inside[41:, 40:120].all()
    assert not inside[:, :40].any()
    assert not inside[:, 120:].any()


@pytest.mark.parametrize(
    ("outputs", "task", "said"),
    [
        ((np.zeros((1, 2, 2)), np.zeros((1, 2, 4))), TASK, "are wanted"),
        ((np.zeros((1, 2, 3)), np.zeros((1, 3, 4))), TASK, "are wanted"),
        ((np.full((1, 2, 3), np.nan), np.zeros((1, 2, 4))), TASK, "not finite"),
        ((np.zeros((1, 2, 3)), np.zeros((1, 2, 4))), MASKED, "segmentation"),
    ],
)
def test_outputs_that_are_not_those_of_the_task_are_refused(outputs, task, said):
    with pytest.raises(DataError, match=said):
        TASKS[task.kind].decode(outputs, task, [(10, 10)], HOW)


def test_what_an_export_changed_is_found():
    def one(*found):
        return [Prediction(severity_of(found, TASK, 0.01), findings=found)]

    def compared(before, after):
        return TASKS[DETECTION].compare(TASK, np.zeros(1, int), one(*before), one(*after))

    dent = Finding("dent", 0.9, (10.0, 10.0, 50.0, 50.0))
    moved = Finding("dent", 0.8, (10.0, 12.0, 50.0, 50.0))
    low = Finding("dent", 0.49, (10.0, 10.0, 50.0, 50.0))
    other = Finding("scratch", 0.9, dent.box)
    same = compared([dent], [dent])
    assert (same["shift"], same["score"], same["lost"], same["max_change"]) == (0, 0, {"k": 0, "n": 2}, 0)
    assert compared([dent], [moved])["shift"] == 2.0
    assert compared([dent], [moved])["score"] == pytest.approx(0.1)
    assert compared([dent], [])["lost"]["k"] == 1
    assert compared([], [dent])["lost"]["k"] == 1  # one that the model did not see
    assert compared([dent], [other])["lost"]["k"] == 2
    assert compared([dent], [low])["score"] == pytest.approx(0.41)  # it is there, and fell below what is told of


def test_an_overlap_is_of_areas():
    assert box_overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box_overlap((0, 0, 2, 2), (2, 0, 3, 2)) == 0


def test_a_picture_shows_what_is_told_of_and_leaves_the_image_alone():
    rgb = np.zeros((60, 80, 3), np.uint8)
    sure, unsure = Finding("dent", 0.9, (10.0, 20.0, 40.0, 50.0)), Finding("dent", 0.2, (50.0, 20.0, 70.0, 50.0))
    picture = drawn(rgb, [sure, unsure], TASK, 0.5)
    assert picture[20:51, 10:41].any()
    assert not picture[:, 55:].any()
    assert not rgb.any()


def test_masks_without_a_pixel_are_alike():
    """As a model that has hardly learned gives them: nothing on either side is nothing changed."""
    empty, full = (Finding("bad", 0.9, (0.0, 0.0, 4.0, 4.0), np.full((4, 4), value)) for value in (False, True))
    task = TaskSpec(("bad",), ("defect",), SEGMENTATION)

    def iou(one, two):
        given = [[Prediction(0.9, findings=(found,))] for found in (one, two)]
        return TASKS[SEGMENTATION].compare(task, np.zeros(1, int), *given)["iou"]

    assert iou(empty, empty) == iou(full, full) == 1.0
    assert iou(empty, full) == 0.0

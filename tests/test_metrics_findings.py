"""COCO figures of findings against pycocotools, their limits, and what is right from a score on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import SIZES, Compared, Shown, Thing, _Matched, evaluator, finding_report
from hf_inspect.metrics.matches import Matches, best_threshold, errors, told_report
from hf_inspect.schema import Finding
from tests import finders
from tests.finders import generated

A_FEW = 4  # draws where limits are not looked at
TASKS = {masks: finders.task_of(masks, ("a", "b")) for masks in (False, True)}


def by_pycocotools(there, found, masks):
    """Its COCOeval of two contents, evaluated and accumulated; a finding's area is of its own making."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = json.loads(json.dumps(there, default=lambda runs: runs.decode()))
    truth.createIndex()
    kept = ("image_id", "category_id", "score", "segmentation" if masks else "bbox")
    made = COCOeval(truth, truth.loadRes([{key: one[key] for key in kept} for one in found["annotations"]]))
    made.params.iouType = "segm" if masks else "bbox"
    made.evaluate()
    made.accumulate()
    return made


def figures(made):
    """What `finding_report` should hold, from pycocotools' arrays: by class, then over all of them."""
    precision, recall = made.eval["precision"][..., -1], made.eval["recall"][..., -1]  # 100 findings

    def mean(values):
        return None if (values < 0).all() else values[values > -1].mean()

    def own(p, r):
        sizes = {name: {"ap": mean(p[..., a]), "ar": mean(r[..., a])} for a, name in enumerate(SIZES, 1)}
        at = {"map": p[..., 0], "ap50": p[0, ..., 0], "ap75": p[5, ..., 0]}
        return {key: mean(values) for key, values in at.items()} | {"mar": mean(r[..., 0]), "sizes": sizes}

    classes = {made.cocoGt.cats[c]["name"]: own(precision[:, :, [i]], recall[:, [i]])
               for i, c in enumerate(made.params.catIds)}  # fmt: skip
    return own(precision, recall) | {"classes": classes}


def same(report, wanted, places=1e-6):
    """How many figures of a report were held against those wanted."""
    n = 0
    for key, value in wanted.items():
        if isinstance(value, dict):
            n += same(report[key], value, places)
        elif value is None:
            assert report[key]["value"] is None
            n += 1
        else:
            assert report[key]["value"] == pytest.approx(value, abs=places), key
            n += 1
    return n


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_figures_are_pycocotools_own(seed, masks):
    images = [*generated(seed, masks=masks), Shown(320, 320, (), ())]
    compared = Compared.of(images, TASKS[masks], masks=masks)
    report = finding_report(compared, masks=masks, draws=A_FEW)
    made = by_pycocotools(*compared.content(masks), masks)
    assert same(report, figures(made)) == 3 * 10
    assert 0.1 < report["map"]["value"] < 0.9
    assert min(report["sizes"][size]["ap"]["n"] for size in SIZES) > 3
    crowds = sum(thing.crowd for one in images for thing in one.things)
    assert report["objects"] == sum(len(one.things) for one in images) - crowds
    assert crowds > 3
    assert any(not one.things and one.findings for one in images)
    name, curve = "b", report["classes"]["b"]["curve"]
    np.testing.assert_allclose(curve[1], made.eval["precision"][0, :, 1, 0, -1], atol=1e-4)
    assert report["classes"][name]["objects"] == report["classes"][name]["map"]["n"]


@pytest.mark.parametrize("masks", [False, True])
def test_on_the_wagon_photos_they_are_those_of_its_own_json(real_images, masks):
    """The truth as pycocotools reads the JSON; what is found are its boxes or polygons, jittered, with wrong ones."""
    from faster_coco_eval.core.mask import decode
    from pycocotools import mask as runs

    source = json.loads((real_images / "wagon" / "annotations.json").read_text())
    images = {one["id"]: one for one in source["images"]}
    names = {one["id"]: one["name"] for one in source["categories"] if one["id"]}
    task, rng = finders.task_of(masks, tuple(names.values())), np.random.default_rng(0)
    things, found = ({key: [] for key in images} for _ in "tf")
    for one in source["annotations"]:
        size = (images[one["image_id"]][key] for key in ("height", "width"))
        whole = runs.merge(runs.frPyObjects(one["segmentation"], *size))
        one |= {"area": float(runs.area(whole))}
        x, y, w, h = one["bbox"]
        polygons = tuple(map(tuple, one["segmentation"]))
        things[one["image_id"]].append(Thing(names[one["category_id"]], (x, y, x + w, y + h), polygons))
        for _ in range(rng.integers(0, 3)):
            box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.1, 4) * (w, h, w, h)
            box = box.clip(0, 640)
            if (box[2:] - box[:2] < 1).any():
                continue
            name = names[one["category_id"] if rng.random() < 0.9 else 3 - one["category_id"]]
            sure = Finding(name, float(rng.random()), tuple(box.tolist()))
            (top, left), (rows, columns) = sure.corner, sure.extent
            inside = decode(whole)[top : top + rows, left : left + columns] > 0
            found[one["image_id"]].append(replace(sure, mask=inside) if masks else sure)
    shown = [Shown(one["height"], one["width"], tuple(things[key]), tuple(found[key])) for key, one in images.items()]
    assert sum(len(one.things) for one in shown) == 1151
    compared = Compared.of(shown, task, masks=masks)
    report = finding_report(compared, masks=masks, draws=A_FEW)
    ids = dict(enumerate(images, 1))
    told = [one | {"image_id": ids[one["image_id"]]} for one in compared.content(masks)[1]["annotations"]]
    made = by_pycocotools(source, source | {"annotations": told}, masks)
    made.params.catIds = list(names)  # the unused parent is no class of ours
    made.evaluate()
    made.accumulate()
    assert same(report, figures(made)) == 30
    assert 0.05 < report["map"]["value"] < 0.95


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_accumulated_of_all_images_is_the_library_s_own(masks):
    compared = Compared.of(generated(5, masks=masks), TASKS[masks], masks=masks)
    matched = _Matched.of(compared, np.arange(len(compared)), masks)
    made = evaluator(*compared.content(masks), masks=masks)
    made.evaluate()
    made.accumulate()
    for ours, key in zip(matched.accumulated(np.arange(len(compared))), ("precision", "recall"), strict=True):
        np.testing.assert_allclose(np.nan_to_num(ours, nan=-1), made.eval[key][..., 0], atol=1e-9)


def test_a_resample_is_what_its_images_would_give():
    images = generated(6, 20)
    drawn = np.random.default_rng(0).integers(0, 20, 20)
    numbers = np.sort(drawn)
    matched = _Matched.of(Compared.of(images, TASKS[False]), np.arange(20), False)
    anew = _Matched.of(Compared.of([images[i] for i in numbers], TASKS[False]), np.arange(20), False)
    for ours, theirs in zip(matched.accumulated(numbers), anew.accumulated(np.arange(20)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def perfect(images):
    """The same images with exactly what is there found in them."""
    return [
        replace(one, things=solid, findings=tuple(Finding(thing.name, 0.9, thing.box) for thing in solid))
        for one in images
        for solid in [tuple(thing for thing in one.things if not thing.crowd)]
    ]


def test_a_wrong_label_in_the_right_place_lowers_ap():
    images = perfect(generated(1))
    report = finding_report(Compared.of(images, TASKS[False]), draws=A_FEW)
    assert report["map"]["value"] == report["mar"]["value"] == 1.0
    at = next(i for i, one in enumerate(images) if one.findings)
    first, *rest = images[at].findings
    wrong = Finding("b" if first.name == "a" else "a", first.score, first.box)
    images[at] = replace(images[at], findings=(wrong, *rest))
    changed = finding_report(Compared.of(images, TASKS[False]), draws=A_FEW)
    for name in "ab":
        assert changed["classes"][name]["map"]["value"] < 1.0
    told = told_report(Matches.of(Compared.of(images, TASKS[False])), 0.5)
    counts = np.array(told["confusion"]["counts"])
    assert counts["ab".index(first.name), "ab".index(wrong.name)] == 1
    assert counts.sum() - counts.trace() == 1


def test_the_order_of_classes_images_and_findings_changes_nothing():
    rng, images = np.random.default_rng(2), generated(2)
    for one in images:  # of equal scores the first counts as the surest: here none are
        for number, finding in enumerate(one.findings):
            object.__setattr__(finding, "score", min(1.0, finding.score + 1e-4 * rng.random() + 1e-7 * number))
    groups = np.arange(len(images)) // 2
    one = Compared.of(images, TASKS[False])
    order = rng.permutation(len(images))
    turned = [replace(images[i], findings=images[i].findings[::-1], things=images[i].things[::-1]) for i in order]
    other = Compared.of(turned, finders.task_of(False, ("b", "a")))
    reports = [finding_report(c, g, draws=A_FEW) for c, g in ((one, groups), (other, groups[order]))]
    assert {key: x["value"] for key, x in reports[0]["classes"]["a"].items() if key in ("map", "mar", "ap50")} == {
        key: pytest.approx(x["value"]) for key, x in reports[1]["classes"]["a"].items() if key in ("map", "mar", "ap50")
    }
    assert reports[0]["map"]["value"] == pytest.approx(reports[1]["map"]["value"])
    matches = [Matches.of(compared) for compared in (one, other)]
    thresholds = [best_threshold(of) for of in matches]
    assert thresholds[0] == thresholds[1]
    told = [told_report(of, thresholds[0], g) for of, g in zip(matches, (groups, groups[order]), strict=True)]
    assert told[0]["f1"] == pytest.approx(told[1]["f1"])
    assert told[0]["recall"] == told[1]["recall"]
    assert sum(map(sum, told[0]["confusion"]["counts"])) == sum(map(sum, told[1]["confusion"]["counts"]))
    assert (errors(matches[0], thresholds[0])[order] == errors(matches[1], thresholds[0])).all()


def test_a_figure_of_nothing_is_none_and_says_so():
    image = Shown(64, 64, (Thing("a", (0.0, 0.0, 8.0, 8.0)),), ())
    report = finding_report(Compared.of([image], TASKS[False]), draws=A_FEW)
    assert report["map"]["value"] == 0.0
    assert report["map"]["high"] > 0.8  # of one image nothing is known
    lacking = report["classes"]["b"]
    assert (lacking["map"]["value"], lacking["curve"], lacking["objects"]) == (None, [[], []], 0)
    assert "nothing of it is there" in lacking["map"]["method"]
    matches = Matches.of(Compared.of([image], TASKS[False]))
    assert best_threshold(matches) is None
    told = told_report(matches, 0.5)
    assert (told["recall"]["k"], told["recall"]["n"], told["precision"]["value"]) == (0, 1, None)
    empty = told_report(Matches.of(Compared.of([Shown(64, 64, (), ())], TASKS[False])), 0.5)
    assert empty["f1"]["value"] is None
    with pytest.raises(DataError, match="No images came"):
        Compared.of([], TASKS[False])
    with pytest.raises(DataError, match="'c' is no class"):
        Compared.of([replace(image, things=(Thing("c", (0.0, 0.0, 8.0, 8.0)),))], TASKS[False])


def test_the_hundred_surest_of_a_class_count():
    box = (0.0, 0.0, 8.0, 8.0)
    noise = [Finding("a", 0.5 + i / 1000, (20.0, 20.0, 30.0, 30.0)) for i in range(100)]
    late = Shown(64, 64, (Thing("a", box),), (Finding("a", 0.1, box), *noise))
    assert finding_report(Compared.of([late], TASKS[False]), draws=A_FEW)["map"]["value"] == 0.0
    assert len(Compared.of([late], TASKS[False]).found["annotations"]) == 100
    early = replace(late, findings=late.findings[:-1])
    assert finding_report(Compared.of([early], TASKS[False]), draws=A_FEW)["map"]["value"] == pytest.approx(
        0.01, abs=1e-3
    )


def test_the_threshold_is_that_of_the_best_f1_and_what_is_right_at_it_is_counted():
    images = generated(3, 60)
    compared = Compared.of(images, TASKS[False])
    matches, f1 = Matches.of(compared), {}
    for at in np.arange(0.005, 1, 0.04):
        told = [replace(one, findings=tuple(f for f in one.findings if f.score >= at)) for one in images]
        anew = Matches.of(Compared.of(told, TASKS[False]))
        report, whole = told_report(anew, 0.0), told_report(matches, at)
        assert {key: report[key] for key in report if key != "threshold"} == {
            key: whole[key] for key in whole if key != "threshold"
        }
        f1[at] = report["f1"]["value"] or 0.0
        counts = np.array(report["confusion"]["counts"])
        assert counts.trace() == report["precision"]["k"] == report["recall"]["k"]
        assert counts[:, :-1].sum() == report["precision"]["n"]
        assert counts[:-1].sum() == report["recall"]["n"] == finding_objects(images)
    best = best_threshold(matches)
    assert told_report(matches, best)["f1"]["value"] >= max(f1.values())
    assert not np.isclose(matches.scores, best, atol=1e-9).any()


def finding_objects(images):
    return sum(not thing.crowd for one in images for thing in one.things)


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    crowd, alone = Thing("a", (0.0, 0.0, 60.0, 60.0), crowd=True), Thing("a", (70.0, 70.0, 90.0, 90.0))
    inside = tuple(Finding("a", 0.9, (5.0 + i, 5.0, 40.0 + i, 40.0)) for i in range(5))
    image = Shown(100, 100, (crowd, alone), (*inside, Finding("a", 0.8, alone.box)))
    matches = Matches.of(Compared.of([image], TASKS[False]))
    told = told_report(matches, 0.5)
    assert (told["precision"]["k"], told["precision"]["n"], told["recall"]["n"]) == (1, 1, 1)
    assert (told["over"]["k"], told["under"]["k"], errors(matches, 0.5).tolist()) == (0, 0, [0])
    assert told["iou"]["value"] == pytest.approx(1.0)


def test_by_masks_another_finding_may_be_right():
    box, half = (0.0, 0.0, 40.0, 40.0), np.zeros((40, 40), bool)
    half[:, :15] = True
    thing = Thing("a", box, ((0.0, 0.0, 40.0, 0.0, 40.0, 40.0, 0.0, 40.0),))
    image = Shown(64, 64, (thing,), (Finding("a", 0.9, box, half),))
    compared = Compared.of([image], TASKS[True], masks=True)
    assert told_report(Matches.of(compared), 0.5)["precision"]["k"] == 1
    assert told_report(Matches.of(compared, masks=True), 0.5)["confusion"]["counts"][0] == [0, 0, 1]
    bare = replace(image, findings=(Finding("a", 0.9, box),))  # its box is its mask
    told = told_report(Matches.of(Compared.of([bare], TASKS[True], masks=True), masks=True), 0.5)
    assert told["iou"]["value"] == pytest.approx(1.0)


def test_limits_hold_the_value_widen_by_group_and_leave_room_where_all_is_right():
    images = generated(4, 60)
    compared = Compared.of(images, TASKS[False])
    alone = finding_report(compared, draws=80)
    again = finding_report(compared, draws=80)
    assert alone == again
    for key in ("map", "ap50", "ap75", "mar"):
        assert 0 <= alone[key]["low"] < alone[key]["value"] < alone[key]["high"] <= 1
    copies = Compared.of([one for one in images for _ in range(2)], TASKS[False])
    by_image, by_part = (finding_report(copies, groups, draws=80) for groups in (None, np.repeat(np.arange(60), 2)))
    wide, narrow = (one["mar"]["high"] - one["mar"]["low"] for one in (by_part, by_image))
    assert wide > 1.15 * narrow
    assert by_part["mar"]["method"].endswith("by group, 60 groups")
    box, one_class = (0.0, 0.0, 40.0, 40.0), finders.task_of(False, ("a",))
    right = Compared.of([Shown(64, 64, (Thing("a", box),), (Finding("a", 0.9, box),))] * 60, one_class)
    found = finding_report(right, draws=150)["map"]
    assert found["value"] == found["high"] == 1.0
    assert found["low"] == pytest.approx(0.025 ** (1 / 60), abs=0.02)  # Clopper and Pearson's, of 60 out of 60


def test_the_limits_of_recall_hold_the_truth_as_often_as_they_say():
    """One object an image, found at p: mAR is a plain share, whose truth is known."""
    rng, p, held, n = np.random.default_rng(0), 0.9, 0, 40
    box = (0.0, 0.0, 40.0, 40.0)
    for _ in range(n):
        images = [
            Shown(64, 64, (Thing("a", box),), (Finding("a", 0.9, box),) if rng.random() < p else ()) for _ in range(30)
        ]
        found = finding_report(Compared.of(images, finders.task_of(False, ("a",))), draws=60)["mar"]
        held += found["low"] <= p <= found["high"]
    assert held >= 0.9 * n

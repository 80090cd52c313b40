"""Findings matched to what is there at an IoU of 0.5 -> the threshold of the best F1, and what is right at it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.metrics.findings import Compared, evaluator
from hf_inspect.metrics.inputs import as_groups
from hf_inspect.metrics.intervals import LIMITS, Figure, figure, grouped, mean_limits, rate_of, undefined

IOU = 0.5
MISSED, NOTHING = "missed", "nothing there"  # the last column of a confusion matrix of things, and its last row


@dataclass(frozen=True, slots=True)
class Matches:
    """The f findings of n images, and the o objects there, crowds apart, each finding with its own object or none.

    As COCO matches: the surest first, within a class, by an IoU of 0.5 or more. `scores`, `kinds` and `images` (f,) are
    the findings' scores, classes and images by number; `partners` (f,) their objects', -1 without one, and `ious` (f,)
    the overlap with these. `apart` (f,) marks those in a crowd, which count as nothing. `objects` and `places` (o,) are
    the objects' classes and images. Those from a score on match as if the others were not there.
    """

    compared: Compared
    scores: NDArray[np.float64]
    kinds: NDArray[np.int64]
    images: NDArray[np.int64]
    partners: NDArray[np.int64]
    ious: NDArray[np.float64]
    apart: NDArray[np.bool_]
    objects: NDArray[np.int64]
    places: NDArray[np.int64]
    masks: bool

    @classmethod
    def of(cls, compared: Compared, *, masks: bool = False) -> "Matches":
        """Match by boxes, or by `masks`."""
        pairs = _pairs(*compared.content(masks), masks)
        found, there = compared.found["annotations"], compared.there["annotations"]
        solid = [one for one in there if not one["iscrowd"]]
        number = {one["id"]: i for i, one in enumerate(solid)}
        with_any = [pairs.get(one["id"], (0, 0.0)) for one in found]
        partners = np.array([number.get(own, -1) for own, _ in with_any], np.int64)
        return cls(
            compared,
            np.array([one["score"] for one in found], np.float64),
            _classes(found),
            _images(found),
            partners,
            np.where(partners >= 0, np.array([iou for _, iou in with_any], np.float64), 0.0),
            np.array([own > 0 for own, _ in with_any], np.bool_) & (partners < 0),
            _classes(solid),
            _images(solid),
            masks,
        )


def best_threshold(matches: Matches) -> float | None:
    """The score from which on findings have the highest F1, over all classes together; None where none is right.

    It lies half-way between two findings' scores, so that no finding lies on it.
    """
    kept = ~matches.apart
    order = np.argsort(-matches.scores[kept], kind="stable")
    scores, right = matches.scores[kept][order], (matches.partners[kept] >= 0)[order]
    if not right.any():
        return None
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of findings with one score
    f1 = 2 * np.cumsum(right)[last] / (1 + last + len(matches.objects))
    at = last[int(f1.argmax())]
    return float(scores[at] + (scores[at + 1] if at + 1 < len(scores) else 0.0)) / 2


def told_report(matches: Matches, threshold: float, groups: ArrayLike | None = None) -> dict[str, Any]:
    """What is right of the findings from a score of `threshold` on, and what was missed.

    `precision` is of these findings, `recall` of the objects, over all classes and by class; `iou` the mean overlap of
    those that are right. `over` and `under` are of the images: more, or fewer, findings than objects. Of the
    `confusion`, a finding of no object of its class is taken for the object of another that it overlaps, or for
    `nothing there`.
    """
    of = as_groups(groups, len(matches.compared))
    told = (matches.scores >= threshold) & ~matches.apart
    right, partners = matches.partners[told] >= 0, matches.partners[told]
    kinds, theirs = matches.kinds[told], of[matches.images[told]]
    met = np.isin(np.arange(len(matches.objects)), partners[right])
    own = of[matches.places]
    n = [np.bincount(one, minlength=len(of)) for one in (matches.images[told], matches.places)]
    return {
        "threshold": threshold,
        "precision": rate_of(right, theirs),
        "recall": rate_of(met, own),
        "f1": _f1(right, theirs, met, own),
        "iou": _mean(matches.ious[told][right], theirs[right]),
        "over": rate_of(n[0] > n[1], of),
        "under": rate_of(n[0] < n[1], of),
        "classes": {
            name: {
                "precision": rate_of(right[kinds == i], theirs[kinds == i]),
                "recall": rate_of(met[matches.objects == i], own[matches.objects == i]),
            }
            for i, name in enumerate(matches.compared.task.classes)
        },
        "confusion": _confusion(matches, threshold),
    }


def errors(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """How many findings from a score on are wrong, and objects missed, in each of n images (n,)."""
    told = (matches.scores >= threshold) & ~matches.apart
    met = np.isin(np.arange(len(matches.objects)), matches.partners[told])
    n = len(matches.compared)
    wrong = np.bincount(matches.images[told & (matches.partners < 0)], minlength=n)
    return wrong + np.bincount(matches.places[~met], minlength=n)


def mistaken(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """Of each finding (f,) from a score on that is of no object of its class, the object of another class that it is
    taken for, by number; -1 for the others. What is right in its class is never moved.
    """
    told = (matches.scores >= threshold) & ~matches.apart
    right = told & (matches.partners >= 0)
    met = np.isin(np.arange(len(matches.objects)), matches.partners[right])
    there, found = matches.compared.content(matches.masks)
    solid = [one for one in there["annotations"] if not one["iscrowd"]]
    left = [one for one, gone in zip(solid, met, strict=True) if not gone]
    loose = [one for one, is_loose in zip(found["annotations"], told & ~right, strict=True) if is_loose]
    pairs = _pairs(there | {"annotations": left}, found | {"annotations": loose}, matches.masks, by_class=False)
    number = {one["id"]: i for i, one in enumerate(solid)}
    return np.array(
        [number[pairs[one["id"]][0]] if one["id"] in pairs else -1 for one in found["annotations"]], np.int64
    )


def _confusion(matches: Matches, threshold: float) -> dict[str, Any]:
    """Counts of the findings told of (columns) by what is there (rows); what is right in its class is never moved."""
    k = len(matches.compared.task.classes)
    counts = np.zeros((k + 1, k + 1), np.int64)
    told = (matches.scores >= threshold) & ~matches.apart
    taken = np.where(told & (matches.partners >= 0), matches.partners, mistaken(matches, threshold))
    of_some = taken >= 0
    np.add.at(counts, (matches.objects[taken[of_some]], matches.kinds[of_some]), 1)
    counts[k, :k] = np.bincount(matches.kinds[told & ~of_some], minlength=k)
    missed = ~np.isin(np.arange(len(matches.objects)), taken[of_some])
    counts[:k, k] = np.bincount(matches.objects[missed], minlength=k)
    names = list(matches.compared.task.classes)
    return {"rows": [*names, NOTHING], "columns": [*names, MISSED], "counts": counts.tolist()}


def _pairs(
    there: Mapping[str, Any], found: Mapping[str, Any], masks: bool, *, by_class: bool = True
) -> dict[int, tuple[int, float]]:
    """Ids of the findings -> ids of what they match, crowds among it, and by how much; the library's matches."""
    made = evaluator(there, found, masks=masks)
    made.params.iouThrs, made.params.useCats = np.array([IOU]), int(by_class)
    made.params.areaRng, made.params.areaRngLbl = made.params.areaRng[:1], made.params.areaRngLbl[:1]
    made.params.maxDets = [max(1, len(found["annotations"]))]
    made.evaluate()
    made.accumulate()
    pairs = ((*map(int, key.split("_")), iou) for key, iou in made.eval["matched"].items())
    return {own: (other, iou) for own, other, iou in pairs}


def _f1(right: NDArray[np.bool_], theirs: NDArray[np.int64], met: NDArray[np.bool_], own: NDArray[np.int64]) -> Figure:
    """F1 rises with the share j of right ones among findings and missed objects, 2 j / (1 + j), and so its limits."""
    of = np.append(theirs, own[~met])
    if not len(of):
        return undefined(0, "nothing is there, and nothing was found")
    sums, sizes = np.bincount(of, np.append(right, np.zeros((~met).sum()))), np.bincount(of)
    low, high = mean_limits(sums[sizes > 0], sizes[sizes > 0])
    value, low, high = (2 * j / (1 + j) for j in (sums.sum() / sizes.sum(), low, high))
    return figure(value, low, high, len(of), LIMITS + grouped(sizes))


def _mean(values: NDArray[np.float64], of: NDArray[np.int64]) -> Figure:
    if not len(values):
        return undefined(0, "no finding is right")
    sums, sizes = np.bincount(of, values), np.bincount(of)
    low, high = mean_limits(sums[sizes > 0], sizes[sizes > 0])
    return figure(values.mean(), low, high, len(values), LIMITS + grouped(sizes))


def _classes(annotations: list[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([one["category_id"] - 1 for one in annotations], np.int64)


def _images(annotations: list[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([one["image_id"] - 1 for one in annotations], np.int64)

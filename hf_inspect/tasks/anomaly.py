"""Good parts against all others: raw scores and maps to answers, an export against its model, figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, metrics
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, GOOD, Prediction, TaskSpec
from hf_inspect.tasks.canvas import new_figure, png_of

OVERKILL = 0.05  # share of the good parts that lie above the threshold which exports are compared at
BINS = 40  # of the histogram
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#888888"
Outputs = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]  # raw scores (n,), maps (n, h, w)


def decode(
    outputs: Outputs, task: TaskSpec, sizes: Sequence[tuple[int, int]] = (), decoding: Any = None
) -> list[Prediction]:
    """Raw scores and maps of n images -> an answer an image; DataError unless all are finite.

    Class probabilities are given where the task's score is a probability.
    """
    scores, maps = outputs
    if scores.ndim != 1 or maps.ndim != 3 or len(maps) != len(scores):
        raise DataError(f"The model gave scores {scores.shape} and maps {maps.shape}; (n,) and (n, h, w) are wanted.")
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise DataError("The model gave scores that are not finite; fit it again, in fp32 if it was in bf16.")
    assert task.score is not None
    pairs = zip(task.score.severity(scores.astype(np.float64)).tolist(), maps.astype(np.float32), strict=True)
    return [Prediction(severity, _probabilities(severity, task), map=one) for severity, one in pairs]


def outputs(task: TaskSpec, height: int, width: int) -> list[list[int]]:
    """Two, a raw score and a map in the pixels of the network's images."""
    return [[-1], [-1, height, width]]


def compare(
    task: TaskSpec, classes: NDArray[np.int64], before: Sequence[Prediction], after: Sequence[Prediction]
) -> dict[str, Any]:
    """Answers of n images before and after an export -> what changed; `classes` (n,) are ids in the data's order.

    `flips` {"k", "n"} counts another side of the severity that OVERKILL of the good parts lie above. `maps` is the
    least correlation of an image's map with that of the export. Besides max_change, of a severity.
    """
    severity = [np.array([one.severity for one in answers]) for answers in (before, after)]
    at = _threshold(severity[0][~task.is_defect[classes]])
    flips = (severity[0] >= at) != (severity[1] >= at)
    maps = [_correlation(a.map, b.map) for a, b in zip(before, after, strict=True)]
    return {
        "flips": {"k": int(flips.sum()), "n": len(classes)},
        "threshold": at,
        "maps": min(maps, default=1.0),
        "max_change": float(np.abs(severity[1] - severity[0]).max(initial=0.0)),
    }


def measure(
    task: TaskSpec,
    classes: NDArray[np.int64],
    severity: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    threshold: float | None = None,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Figures of an anomaly model on a data set of `task`: good parts against all others by severity.

    `classes` (n,) are ids in the task's order, `severity` (n,) the answers; NaN stands for one that could not be read,
    which is wrong: it counts as the least severity of a defect, or the highest of a good part. `auroc_by_class`
    has that of each defect class against all good parts. Escapes and overkill are at `threshold`, and left out
    without one. `probabilities` are not looked at.
    """
    unread, defect = np.isnan(severity), task.is_defect[classes]
    known = severity[~unread]
    worst = np.where(defect, known.min(initial=0.0), known.max(initial=1.0))
    found = np.where(unread, worst, severity)
    of = np.arange(len(found)) if groups is None else groups
    report: dict[str, Any] = {"n": len(found), "auroc": metrics.auroc(defect, found, of)}
    report["average_precision"] = metrics.average_precision(defect, found, of)
    report["unreadable"] = metrics.rate_of(unread, of)
    if threshold is not None:
        report |= metrics.binary_report(defect, found, threshold, of)
    sides = {name: ~defect | (classes == task.index(name)) for name in task.defects}
    report["auroc_by_class"] = {name: metrics.auroc(defect[own], found[own], of[own]) for name, own in sides.items()}
    return report | {"curves": _curves(defect, found)}


def draw(figures: Mapping[str, Any], out: Path) -> None:
    """ROC and the histogram of severities by side, of `measure`, to `out` (PNG)."""
    curves, area = figures["curves"], figures["auroc"]
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    left.plot(*curves["roc"], color=_BLUE, linewidth=1.8)
    said = area["method"] if area["value"] is None else f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"
    left.set(xlabel="Overkill: good parts rejected", ylabel="Caught: defects rejected", title=f"AUROC {said}")
    edges = np.array(curves["edges"])
    for side, colour in ((GOOD, _BLUE), (DEFECT, _RED)):
        right.stairs(curves[side], edges, color=colour, fill=True, alpha=0.55, label=f"{side}, {sum(curves[side])}")
    right.set(xlabel="Severity", ylabel="Parts", title=f"{figures['n']} parts")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    files.write_bytes(out, png_of(figure))


def _probabilities(severity: float, task: TaskSpec) -> tuple[float, ...] | None:
    assert task.score is not None
    if task.score.kind != "probability":
        return None
    return tuple(severity if one == DEFECT else 1.0 - severity for one in task.dispositions)


def _threshold(good: NDArray[np.float64]) -> float:
    """The severity between the two good parts (n,) that OVERKILL of them lie above."""
    if not len(good):
        raise DataError("None of the images is a good part, of which the threshold would be set; give another split.")
    ordered, k = np.sort(good), int((1 - OVERKILL) * (len(good) - 1))
    return float((ordered[k] + ordered[min(k + 1, len(good) - 1)]) / 2)


def _correlation(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> float:
    """Pearson's, of two maps; 1 of two flat ones."""
    assert a is not None
    assert b is not None
    one, other = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (a, b))
    norm = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / norm if norm else float(np.array_equal(one, other))


def _curves(defect: NDArray[np.bool_], severity: NDArray[np.float64]) -> dict[str, Any]:
    """What the picture is drawn of: the ROC's points, and counts by side between `edges` of severity."""
    top = float(np.quantile(severity, 0.99)) if severity.max(initial=0.0) > 1 else 1.0  # a distance has no end
    edges = np.linspace(0.0, top, BINS + 1)
    counts: dict[str, Any] = {
        side: np.histogram(severity[own].clip(0, top), edges)[0].tolist()
        for side, own in ((GOOD, ~defect), (DEFECT, defect))
    }
    roc = [[round(x, 4) for x in axis.tolist()] for axis in metrics.roc_curve(defect, severity)]
    return {"roc": roc, "edges": edges.tolist(), **counts}

"""Images into classes: logits to answers, an export against its student, figures, and the confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, metrics
from hf_inspect.errors import DataError
from hf_inspect.schema import Prediction, TaskSpec
from hf_inspect.tasks.canvas import draw_confusion, new_figure, png_of

THRESHOLD = 0.5  # severity from which an image counts as a defect where no cascade says otherwise
ESCAPE, OVERKILL = 0.05, 0.10  # shares of defects below, of good parts above, that `calibrate` allows unless told
_BARELY = 0.01  # of severity; where all good parts lie within a thousandth, a threshold among them means nothing
_LOW, _HIGH = f"{ESCAPE:.0%} of the defects lie below", f"{OVERKILL:.0%} of the good parts lie above"


def decode(
    outputs: NDArray[np.float64], task: TaskSpec, sizes: Sequence[tuple[int, int]] = (), decoding: Any = None
) -> list[Prediction]:
    """Logits (n, k) in the order of the task's classes -> an answer an image; DataError unless they are finite."""
    if outputs.ndim != 2 or outputs.shape[1] != len(task.classes):
        raise DataError(f"The model gave outputs of shape {outputs.shape}; {len(task.classes)} classes are wanted.")
    if not np.isfinite(outputs).all():
        raise DataError("The model gave logits that are not finite; export the student again.")
    order = task.by_name  # sums in an order of their own would round otherwise, and a threshold may be a score
    p = np.empty_like(outputs)
    p[:, order] = metrics.softmax(outputs[:, order])
    return of_probabilities(p, task)


def outputs(task: TaskSpec, height: int, width: int) -> list[list[int]]:
    """One, a logit a class."""
    return [[-1, len(task.classes)]]


def of_probabilities(p: NDArray[np.float64], task: TaskSpec) -> list[Prediction]:
    """Class probabilities (n, k), rows sum to 1 -> an answer an image; severity is the sum over the defect classes."""
    pairs = zip(task.severity(p).tolist(), p.clip(0.0, 1.0).tolist(), strict=True)
    return [Prediction(severity, tuple(row)) for severity, row in pairs]


def compare(
    task: TaskSpec, classes: NDArray[np.int64], before: Sequence[Prediction], after: Sequence[Prediction]
) -> dict[str, Any]:
    """Answers of n images before and after an export -> what changed; `classes` (n,) are ids in the task's order.

    `flips` {"k", "n"} counts another likeliest class, or another side of severity 0.5; `classes` has, by name, the rate
    of images with another likeliest class. `thresholds` lists, at 0.5 and where a cascade's are likely to be set, the
    rates of defects that newly fall below and of good parts that newly come above, by more than 0.01: `calibrate` sets
    its thresholds on the export itself, so what moves by less moves with them. Besides max_change (of a class's
    probability), and accuracy before and after.
    """
    p = [np.array([one.probabilities for one in answers]) for answers in (before, after)]
    severity, defect = [task.severity(one) for one in p], task.is_defect[classes]
    said = [task.likeliest(one) for one in p]
    other = said[0] != said[1]
    flips = other | ((severity[0] >= THRESHOLD) != (severity[1] >= THRESHOLD))
    right = {when: int((one == classes).sum()) for when, one in zip(("before", "after"), said, strict=True)}
    return {
        "flips": {"k": int(flips.sum()), "n": len(classes)},
        "classes": {
            name: metrics.rate(int(other[classes == i].sum()), int((classes == i).sum()))
            for i, name in enumerate(task.classes)
        },
        "thresholds": [
            {"at": at, "why": why, **_crossings(severity, defect, at)}
            for why, at in _thresholds(severity[0], defect).items()
        ],
        "max_change": float(np.abs(p[1] - p[0]).max(initial=0.0)),
        "accuracy": {when: metrics.rate(k, len(classes)) for when, k in right.items()},
    }


def _thresholds(severity: NDArray[np.float64], defect: NDArray[np.bool_]) -> dict[str, float]:
    """Severities to compare answers at, each by what it is: between the two images that a share of a side lies beside.

    A threshold that is an image's own severity would be crossed by any change whatever.
    """
    found = {"as likely as not": THRESHOLD}
    for why, side, share in ((_LOW, severity[defect], ESCAPE), (_HIGH, -severity[~defect], OVERKILL)):
        if len(side):
            ordered, k = np.sort(side), int(share * len(side))
            edge = ordered[k - 1] if k else (0.0 if why == _LOW else -1.0)
            found[why] = abs(float(edge + ordered[k]) / 2)
    return found


def _crossings(severity: Sequence[NDArray[np.float64]], defect: NDArray[np.bool_], at: float) -> dict[str, Any]:
    """Of defects that newly fall below a severity and good parts that newly come above it, by more than `_BARELY`."""
    (before, after), moved = (one >= at for one in severity), np.abs(severity[1] - severity[0]) > _BARELY
    passed, rejected = before & ~after & defect & moved, ~before & after & ~defect & moved
    return {
        "passed": metrics.rate(int(passed.sum()), int(defect.sum())),
        "rejected": metrics.rate(int(rejected.sum()), int((~defect).sum())),
    }


def measure(
    task: TaskSpec,
    classes: NDArray[np.int64],
    severity: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    threshold: float = THRESHOLD,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Figures of a model: of its classes (the likeliest is its answer), and of good against defect by severity.

    `classes` (n,) are ids in the task's order, `severity` (n,) and `probabilities` (n, k) the answers; NaN stands for
    an answer that could not be read, which is wrong: no class, a defect passed, a good part rejected. Intervals count
    `groups` (n,), the parts that the images show; None: each shows its own.
    """
    unread = np.isnan(severity)
    said = np.where(unread, metrics.UNREADABLE, task.likeliest(probabilities))
    defect = task.is_defect[classes]
    worst = np.where(unread, np.where(defect, 0.0, 1.0), severity)
    of_classes = metrics.class_report(classes, said, task.classes, groups)
    report = metrics.binary_report(defect, worst, threshold, groups) | of_classes
    read = None if groups is None else groups[~unread]
    report["reliability"] = metrics.reliability(defect[~unread], severity[~unread], groups=read)
    return report


def draw(figures: Mapping[str, Any], out: Path) -> None:
    """The confusion matrix of `measure` to `out` (PNG): a row a class, counts and shares of the row."""
    confusion = figures["confusion"]
    side = 1.6 + 0.75 * len(confusion["columns"])
    figure = new_figure(max(4.6, side + 1.4), max(3.6, side))
    axes = figure.add_subplot()
    draw_confusion(axes, confusion)
    axes.set(xlabel="Answer", ylabel="Class", title=f"Confusion, {figures['n']} images")
    files.write_bytes(out, png_of(figure))

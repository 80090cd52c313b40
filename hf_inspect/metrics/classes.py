"""Labels and answers over n classes -> accuracy, recall and precision by class, confusion, temperature."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_groups
from hf_inspect.metrics.intervals import Figure, figure, grouped, mean_limits, rate_of, undefined

UNREADABLE = -1  # an answer that is no class: always wrong
_TEMPERATURES = (0.05, 20.0)  # what a fit is looked for in


def class_report(
    labels: ArrayLike, answers: ArrayLike, names: Sequence[str], groups: ArrayLike | None = None
) -> dict[str, Any]:
    """Labels (n,) of 0..k-1 and answers (n,) of the same or -1 (unreadable, hence wrong) -> rates and counts.

    Recall is of the parts of a class, precision of the answers that name it. `confusion` counts answers (columns,
    the last one `unreadable`) by class (rows). `groups` (n,) names the part that each image shows, None where each
    shows its own: intervals count those.
    """
    y, said, k = np.asarray(labels), np.asarray(answers), len(names)
    if y.shape != said.shape or y.ndim != 1:
        raise DataError(f"labels have shape {y.shape}, answers {said.shape}; one of each a part is wanted.")
    if not (np.isin(y, np.arange(k)).all() and np.isin(said, np.arange(-1, k)).all()):
        raise DataError(f"labels are 0..{k - 1} for {k} classes, and answers besides -1 (unreadable); others came.")
    y, said, of = y.astype(np.int64), said.astype(np.int64), as_groups(groups, len(y))
    counts = np.zeros((k, k + 1), dtype=np.int64)
    np.add.at(counts, (y, said), 1)  # -1 is the last column
    return {
        "n": len(y),
        "accuracy": rate_of(said == y, of),
        "macro_f1": _macro_f1(y, said, of, names),
        "unreadable": rate_of(said == UNREADABLE, of),
        "classes": {name: _of_class(y == i, said == i, of) for i, name in enumerate(names)},
        "confusion": {"rows": list(names), "columns": [*names, "unreadable"], "counts": counts.tolist()},
    }


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (n, k) -> probabilities (n, k), rows sum to 1."""
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True)) if len(scores) else scores
    return exponents / exponents.sum(axis=1, keepdims=True)


def fit_temperature(p: NDArray[np.float64], labels: ArrayLike) -> float:
    """The t in [0.05, 20] whose `with_temperature` makes the labels (n,) likeliest under P (n, k)."""
    from scipy.optimize import minimize_scalar

    y = np.asarray(labels)
    if len(y) == 0:
        raise DataError("A temperature is fitted on one part or more; none came.")

    def loss(log_t: float) -> float:
        own = with_temperature(p, float(np.exp(log_t)))[np.arange(len(y)), y]
        return float(-np.log(np.maximum(own, np.finfo(float).tiny)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded").x))


def with_temperature(p: NDArray[np.float64], t: float) -> NDArray[np.float64]:
    """P (n, k) made flatter (t > 1) or sharper (t < 1): softmax(log P / t)."""
    return softmax(np.log(np.maximum(p, np.finfo(float).tiny)) / t)


def _macro_f1(y: NDArray[np.int64], said: NDArray[np.int64], of: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Mean F1 over the classes that occur among labels or answers.

    A class's F1 rises with the share of right answers j among the images that are of it or called it, 2 j / (1 + j),
    so j's exact limits are the F1's; `_combined` puts the classes together. A quotient of few images lies too low by
    what `_f1` says, which over many rare classes adds up: the upper limit is higher by as much.
    """
    if len(y) == 0:
        return undefined(0, "n = 0")
    by_name = sorted(range(len(names)), key=names.__getitem__)  # sums then do not round by the order of the classes
    there = [i for i in by_name if ((y == i) | (said == i)).any()]
    each = [_f1(y == i, said == i, of) for i in there]
    values, limits, influences, too_low = (np.array(column) / len(there) for column in zip(*each, strict=True))
    low, high = _combined(values, limits, influences)
    method = "MOVER on exact limits of each class's share right 95 %" + grouped(np.bincount(of))
    return figure(values.sum(), max(low, 0.0), min(high + too_low.sum(), 1.0), len(y), method)


def _f1(
    own: NDArray[np.bool_], named: NDArray[np.bool_], of: NDArray[np.int64]
) -> tuple[float, tuple[float, ...], NDArray[np.float64], float]:
    """A class's F1, its limits, what each group adds to its error, and its bias; of images (n,) of it and called it."""
    right, union = np.bincount(of, own & named), np.bincount(of, own | named)
    there, both = union > 0, right + union
    limits = mean_limits(right[there], union[there])
    value = 2 * right.sum() / both.sum()
    influences = 2 * right - value * both
    bias = (influences * both).sum() / both.sum() ** 2  # of second order
    return float(value), tuple(2 * j / (1 + j) for j in limits), influences, float(bias)


def _combined(
    values: NDArray[np.float64], limits: NDArray[np.float64], influences: NDArray[np.float64]
) -> tuple[float, float]:
    """Limits of the sum of figures `values` (k,) from the `limits` (k, 2) of each: MOVER, with their correlation.

    Zou and Donner 2008, Statistics in Medicine 27. `influences` (k, c) are what each of c groups adds to each figure's
    error; a figure without any error is taken as independent of the others.
    """
    sizes = np.sqrt((influences**2).sum(1))
    scaled = np.divide(influences, sizes[:, None], out=np.zeros_like(influences), where=sizes[:, None] > 0)
    correlation = scaled @ scaled.T
    np.fill_diagonal(correlation, 1.0)
    low, high = (np.sqrt(max(0.0, d @ correlation @ d)) for d in (values - limits[:, 0], limits[:, 1] - values))
    return float(values.sum() - low), float(values.sum() + high)


def _of_class(own: NDArray[np.bool_], named: NDArray[np.bool_], of: NDArray[np.int64]) -> dict[str, Any]:
    return {"recall": rate_of(named[own], of[own]), "precision": rate_of(own[named], of[named])}

"""Labels and answers over n classes -> accuracy, recall and precision by class, confusion, temperature."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.intervals import Figure, bootstrap_limits, bootstrap_method, figure, rate, undefined

UNREADABLE = -1  # an answer that is no class: always wrong
_TEMPERATURES = (0.05, 20.0)  # what a fit is looked for in


def class_report(labels: ArrayLike, answers: ArrayLike, names: Sequence[str]) -> dict[str, Any]:
    """Labels (n,) of 0..k-1 and answers (n,) of the same or -1 (unreadable, hence wrong) -> rates and counts.

    Recall is of the parts of a class, precision of the answers that name it. `confusion` counts answers (columns,
    the last one `unreadable`) by class (rows).
    """
    y, said, k = np.asarray(labels), np.asarray(answers), len(names)
    if y.shape != said.shape or y.ndim != 1:
        raise DataError(f"labels have shape {y.shape}, answers {said.shape}; one of each a part is wanted.")
    if not (np.isin(y, np.arange(k)).all() and np.isin(said, np.arange(-1, k)).all()):
        raise DataError(f"labels are 0..{k - 1} for {k} classes, and answers besides -1 (unreadable); others came.")
    y, said = y.astype(np.int64), said.astype(np.int64)
    counts = np.zeros((k, k + 1), dtype=np.int64)
    np.add.at(counts, (y, said), 1)  # -1 is the last column
    return {
        "n": len(y),
        "accuracy": rate(int(np.trace(counts)), len(y)),
        "macro_f1": _macro_f1(*_by_name(y, said, names), k),
        "unreadable": rate(int(counts[:, UNREADABLE].sum()), len(y)),
        "classes": {name: _of_class(counts, i) for i, name in enumerate(names)},
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


def _by_name(
    y: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same ids in the order of the classes' names: what is drawn at random then does not depend on theirs."""
    rank = np.argsort(np.argsort(np.array(names)))
    return rank[y], np.where(said == UNREADABLE, UNREADABLE, rank[said])


def _macro_f1(y: NDArray[np.int64], said: NDArray[np.int64], k: int) -> Figure:
    """Mean F1 over the classes that occur among labels or answers, parts resampled for its interval."""
    if len(y) == 0:
        return undefined(0, "n = 0")
    outcomes = (y * (k + 1) + said + 1).astype(np.float64)  # a part's class and answer as one number

    def f1(resampled: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        rows = np.moveaxis(resampled, axis, -1).astype(np.int64).reshape(-1, resampled.shape[axis])
        of_row = np.arange(len(rows))[:, None] * k * (k + 1)
        counts = np.bincount((rows + of_row).ravel(), minlength=len(rows) * k * (k + 1)).reshape(-1, k, k + 1)
        answers = counts[:, :, 1:]  # the first column counts what is unreadable
        right, of_class, named = answers.diagonal(axis1=1, axis2=2), counts.sum(2), answers.sum(1)
        there = of_class + named > 0
        each = np.divide(2 * right, of_class + named, out=np.zeros(right.shape), where=there)
        return np.asarray((each.sum(1) / there.sum(1).clip(1)).reshape(resampled.shape[:axis] or ()))

    value = float(f1(outcomes))
    if len(y) == 1:
        return figure(value, 0.0, 1.0, 1, "whole range: one part gives no interval")
    low, high = bootstrap_limits((np.sort(outcomes),), f1, seed=0)
    return figure(value, low, high, len(y), bootstrap_method("parts", 0))


def _of_class(counts: NDArray[np.int64], i: int) -> dict[str, Any]:
    right = int(counts[i, i])
    return {"recall": rate(right, int(counts[i].sum())), "precision": rate(right, int(counts[:, i].sum()))}

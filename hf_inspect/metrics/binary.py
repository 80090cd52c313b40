"""Labels and severities, or labels and decisions -> accuracy, AUROC, escapes and overkill with 95 % intervals.

Escapes: defects passed as good, of all defects. Overkill: good parts rejected, of all good parts.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.metrics.inputs import as_decisions, as_labels, as_severities, same_length
from hf_inspect.metrics.intervals import Figure, bootstrap_limits, bootstrap_method, figure, rate, undefined


def binary_report(labels: ArrayLike, severity: ArrayLike, threshold: float, seed: int = 0) -> dict[str, Any]:
    """`decision_report` of `severity >= threshold` -> defect, and the AUROC of the severities."""
    y = as_labels(labels)
    p = as_severities(severity, "severities", len(y))
    report = decision_report(y, p >= threshold)
    return report | {"auroc": auroc(y, p, seed), "threshold": float(threshold)}


def decision_report(labels: ArrayLike, decisions: ArrayLike) -> dict[str, Any]:
    """Final verdicts (n,) of 0 (good), 1 (defect) and -1 (undecided) against labels -> n and rates.

    `defect_given_shipped` is the share of defects among the parts passed as good; it holds for the `prevalence`
    reported beside it and for no other. An undecided part is not right, and neither an escape nor overkill.
    """
    y, said = as_labels(labels), as_decisions(decisions)
    same_length(y, said, "labels and decisions")
    defects, passed, rejected = int(y.sum()), said == 0, said == 1
    escaped = int((passed & (y == 1)).sum())
    return {
        "n": len(y),
        "accuracy": rate(int((said == y).sum()), len(y)),
        "escapes": rate(escaped, defects),
        "overkill": rate(int((rejected & (y == 0)).sum()), len(y) - defects),
        "defect_given_shipped": rate(escaped, int(passed.sum())),
        "prevalence": rate(defects, len(y)),
        "undecided": rate(int((said == -1).sum()), len(y)),
    }


def auroc(labels: ArrayLike, scores: ArrayLike, seed: int = 0) -> Figure:
    """P(a defect scores above a good part), ties as one half; each class bootstrapped by itself.

    Where the scores separate the classes fully the bootstrap has no width; the limits are then exact ones from
    min(goods, defects) disjoint pairs, each of which is ordered right (or wrong) independently.
    """
    y = as_labels(labels)
    p = as_severities(scores, "scores", len(y))
    goods, defects = np.sort(p[y == 0]), np.sort(p[y == 1])
    fewest = min(len(goods), len(defects))
    if fewest == 0:
        return undefined(len(y), f"AUROC needs both classes, came {len(goods)} good and {len(defects)} defect")
    value = float(_area(goods, defects))
    if value in (0.0, 1.0):
        pairs = rate(int(value) * fewest, fewest)
        return figure(value, pairs["low"] or 0.0, pairs["high"] or 0.0, len(y), "exact on disjoint pairs 95 %")
    if fewest == 1:
        return figure(value, 0.0, 1.0, len(y), "whole range: one part of a class gives no interval")
    low, high = bootstrap_limits((goods, defects), _area, seed)
    return figure(value, low, high, len(y), bootstrap_method("parts of each class", seed))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overkill (false alarms) and caught defects, both (m,) rising from 0 to 1, one point a distinct score."""
    y = as_labels(labels)
    p = as_severities(scores, "scores", len(y))
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(p[order])), len(y) - 1) if len(y) else np.array([], dtype=int)
    caught = np.append(0, np.cumsum(y[order])[last_of_tie])
    alarms = np.append(0, last_of_tie + 1) - caught
    return alarms / max(1, alarms[-1]), caught / max(1, caught[-1])


def _area(goods: NDArray[np.float64], defects: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    n, m = goods.shape[axis], defects.shape[axis]
    ranks = rankdata(np.concatenate([goods, defects], axis=axis), axis=axis)
    rank_sum = np.take(ranks, np.arange(n, n + m), axis=axis).sum(axis=axis)
    return np.asarray((rank_sum - m * (m + 1) / 2) / (n * m))

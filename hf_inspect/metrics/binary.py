"""Labels and severities, or labels and decisions -> accuracy, AUROC, escapes and overkill with 95 % intervals.

Escapes: defects passed as good, of all defects. Overkill: good parts rejected, of all good parts.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.metrics.inputs import as_decisions, as_groups, as_labels, as_severities, same_length
from hf_inspect.metrics.intervals import LIMITS, Figure, Rate, figure, grouped, mean_limits, rate_of, undefined

_DRAWS = 200  # weightings of good parts, for what their choice adds to a variance


def binary_report(
    labels: ArrayLike, severity: ArrayLike, threshold: float, groups: ArrayLike | None = None
) -> dict[str, Any]:
    """`decision_report` of `severity >= threshold` -> defect, and the AUROC of the severities."""
    y = as_labels(labels)
    p = as_severities(severity, "severities", len(y))
    report = decision_report(y, p >= threshold, groups)
    return report | {"auroc": auroc(y, p, groups), "threshold": float(threshold)}


def decision_report(labels: ArrayLike, decisions: ArrayLike, groups: ArrayLike | None = None) -> dict[str, Any]:
    """Final verdicts (n,) of 0 (good), 1 (defect) and -1 (undecided) against labels -> n and rates.

    `defect_given_shipped` is the share of defects among the parts passed as good; it holds for the `prevalence`
    reported beside it and for no other. An undecided part is not right, and neither an escape nor overkill.
    `groups` (n,) names the part that each image shows, None where each shows its own: intervals count those.
    """
    y, said = as_labels(labels), as_decisions(decisions)
    same_length(y, said, "labels and decisions")
    of = as_groups(groups, len(y))
    defect, passed = y == 1, said == 0

    def share(hits: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> Rate:
        return rate_of(hits, of) if among is None else rate_of(hits[among], of[among])

    return {
        "n": len(y),
        "accuracy": share(said == y),
        "escapes": share(passed, defect),
        "overkill": share(said == 1, ~defect),
        "defect_given_shipped": share(defect, passed),
        "prevalence": share(defect),
        "undecided": share(said == -1),
    }


def auroc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Figure:
    """P(a defect scores above a good part), ties as one half; scores and group ids (n,).

    Its variance is DeLong's (1988), over groups Obuchowski's (1997). That alone knows nothing of a kind of part that
    the smaller class happens to lack, and is 0 where the scores separate the classes: the limits are `mean_limits`'
    of the smaller class, whose parts' mean the AUROC is, with the variance that the other class adds. At full
    separation they are the exact ones of as many pairs as the smaller class has parts.
    """
    y = as_labels(labels)
    p = as_severities(scores, "scores", len(y))
    of, order = as_groups(groups, len(y)), np.lexsort((p, y))  # sums then do not round by the order of the images
    y, p, of = y[order], p[order], of if groups is None else of[order]
    defect = y == 1
    if defect.all() or not defect.any():
        return undefined(len(y), f"AUROC needs both classes, came {(~defect).sum()} good and {defect.sum()} defect")
    won = _won(p, defect)
    sides = (_by_group(won[side], of[side], of.max() + 1) for side in (defect, ~defect))
    smaller, larger = sorted(sides, key=_present)
    value, there = float(won[defect].mean()), smaller[1] > 0
    low, high = mean_limits(smaller[0][there], smaller[1][there], _further(smaller, larger, value))
    by_group = grouped(np.bincount(of))
    method = f"{'Obuchowski' if by_group else 'DeLong'} variance, {LIMITS}{by_group}"
    return figure(value, low, high, len(y), method)


def average_precision(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Figure:
    """Mean over the defects of the precision at each one's score (n,): the area under precision over recall, in steps.

    The limits are `mean_limits`' of that mean, by group, with the variance that comes of which good parts were there:
    that of `_DRAWS` random weightings of their groups. It depends on the prevalence, as every precision does.
    """
    y = as_labels(labels)
    p = as_severities(scores, "scores", len(y))
    of, order = as_groups(groups, len(y)), np.lexsort((y, -p))
    y, p, of = y[order], p[order], of[order]
    defect = y == 1
    if defect.all() or not defect.any():
        return undefined(len(y), f"precision needs both classes, came {(~defect).sum()} good and {defect.sum()} defect")
    end_of_tie = np.searchsorted(-p, -p[defect], "right") - 1
    caught = np.cumsum(defect)[end_of_tie]
    precision = caught / (1 + end_of_tie)
    weights = np.random.default_rng(0).dirichlet(np.ones(of.max() + 1), _DRAWS) * (of.max() + 1)
    alarms = np.cumsum(weights[:, of] * ~defect, axis=1)[:, end_of_tie]
    further = float((caught / (caught + alarms)).mean(1).var())
    there = np.bincount(of[defect], minlength=of.max() + 1)
    sums = np.bincount(of[defect], precision, of.max() + 1)
    low, high = mean_limits(sums[there > 0], there[there > 0], further)
    return figure(precision.mean(), low, high, len(y), f"mean over defects, {LIMITS}{grouped(np.bincount(of))}")


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overkill (false alarms) and caught defects, both (m,) rising from 0 to 1, one point a distinct score."""
    y = as_labels(labels)
    p = as_severities(scores, "scores", len(y))
    order = np.argsort(-p, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(p[order])), len(y) - 1) if len(y) else np.array([], dtype=int)
    caught = np.append(0, np.cumsum(y[order])[last_of_tie])
    alarms = np.append(0, last_of_tie + 1) - caught
    return alarms / max(1, alarms[-1]), caught / max(1, caught[-1])


_Sums = tuple[NDArray[Any], NDArray[Any]]  # of the images of a class, by group: what they won, how many


def _won(p: NDArray[np.float64], defect: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of the other class that each image (n,) is on the right side of, ties as one half, from midranks."""
    from scipy.stats import rankdata

    own = np.empty(len(p))
    for side in (defect, ~defect):
        own[side] = rankdata(p[side])
    below = rankdata(p) - own  # how many of the other class lie below
    return np.where(defect, below / (~defect).sum(), 1 - below / defect.sum())


def _by_group(won: NDArray[np.float64], of: NDArray[np.int64], groups: int) -> _Sums:
    return np.bincount(of, won, groups), np.bincount(of, minlength=groups)


def _present(sums: _Sums) -> int:
    """How many groups have an image of the class."""
    return int((sums[1] > 0).sum())


def _further(smaller: _Sums, larger: _Sums, value: float) -> float:
    """Variance that the larger class adds, and what a group of both classes adds to either; never below 0."""
    errors = [(won - value * sizes) / sizes.sum() for won, sizes in (smaller, larger)]
    both = int(((smaller[1] > 0) | (larger[1] > 0)).sum())
    variance = (errors[1] ** 2).sum() * _present(larger) / max(1, _present(larger) - 1)
    covariance = (errors[0] * errors[1]).sum() * both / max(1, both - 1)
    return float(variance + 2 * max(0.0, covariance))

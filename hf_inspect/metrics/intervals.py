"""Counts and per-part outcomes -> figures with 95 % intervals, as plain dictionaries for results.json.

Images of one group are one part seen several times: intervals count groups. A figure that is not defined (no parts, one
class) has value, low and high None, and `method` says why; input that is wrong (k > n, scores outside [0, 1], columns
of unlike length) raises DataError.
"""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_groups, as_labels, same_length

CONFIDENCE = 0.95  # of every interval in results.json
LIMITS = "Gaffke limits 95 %"  # how `method` names those of `mean_limits`
_TAIL = (1 - CONFIDENCE) / 2
_LEAST_PRECISION = 1e-3  # of a beta distribution that says nothing: nearly all of it lies at 0 and 1


class Rate(TypedDict):
    """k of n, with the interval `method` gives; value, low, high in [0, 1], None where n is 0."""

    value: float | None
    k: int
    n: int
    low: float | None
    high: float | None
    method: str


class Figure(TypedDict):
    """A figure that is no count, over n parts; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str


def rate(k: int, n: int) -> Rate:
    """k of n independent parts with the exact (Clopper-Pearson) interval, which covers at least as often as it says."""
    if not 0 <= k <= n:
        raise DataError(f"A rate of {k} of {n} was asked for; 0 <= k <= n is wanted.")
    if n == 0:
        return {"value": None, "k": 0, "n": 0, "low": None, "high": None, "method": "undefined: n = 0"}
    low, high = _exact_limits(int(k), int(n))
    return {"value": k / n, "k": int(k), "n": int(n), "low": low, "high": high, "method": "Clopper-Pearson 95 %"}


def rate_of(hits: ArrayLike, groups: ArrayLike | None = None) -> Rate:
    """The share of hits among n images (n,), 1 or 0, of `groups` (n,); None: each image is a part of its own.

    Where a group has several images the interval is `mean_limits`' over groups; else it is `rate`'s, which are equal.
    """
    y = as_labels(hits, "hits")
    of = as_groups(groups, len(y))
    found, sizes = rate(int(y.sum()), len(y)), np.bincount(of)
    if len(sizes) == len(y):
        return found
    low, high = mean_limits(np.bincount(of, y), sizes)
    return found | {"low": low, "high": high, "method": LIMITS + grouped(sizes)}


def paired_difference(a_correct: ArrayLike, b_correct: ArrayLike, groups: ArrayLike | None = None) -> Figure:
    """Accuracy of a minus accuracy of b on the same images, in [-1, 1]; inputs (n,) of right (1) and wrong (0).

    The limits are `mean_limits`' of (1 + a - b) / 2, which is 0, a half or 1 of each image.
    """
    a, b = as_labels(a_correct, "a_correct"), as_labels(b_correct, "b_correct")
    same_length(a, b, "a_correct and b_correct")
    if len(a) == 0:
        return undefined(0, "n = 0")
    of = as_groups(groups, len(a))
    sizes = np.bincount(of)
    low, high = mean_limits((sizes + np.bincount(of, a - b)) / 2, sizes)
    return figure((a - b).mean(), 2 * low - 1, 2 * high - 1, len(a), LIMITS + grouped(sizes))


def figure(value: float, low: float, high: float, n: int, method: str) -> Figure:
    """A defined figure as plain Python numbers."""
    return {"value": float(value), "low": float(low), "high": float(high), "n": int(n), "method": method}


def undefined(n: int, why: str) -> Figure:
    """A figure without a value; `why` is a phrase such as `one class only`."""
    return {"value": None, "low": None, "high": None, "n": n, "method": f"undefined: {why}"}


def grouped(sizes: NDArray[Any]) -> str:
    """How `method` ends where a group has several images: that the interval counts groups, and how many."""
    return f", by group, {len(sizes)} groups" if sizes.max() > 1 else ""


def mean_limits(sums: NDArray[Any], sizes: NDArray[Any], further_variance: float = 0.0) -> tuple[float, float]:
    """95 % limits of the mean of values in [0, 1], from their `sums` and counts `sizes` (c,) by group.

    Gaffke's limits (2005, Math. Methods of Statistics 14): groups weighted at random, together with one that was not
    seen and is the worst possible, a 0 for the lower limit and a 1 for the upper; that random mean taken as the beta
    distribution of its mean and variance. For values of 0 and 1 in groups of one they are Clopper and Pearson's
    exactly. `further_variance` is added to the mean's own.
    """
    return _lower(sums, sizes, further_variance), 1 - _lower(sizes - sums, sizes, further_variance)


def _lower(sums: NDArray[Any], sizes: NDArray[Any], further_variance: float) -> float:
    """The lower of `mean_limits`: the unseen group has the mean size and holds nothing."""
    from scipy.special import betaincinv

    groups, unseen = len(sizes), sizes.mean()
    total = sizes.sum() + unseen
    mean = sums.sum() / total
    if mean == 0:
        return 0.0
    squares = ((sums - mean * sizes) ** 2).sum() + (mean * unseen) ** 2
    variance = squares / total**2 * (groups + 1) / (groups + 2) + further_variance
    precision = max(mean * (1 - mean) / variance - 1, _LEAST_PRECISION)
    return float(min(betaincinv(mean * precision, (1 - mean) * precision, _TAIL), sums.sum() / sizes.sum()))


def _exact_limits(k: int, n: int) -> tuple[float, float]:
    from scipy.special import betaincinv

    low = betaincinv(k, n - k + 1, _TAIL) if k else 0.0
    high = betaincinv(k + 1, n - k, 1 - _TAIL) if k < n else 1.0
    return float(low), float(high)

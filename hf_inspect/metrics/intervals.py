"""Counts and per-part outcomes -> figures with 95 % intervals, as plain dictionaries for results.json.

A figure that is not defined (no parts, one class) has value, low and high None, and `method` says why;
input that is wrong (k > n, scores outside [0, 1], columns of unlike length) raises DataError.
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_labels, same_length

CONFIDENCE = 0.95  # of every interval in results.json
RESAMPLES = 2000  # a 2.5 % tail then rests on 50 resamples; more moves a limit by less than it is printed with
BATCH_VALUES = 1_100_000  # resampled numbers held at once: 9 MB, and as much for their places
PIECE_VALUES = 100_000  # of them, looked at together


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
    """k of n with its exact (Clopper-Pearson) interval, which covers at least as often as it says at every n."""
    if not 0 <= k <= n:
        raise DataError(f"A rate of {k} of {n} was asked for; 0 <= k <= n is wanted.")
    if n == 0:
        return {"value": None, "k": 0, "n": 0, "low": None, "high": None, "method": "undefined: n = 0"}
    low, high = _exact_limits(int(k), int(n))
    return {"value": k / n, "k": int(k), "n": int(n), "low": low, "high": high, "method": "Clopper-Pearson 95 %"}


def paired_difference(a_correct: ArrayLike, b_correct: ArrayLike, seed: int = 0) -> Figure:
    """Accuracy of a minus accuracy of b on the same parts, in [-1, 1]; inputs (n,) of right (1) and wrong (0).

    Percentile bootstrap over parts. Where a and b never differ the bootstrap has no width; the limits are then
    the exact ones of the share on which they could still differ.
    """
    a, b = as_labels(a_correct, "a_correct"), as_labels(b_correct, "b_correct")
    same_length(a, b, "a_correct and b_correct")
    n = len(a)
    if n == 0:
        return undefined(0, "n = 0")
    difference = np.sort(a - b).astype(np.float64)  # sorted: the limits do not depend on the order of the parts
    value = float(difference.mean())
    if not difference.any():
        unseen = _exact_limits(0, n)[1]
        return figure(value, -unseen, unseen, n, "exact limit of the discordant share 95 % (no pair differs)")
    if n == 1:
        return figure(value, -1.0, 1.0, n, "whole range: one part gives no interval")
    low, high = bootstrap_limits((difference,), lambda x, axis=-1: x.mean(axis=axis), seed)
    return figure(value, low, high, n, bootstrap_method("parts", seed))


def figure(value: float, low: float, high: float, n: int, method: str) -> Figure:
    """A defined figure as plain Python numbers."""
    return {"value": float(value), "low": float(low), "high": float(high), "n": int(n), "method": method}


def undefined(n: int, why: str) -> Figure:
    """A figure without a value; `why` is a phrase such as `one class only`."""
    return {"value": None, "low": None, "high": None, "n": n, "method": f"undefined: {why}"}


def bootstrap_limits(
    samples: tuple[NDArray[np.float64], ...], statistic: Callable[..., NDArray[np.float64]], seed: int
) -> tuple[float, float]:
    """95 % percentile limits of `statistic(*samples, axis)`; each sample (two values or more) resampled by itself."""
    from scipy.stats import bootstrap

    def piecewise(*resampled: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """The statistic of some resamples at a time: ranking takes eight times the memory of what is ranked."""
        rows = max(1, PIECE_VALUES // sum(map(len, samples)))
        starts = range(0, len(resampled[0]), rows)
        return np.concatenate([statistic(*(one[at : at + rows] for one in resampled), axis=axis) for at in starts])

    result = bootstrap(
        samples,
        piecewise,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // sum(map(len, samples))),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def bootstrap_method(over: str, seed: int) -> str:
    """How `bootstrap_limits` is named in results.json."""
    return f"percentile bootstrap over {over} 95 %, {RESAMPLES} resamples, seed {seed}"


def _exact_limits(k: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)

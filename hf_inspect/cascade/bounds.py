"""Calibration scores of a fixed score -> two limits with a stated risk, by order statistics.

The (k+1)-th smallest of n exchangeable defect scores has Beta(k+1, n-k) of all defects below it, or fewer where
scores tie. k is chosen from n alone, so nothing is selected on the scores and the bound holds as stated (Wilks 1941;
split conformal prediction, arXiv 2107.07511).
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED, check_number, check_open, settings
from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_labels, as_severities


@dataclass(frozen=True, slots=True)
class Promise:
    """What a plant signs: P(says good | defect) <= `escape` and P(says defect | good) <= `overkill`.

    Both hold together with `confidence` over calibration draws; each may fail in `miss` of them.
    """

    escape: float = 0.05
    overkill: float = 0.10
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for key in ("escape", "overkill", "confidence"):
            check_open("The promise", key, getattr(self, key))

    @property
    def miss(self) -> float:
        """How often each bound may fail, so that both hold with `confidence`."""
        return (1 - self.confidence) / 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Good strictly below `low`, defect strictly above `high`, nobody's verdict between; None: never said.

    `k_defects` and `k_goods` are how many calibration scores may lie beyond each limit, `defects` and `goods` how many
    there were, of a group one of each class; `left_out` further parts of these groups. `crossed`: the upper limit lay
    below the lower, and was raised to it.
    """

    low: float | None
    high: float | None
    defects: int
    goods: int
    left_out: int
    k_defects: int | None
    k_goods: int | None
    crossed: bool = False

    def __post_init__(self) -> None:
        for key in ("low", "high"):
            if getattr(self, key) is not None:
                check_number("The certificate", key, getattr(self, key), -math.inf, math.inf)
        if (self.low is None) != (self.k_defects is None) or (self.high is None) != (self.k_goods is None):
            raise DataError("The certificate: a limit and its count must come together; calibrate anew.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"The certificate: low {self.low} lies above high {self.high}; calibrate anew.")

    def codes(self, scores: ArrayLike) -> NDArray[np.int64]:
        """IS_GOOD, IS_DEFECT or UNDECIDED for scores (n,); NaN, no score, is undecided."""
        found = np.asarray(scores, np.float64)
        good = found < (-np.inf if self.low is None else self.low)
        defect = found > (np.inf if self.high is None else self.high)
        return np.select([good, defect], [IS_GOOD, IS_DEFECT], UNDECIDED)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Limits":
        """The inverse of `dataclasses.asdict`; unknown or missing keys raise DataError."""
        return cls(**settings(cls, "The certificate's limits", values))


def fit_limits(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, promise: Promise, seed: int = 0) -> Limits:
    """Limits of a score that was fixed before: scores (n,), labels (n,; 1 a defect), group ids (n,).

    One defect and one good part a group enter, drawn by `seed` and independent of the order of the rows: the bounds are
    for the population such parts are drawn from.
    """
    p, y = as_severities(scores, "the calibration scores"), as_labels(labels)
    kept = one_per_group(p, y, groups, seed)
    defects, goods = np.sort(p[kept][y[kept] == 1]), np.sort(p[kept][y[kept] == 0])
    k1, k0 = (
        largest_k(len(defects), promise.escape, promise.miss),
        largest_k(len(goods), promise.overkill, promise.miss),
    )
    low = None if k1 is None else float(defects[k1])
    high = None if k0 is None else float(goods[len(goods) - 1 - k0])
    crossed = low is not None and high is not None and low > high
    return Limits(
        low=low,
        high=low if crossed else high,
        defects=len(defects),
        goods=len(goods),
        left_out=len(p) - len(kept),
        k_defects=k1,
        k_goods=k0,
        crossed=crossed,
    )


def largest_k(n: int, risk: float, miss: float) -> int | None:
    """Largest k in 0..n-1 with BetaCDF(risk; k+1, n-k) >= 1 - miss, or None.

    A limit at the (k+1)-th of n scores then leaves at most `risk` beyond it in all but `miss` of the draws.
    """
    valid = bisect_right(
        range(n), miss, key=lambda k: _beyond(k, n, risk)
    )  # it grows with k: the valid ones come first
    return valid - 1 if valid else None


def parts_needed(risk: float, miss: float, k: int = 0) -> int:
    """Fewest calibration parts of one class with which k of them may lie beyond the limit.

    For k = 0 that is (1 - risk) ** n <= miss, in closed form.
    """
    least = max(1, math.floor(math.log(miss) / math.log1p(-risk)))
    if k == 0:
        return next((n for n in (least, least + 1) if _beyond(0, n, risk) <= miss), least + 2)  # the quotient rounds
    most = least + k + 1
    while _beyond(k, most, risk) > miss:
        most *= 2
    return bisect_left(range(most + 1), -miss, lo=k + 1, key=lambda n: -_beyond(k, n, risk))


def _beyond(k: int, n: int, risk: float) -> float:
    """P(more than `risk` lies beyond the (k+1)-th of n scores): the upper tail, exact where 1 - miss would round."""
    from scipy.special import betaincc

    return float(betaincc(k + 1, n - k, risk))


def one_per_group(p: NDArray[np.float64], y: NDArray[np.int64], groups: ArrayLike, seed: int) -> NDArray[np.intp]:
    """Row numbers of one defect and one good part of each group that has such, each as likely, whatever the row order.

    Each bound is of one class: were one drawn of all, a defect among many good ones would hardly ever enter.
    """
    names = np.asarray(groups).astype(str)
    if names.shape != p.shape or len(y) != len(p) or len(p) == 0:
        raise DataError(
            f"Calibration got {len(p)} scores, {len(y)} labels and groups of shape {names.shape}; "
            "one of each for every part of the calibration split is wanted."
        )
    own = 2 * np.unique(names, return_inverse=True)[1] + y  # a number for each class of each group
    order = np.lexsort((p, own))
    _, starts, sizes = np.unique(own[order], return_index=True, return_counts=True)
    return np.asarray(order[starts + np.random.default_rng(seed).integers(0, sizes)])

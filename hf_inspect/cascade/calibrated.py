"""Calibration scores -> two edge thresholds with a stated risk (policy `calibrated`).

The (k+1)-th smallest of n exchangeable defect scores has Beta(k+1, n-k) of all defects below it, or fewer where
scores tie. k is chosen from n alone, so nothing is selected on the scores and the bound holds as stated.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED, Routes, check_number, check_open, settings
from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_labels, as_severities


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The edge says `good` strictly below `low`, `defect` strictly above `high`; what lies between escalates.

    A threshold of None means that the edge never gives that verdict. `escape` bounds P(edge good | defect),
    `overkill` bounds P(edge defect | good); jointly with `confidence` over calibration draws. `k_defects` and
    `k_goods` are how many calibration scores may lie beyond each threshold. Thresholds are severities: any finite
    numbers, higher is worse.
    """

    low: float | None
    high: float | None
    escape: float
    overkill: float
    confidence: float
    defects: int
    goods: int
    left_out: int
    k_defects: int | None
    k_goods: int | None
    seed: int
    cloud_threshold: float
    statement: str

    name: ClassVar[str] = "calibrated"
    needs_complexity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key in ("escape", "overkill", "confidence"):
            check_open("Policy 'calibrated'", key, getattr(self, key))
        for key in ("low", "high", "cloud_threshold"):
            if getattr(self, key) is not None or key == "cloud_threshold":
                check_number("Policy 'calibrated'", key, getattr(self, key), -math.inf, math.inf)
        if (self.low is None) != (self.k_defects is None) or (self.high is None) != (self.k_goods is None):
            raise DataError("Policy 'calibrated': a threshold and its count must come together; calibrate anew.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"Policy 'calibrated': low {self.low} lies above high {self.high}; calibrate anew.")

    def route_batch(
        self, severity: ArrayLike, probabilities: ArrayLike | None = None, complexity: ArrayLike | None = None
    ) -> Routes:
        """Routes of (n,) severities of the edge; nothing else plays a part in this policy."""
        found = as_severities(severity, "the edge's severities")
        good = found < self.low if self.low is not None else np.zeros(len(found), bool)
        defect = found > self.high if self.high is not None else np.zeros(len(found), bool)
        codes = np.select([good, defect], [IS_GOOD, IS_DEFECT], UNDECIDED)
        reasons = np.select([good, defect], ["below the good threshold", "above the defect threshold"], self._between())
        return Routes(codes, reasons)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, `policy` naming it."""
        return {"policy": self.name} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibrated":
        """The inverse of `to_dict`; unknown or missing keys raise DataError."""
        return cls(**settings(cls, values))

    def _between(self) -> str:
        if self.low is None and self.high is None:
            return "too few calibration parts for any verdict of the edge"
        if self.low is None:
            return "not above the defect threshold, and too few calibration defects to say good"
        if self.high is None:
            return "not below the good threshold, and too few calibration goods to say defect"
        return "between the thresholds"


def fit_calibrated(
    severity: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    escape: float = 0.05,
    overkill: float = 0.10,
    confidence: float = 0.95,
    seed: int = 0,
    cloud_threshold: float = 0.5,
) -> Calibrated:
    """Thresholds from the calibration split: severities of the edge (n,), labels (n,; 1 a defect) and group ids (n,).

    One defect and one good part a group enter, drawn by `seed` and independent of the order of the rows. The bounds are
    for the population such parts are drawn from. A VLM's severity >= `cloud_threshold` is a defect on escalated parts;
    the risk stated here does not depend on it.
    """
    p, y = as_severities(severity, "the edge's severities"), as_labels(labels)
    for key, value in (("escape", escape), ("overkill", overkill), ("confidence", confidence)):
        check_open("Calibration", key, value)
    kept = one_per_group(p, y, groups, seed)
    defects, goods = np.sort(p[kept][y[kept] == 1]), np.sort(p[kept][y[kept] == 0])
    miss = (1 - confidence) / 2  # each bound may fail this often, so that both hold with `confidence`
    k1, k0 = largest_k(len(defects), escape, miss), largest_k(len(goods), overkill, miss)
    low = None if k1 is None else float(defects[k1])
    high = None if k0 is None else float(goods[len(goods) - 1 - k0])
    crossed = low is not None and high is not None and low > high
    fitted = Calibrated(
        low=low,
        high=low if crossed else high,
        escape=float(escape),
        overkill=float(overkill),
        confidence=float(confidence),
        defects=len(defects),
        goods=len(goods),
        left_out=len(p) - len(kept),
        k_defects=k1,
        k_goods=k0,
        seed=int(seed),
        cloud_threshold=float(cloud_threshold),
        statement="",
    )
    return Calibrated(**asdict(fitted) | {"statement": risk_statement(fitted, crossed)})


def largest_k(n: int, risk: float, miss: float) -> int | None:
    """Largest k in 0..n-1 with BetaCDF(risk; k+1, n-k) >= 1 - miss, or None.

    A threshold at the (k+1)-th of n scores then leaves at most `risk` beyond it in all but `miss` of the draws.
    """
    valid = bisect_right(
        range(n), miss, key=lambda k: _beyond(k, n, risk)
    )  # it grows with k: the valid ones come first
    return valid - 1 if valid else None


def parts_needed(risk: float, miss: float) -> int:
    """Fewest calibration parts of one class with which k = 0 is allowed: (1 - risk) ** n <= miss."""
    least = max(1, math.floor(math.log(miss) / math.log1p(-risk)))
    return next((n for n in (least, least + 1) if _beyond(0, n, risk) <= miss), least + 2)  # where the quotient rounds


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


def risk_statement(policy: Calibrated, crossed: bool) -> str:
    """What the thresholds promise and what they do not, in plain words."""
    miss = (1 - policy.confidence) / 2
    sentences = [
        f"Calibrated on {policy.defects + policy.goods} parts, of a group one of each class: {policy.defects} defects "
        f"and {policy.goods} good; {policy.left_out} further parts of these groups left out.",
        _good_sentence(policy, miss),
        _defect_sentence(policy, miss),
        f"Each bound holds with confidence {1 - miss:.2%} over calibration draws, both with {policy.confidence:.2%}, "
        "for parts exchangeable with these.",
    ]
    if crossed:
        sentences.insert(3, "The thresholds crossed; the upper was raised to the lower.")
    sentences.append("What the edge and the VLM let through together is measured on the test split, not promised.")
    return " ".join(sentences)


def _good_sentence(policy: Calibrated, miss: float) -> str:
    if policy.low is None:
        return (
            f"The edge never says good: {policy.defects} calibration defects are too few for an escape of at most "
            f"{policy.escape:.2%}, it takes {parts_needed(policy.escape, miss)}."
        )
    return (
        f"The edge says good to at most {policy.escape:.2%} of defects: below {policy.low:.6g}, "
        f"where at most {policy.k_defects} of the calibration defects lie."
    )


def _defect_sentence(policy: Calibrated, miss: float) -> str:
    if policy.high is None:
        return (
            f"The edge never says defect: {policy.goods} good calibration parts are too few for an overkill of at "
            f"most {policy.overkill:.2%}, it takes {parts_needed(policy.overkill, miss)}."
        )
    return (
        f"The edge says defect to at most {policy.overkill:.2%} of good parts: above {policy.high:.6g}, "
        f"where at most {policy.k_goods} of the good calibration parts lie."
    )

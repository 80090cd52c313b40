"""Stored scores + a policy -> the verdicts the cascade gives, without running a model again."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_inspect.cascade.certified import Certified
from hf_inspect.cascade.routes import ASK, IS_DEFECT, IS_GOOD, UNDECIDED
from hf_inspect.cascade.saec import Saec
from hf_inspect.cascade.uncertified import Uncertified
from hf_inspect.errors import DataError
from hf_inspect.metrics import Rate, rate_of
from hf_inspect.metrics.inputs import as_labels, as_severities

Policy = Certified | Saec | Uncertified
Fallback = Literal["reject", "hold", "pass"]
FALLBACK_CODES = {"reject": IS_DEFECT, "hold": UNDECIDED, "pass": IS_GOOD}


@dataclass(frozen=True, eq=False, slots=True)
class Replay:
    """Every part's outcome, arrays of (n,) in the order given.

    codes: IS_GOOD, IS_DEFECT or UNDECIDED. severity: that of whoever decided (the edge's where a rule did).
    decided_by: `edge`, `vlm`, `both` or `rule`. asked_because: why the edge's step asked the VLM, or did
    not. escalated: bool, whether the VLM was to be asked.
    """

    codes: NDArray[np.int64]
    severity: NDArray[np.float64]
    decided_by: NDArray[np.str_]
    asked_because: NDArray[np.str_]
    escalated: NDArray[np.bool_]

    def asked(self, groups: ArrayLike | None = None) -> dict[str, Rate]:
        """Share of all parts that the VLM was to be asked about, by why, most frequent first.

        Intervals count `groups` (n,), the parts that the images show; None: each shows its own.
        """
        names, counts = np.unique(self.asked_because[self.escalated], return_counts=True)
        by_reason = sorted(zip(counts.tolist(), names.tolist(), strict=True), key=lambda row: (-row[0], row[1]))
        return {name: rate_of(self.escalated & (self.asked_because == name), groups) for _, name in by_reason}


def replay(
    policy: Policy,
    edge: ArrayLike,
    vlm: ArrayLike | None = None,
    *,
    probabilities: ArrayLike | None = None,
    complexity: ArrayLike | None = None,
    fallback: Fallback = "hold",
) -> Replay:
    """Outcomes of (n,) parts from the severities that edge and VLM gave them.

    `vlm` may be NaN where the VLM did not answer, or None as a whole. What nobody may decide follows `fallback`:
    reject -> defect, hold -> undecided, pass -> good. So do parts whose edge is NaN: it failed, and the VLM is not
    asked. `probabilities` (n, k) of the edge and `complexity` (n,) are what the policy `saec` looks at.
    """
    own = as_severities(edge, "the edge's severities", allow_nan=True)
    cloud = np.full(len(own), np.nan) if vlm is None else as_severities(vlm, "the VLM's severities", len(own), True)
    if fallback not in FALLBACK_CODES:
        raise DataError(f"Fallback {fallback!r} was asked for; choose from {sorted(FALLBACK_CODES)}.")
    failed = np.isnan(own)
    p = None if probabilities is None else np.nan_to_num(np.asarray(probabilities, np.float64))
    first = policy.first(np.nan_to_num(own), p, complexity)
    escalated = (first.codes == ASK) & ~failed
    answered = escalated & ~np.isnan(cloud)
    codes = np.where(failed | escalated, UNDECIDED, first.codes)
    codes[answered] = policy.second(own[answered], cloud[answered]).codes
    severity = own.copy()
    severity[answered] = policy.severity(own[answered], cloud[answered])
    nobody = codes == UNDECIDED
    return Replay(
        codes=np.where(nobody, FALLBACK_CODES[fallback], codes),
        severity=severity,
        decided_by=np.select([nobody, answered], ["rule", policy.decider], "edge"),
        asked_because=np.where(failed, "the edge gave no answer", first.reasons),
        escalated=escalated,
    )


def threshold_at_overkill(labels: ArrayLike, severity: ArrayLike, rejected: int) -> float:
    """The lowest threshold that rejects at most `rejected` of the good parts, a severity >= it being a defect.

    Labels (n,; 1 a defect) and severities (n,) of one model.
    """
    y, found = as_labels(labels), as_severities(severity, "the severities")
    goods = np.sort(found[y == 0])[::-1]
    if rejected >= len(goods):
        return float(found.min())
    return float(np.nextafter(goods[rejected], np.inf))

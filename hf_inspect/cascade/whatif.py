"""Stored calibration scores + the risks somebody asks for -> the thresholds, and what they do on those same scores.

In-sample: the scores that set the thresholds are those counted here, so nothing is promised for other parts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.cascade.calibrated import Calibrated, fit_calibrated, one_per_group
from hf_inspect.cascade.replay import Policy, Replay, replay, threshold_at_overkill
from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED
from hf_inspect.errors import DataError
from hf_inspect.metrics import Figure, Rate, paired_difference, rate, rate_of
from hf_inspect.metrics.inputs import as_labels, as_severities
from hf_inspect.schema import DEFECT

SPLIT = "calibration"


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationScores:
    """The calibration split's parts, arrays of (n,): label (1: a defect), group id, severities (NaN: no answer).

    Of the edge also class probabilities (n, k), and of each image its complexity (n,), where they are stored.
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    edge: NDArray[np.float64]
    vlm: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    complexity: NDArray[np.float64] | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "CalibrationScores":
        """Out of calibration.jsonl's rows, those of the calibration split; DataError when there is none."""
        own = [_stored(row) for row in rows if row["split"] == SPLIT and "severity" in row.get("edge", {})]
        if not own:
            raise DataError(f"None of the stored scores is of the {SPLIT} split; calibrate the cascade.")
        labels, groups, edge, vlm, p, complexity = zip(*own, strict=True)
        return cls(
            labels=as_labels(labels),
            groups=np.array(groups),
            edge=as_severities(edge, "the edge's severities"),
            vlm=np.array(vlm, np.float64),
            probabilities=None if None in p else np.array(p, np.float64),
            complexity=None if None in complexity else np.array(complexity, np.float64),
        )

    def played(self, policy: Policy) -> Replay:
        """What the cascade does with these parts under a policy."""
        return replay(policy, self.edge, self.vlm, probabilities=self.probabilities, complexity=self.complexity)


@dataclass(frozen=True, slots=True)
class EdgeAlone:
    """The edge alone at one threshold (a severity >= it is a defect) with the overkill of a whole cascade.

    Both as measured on the calibration parts: `escapes` and `cascade_escapes` of the defects, `overkill` and
    `cascade_overkill` of the good parts, and `difference`, the cascade's share of escapes minus the edge's.
    """

    threshold: float
    escapes: Rate
    cascade_escapes: Rate
    overkill: Rate
    cascade_overkill: Rate
    difference: Figure

    @property
    def second_look_pays(self) -> bool:
        """Whether the whole interval of `difference` lies below 0."""
        return self.difference["high"] is not None and self.difference["high"] < 0

    def sentence(self) -> str:
        """What a second look buys at this overkill, in words."""
        ours, alone, of = self.cascade_escapes["k"], self.escapes["k"], self.escapes["n"]
        verdict = "The second look pays" if self.second_look_pays else "It is not shown that the second look pays"
        low, high = self.difference["low"], self.difference["high"]
        spread = "" if low is None or high is None else f", a difference of {low:+.1%} to {high:+.1%}"
        return (
            f"{verdict}: on the {SPLIT} split the cascade passes {ours} of {of} defects, and the edge alone, at one "
            f"threshold ({self.threshold:.4g}) with the cascade's overkill, {alone}{spread}."
        )


def edge_alone(scores: CalibrationScores, policy: Policy) -> EdgeAlone:
    """The rival that every cascade is to be held against: one threshold of its own edge, at no more overkill."""
    codes, defects = scores.played(policy).codes, scores.labels == 1
    passed, rejected = codes == IS_GOOD, codes == IS_DEFECT
    threshold = threshold_at_overkill(scores.labels, scores.edge, int(rejected[~defects].sum()))
    says, groups = scores.edge >= threshold, scores.groups
    return EdgeAlone(
        threshold=threshold,
        escapes=rate_of(~says[defects], groups[defects]),
        cascade_escapes=rate_of(passed[defects], groups[defects]),
        overkill=rate_of(says[~defects], groups[~defects]),
        cascade_overkill=rate_of(rejected[~defects], groups[~defects]),
        difference=paired_difference(passed[defects], ~says[defects], groups[defects]),
    )


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Thresholds for other risks, and their outcome on the parts that set them (of a group one of each class).

    `escalated` and `undecided` are of all parts. `escapes` (of the defects) and `overkill` (of the good parts) are
    the whole cascade's, `edge_escapes` and `edge_overkill` the edge's share in them.
    """

    policy: Calibrated
    escalated: Rate
    undecided: Rate
    escapes: Rate
    overkill: Rate
    edge_escapes: Rate
    edge_overkill: Rate


def what_if(
    scores: CalibrationScores, escape: float, overkill: float, confidence: float, cloud_threshold: float = 0.5
) -> WhatIf:
    """The `calibrated` policy fitted anew for these risks, replayed on the parts it was fitted on.

    Without a VLM's score an escalated part stays undecided: neither escape nor overkill.
    """
    policy = fit_calibrated(
        scores.edge, scores.labels, scores.groups, escape, overkill, confidence, cloud_threshold=cloud_threshold
    )
    kept = one_per_group(scores.edge, scores.labels, scores.groups, policy.seed)
    y = scores.labels[kept]
    played = replay(policy, scores.edge[kept], scores.vlm[kept])
    passed, rejected, by_edge = played.codes == IS_GOOD, played.codes == IS_DEFECT, ~played.escalated

    def of(label: int, chosen: NDArray[np.bool_]) -> Rate:
        return rate(int((chosen & (y == label)).sum()), int((y == label).sum()))

    return WhatIf(
        policy=policy,
        escalated=rate_of(played.escalated, scores.groups[kept]),
        undecided=rate_of(played.codes == UNDECIDED, scores.groups[kept]),
        escapes=of(1, passed),
        overkill=of(0, rejected),
        edge_escapes=of(1, passed & by_edge),
        edge_overkill=of(0, rejected & by_edge),
    )


def _stored(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What calibration.jsonl's row holds of one part, in the order of CalibrationScores' fields."""
    edge, vlm = row["edge"], row.get("vlm") or {}
    answers = edge["severity"], vlm.get("severity", np.nan), edge.get("probabilities")
    return row["label"] == DEFECT, str(row["group"]), *answers, row.get("complexity")

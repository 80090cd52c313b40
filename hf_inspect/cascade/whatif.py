"""Stored calibration scores + the risks somebody asks for -> the thresholds, and what they do on those same scores.

In-sample: the scores that set the thresholds are those counted here, so nothing is promised for other parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.cascade.calibrated import Calibrated, fit_calibrated, one_per_group
from hf_inspect.cascade.replay import replay
from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED
from hf_inspect.errors import DataError
from hf_inspect.metrics import Rate, rate, rate_of
from hf_inspect.metrics.inputs import as_labels, as_severities
from hf_inspect.schema import DEFECT

SPLIT = "calibration"


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationScores:
    """The calibration split's parts, arrays of (n,): label (1: a defect), group id, severities (NaN: no answer)."""

    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    edge: NDArray[np.float64]
    vlm: NDArray[np.float64]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> "CalibrationScores":
        """Out of calibration.jsonl's rows, those of the calibration split; DataError when there is none."""
        own = [row for row in rows if row["split"] == SPLIT and "severity" in row["edge"]]
        if not own:
            raise DataError(f"None of the {len(rows)} stored scores is of the {SPLIT} split; calibrate the cascade.")
        return cls(
            labels=as_labels([row["label"] == DEFECT for row in own]),
            groups=np.array([str(row["group"]) for row in own]),
            edge=as_severities([row["edge"]["severity"] for row in own], "the edge's severities"),
            vlm=np.array([(row.get("vlm") or {}).get("severity", np.nan) for row in own], np.float64),
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

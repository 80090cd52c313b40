"""What stays undecided at a promise: by the edge alone, by the VLM alone, and by the cascade, on a split's scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import metrics
from hf_inspect.cascade import UNDECIDED, CalibrationScores, Certified, Limits, replay
from hf_inspect.scoring import Scores

ESCAPES = tuple(round(0.01 * i, 2) for i in range(1, 16))  # promised ones, along the curve


def undecided_report(scores: Scores, policy: Certified, stored: CalibrationScores) -> dict[str, Any]:
    """`promise`, `undecided` (edge, vlm, cascade: each at that promise), `fewer_undecided`, `alone`, `undecided_curve`.

    `stored` are the calibration split's scores, which set the models' own limits. `fewer_undecided` is the share that
    the cascade decides minus the share that a model alone does, paired by part; `alone` holds each model's own figures
    at the promise. The curve runs over promised escapes at the same overkill and confidence.
    """
    limits = stored.limits_alone(policy.promise)
    held = _held(scores, policy, limits)
    alone = {
        name: metrics.decision_report(scores.labels, limits[name].codes(scores.answers[name].severity), scores.groups)
        for name in held
        if name != "cascade"
    }
    return {
        "promise": asdict(policy.promise),
        "undecided": {name: metrics.rate_of(one, scores.groups) for name, one in held.items()},
        "fewer_undecided": {
            name: metrics.paired_difference(~held["cascade"], ~held[name], scores.groups) for name in alone
        },
        "alone": alone,
        "undecided_curve": undecided_curve(scores, policy, stored),
    }


def undecided_curve(
    scores: Scores, policy: Certified, stored: CalibrationScores, escapes: Sequence[float] = ESCAPES
) -> list[dict[str, Any]]:
    """Of each promised escape: `escape`, and the rates that `undecided_report` gives; the composite stays as it is."""
    points = []
    for escape in escapes:
        promise = replace(policy.promise, escape=escape)
        held = _held(scores, stored.certified(policy.composite, promise), stored.limits_alone(promise))
        points.append({"escape": escape} | {name: metrics.rate_of(one, scores.groups) for name, one in held.items()})
    return points


def _held(scores: Scores, policy: Certified, alone: Mapping[str, Limits]) -> dict[str, NDArray[np.bool_]]:
    """Which parts (n,) stay undecided, by whom."""
    answers = scores.answers
    held = {
        name: limits.codes(answers[name].severity) == UNDECIDED for name, limits in alone.items() if name in answers
    }
    vlm = answers["vlm"].severity if "vlm" in answers else None
    return held | {"cascade": replay(policy, answers["edge"].severity, vlm).codes == UNDECIDED}

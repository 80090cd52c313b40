"""Stored calibration scores + a promise somebody asks for -> its limits, and what they do on those same scores.

In-sample: the scores that set the limits are those counted here, so nothing is measured for other parts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.cascade.bounds import Limits, Promise, one_per_group
from hf_inspect.cascade.certified import Certified, alone, fit_certified
from hf_inspect.cascade.composite import Composite, Floats, Scale, fit_composite
from hf_inspect.cascade.replay import Policy, Replay, replay, threshold_at_overkill
from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED
from hf_inspect.errors import DataError
from hf_inspect.metrics import Rate, rate, rate_of
from hf_inspect.metrics.inputs import as_labels, as_severities
from hf_inspect.schema import DEFECT

VALIDATION, SPLIT = "validation", "calibration"
OUT_OF_FOLD = "out of fold "  # what the split of a sibling's rows begins with, before the fold: 1/2


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationScores:
    """A split's parts, arrays of (n,): label (1: a defect), group id, severities (NaN: no answer).

    Of the edge also class probabilities (n, k), and of each image its complexity (n,), where they are stored.
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    edge: Floats
    vlm: Floats
    probabilities: Floats | None = None
    complexity: Floats | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], split: str = SPLIT) -> "CalibrationScores":
        """Out of calibration.jsonl's rows, those of a split; DataError when there is none."""
        own = [_stored(row) for row in rows if row["split"] == split and "severity" in row.get("edge", {})]
        if not own:
            raise DataError(f"None of the stored scores is of the {split} split; calibrate the cascade.")
        labels, groups, edge, vlm, p, complexity = zip(*own, strict=True)
        return cls(
            labels=as_labels(labels),
            groups=np.array(groups),
            edge=as_severities(edge, "the edge's severities"),
            vlm=np.array(vlm, np.float64),
            probabilities=None if None in p else np.array(p, np.float64),
            complexity=None if None in complexity else np.array(complexity, np.float64),
        )

    @property
    def cloud(self) -> Floats | None:
        """The VLM's severities (n,), None where it answered for no part."""
        return None if np.isnan(self.vlm).all() else self.vlm

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """How the severities of edge and VLM are taken: shares in [0, 1] as log-odds, other numbers as they are."""
        return _scale(self.edge), _scale(self.vlm)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many defects and good parts set limits: of a group one of each class."""
        names = [np.unique(self.groups[self.labels == label]) for label in (1, 0)]
        return len(names[0]), len(names[1])

    def played(self, policy: Policy) -> Replay:
        """What the cascade does with these parts under a policy."""
        return replay(policy, self.edge, self.vlm, probabilities=self.probabilities, complexity=self.complexity)

    def certified(self, composite: Composite, promise: Promise) -> Certified:
        """The policy `certified` whose limits these parts set."""
        return fit_certified(composite, self.edge, self.cloud, self.labels, self.groups, promise)

    def limits_alone(self, promise: Promise) -> dict[str, Limits]:
        """The limits of each model by itself at the same promise: `edge`, and `vlm` where one answered."""
        models = {"edge": self.edge} | ({} if self.cloud is None else {"vlm": self.cloud})
        return {name: alone(found, self.labels, self.groups, promise) for name, found in models.items()}


def composite_of(rows: Sequence[Mapping[str, Any]], promise: Promise, distance: bool = False) -> Composite:
    """The composite that calibration.jsonl's rows of validation, and of siblings' folds, give at a promise.

    `distance`: the edge's severities are no shares, even where all lie in [0, 1].
    """
    fitting, sampled = CalibrationScores.from_rows(rows, VALIDATION), CalibrationScores.from_rows(rows)
    names = dict.fromkeys(row["split"] for row in rows if row["split"].startswith(OUT_OF_FOLD))
    siblings = [CalibrationScores.from_rows(rows, name) for name in names]
    scales: tuple[Scale, Scale] = ("plain", fitting.scales[1]) if distance else fitting.scales
    return fit_composite(
        fitting.edge, fitting.cloud, fitting.labels, fitting.groups, promise, sampled.sizes, scales,
        siblings=[(one.edge, one.cloud, one.labels, one.groups) for one in siblings],
    )  # fmt: skip


def edge_alone_threshold(scores: CalibrationScores, policy: Policy) -> float:
    """The rival of a policy without a promise: one threshold of its own edge, at no more overkill on these parts."""
    rejected = scores.played(policy).codes == IS_DEFECT
    return threshold_at_overkill(scores.labels, scores.edge, int(rejected[scores.labels == 0].sum()))


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Another promise's limits, and their outcome on the parts that set them (of a group one of each class).

    `asked` and `undecided` are of all parts, `undecided_alone` of each model by itself at the same promise; `escapes`
    of the defects and `overkill` of the good parts. Parts without an answer set no limit, and are counted.
    """

    policy: Certified
    asked: Rate
    undecided: Rate
    undecided_alone: Mapping[str, Rate]
    escapes: Rate
    overkill: Rate


def what_if(scores: CalibrationScores, composite: Composite, promise: Promise) -> WhatIf:
    """The policy `certified` fitted anew for a promise, replayed on the parts it was fitted on."""
    policy = scores.certified(composite, promise)
    kept = _kept(scores, ~np.isnan(composite.scores(scores.edge, scores.cloud)), policy.seed)
    y, groups = scores.labels[kept], scores.groups[kept]
    played = replay(policy, scores.edge[kept], scores.vlm[kept])
    models = {"edge": scores.edge, "vlm": scores.vlm}

    def of(label: int, said: int) -> Rate:
        return rate(int(((played.codes == said) & (y == label)).sum()), int((y == label).sum()))

    return WhatIf(
        policy=policy,
        asked=rate_of(played.escalated, groups),
        undecided=rate_of(played.codes == UNDECIDED, groups),
        undecided_alone={
            name: rate_of(limits.codes(models[name][kept]) == UNDECIDED, groups)
            for name, limits in scores.limits_alone(promise).items()
        },
        escapes=of(1, IS_GOOD),
        overkill=of(0, IS_DEFECT),
    )


def _kept(scores: CalibrationScores, answered: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Rows of one defect and one good part a group: those that set the limits, and of what else there is another."""
    names = np.char.add(scores.groups.astype(str), np.where(scores.labels == 1, " defect", " good"))
    others = ~answered & ~np.isin(names, names[answered])
    rows = [np.flatnonzero(own) for own in (answered, others) if own.any()]
    return np.concatenate(
        [own[one_per_group(scores.edge[own], scores.labels[own], scores.groups[own], seed)] for own in rows]
    )


def _scale(severity: Floats) -> Scale:
    known = severity[~np.isnan(severity)]
    return "odds" if ((known >= 0) & (known <= 1)).all() else "plain"


def _stored(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What calibration.jsonl's row holds of one part, in the order of CalibrationScores' fields."""
    edge, vlm = row["edge"], row.get("vlm") or {}
    answers = edge["severity"], vlm.get("severity", np.nan), edge.get("probabilities")
    return row["label"] == DEFECT, str(row["group"]), *answers, row.get("complexity")

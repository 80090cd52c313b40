"""Policy `certified`: one promise for the whole system, whoever decides.

The composite is fitted on validation, its two limits come from the calibration split (`bounds`), and what lies between
them is nobody's verdict: a person looks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from hf_inspect.cascade.bounds import Limits, Promise, fit_limits, parts_needed
from hf_inspect.cascade.composite import Composite, Floats
from hf_inspect.cascade.routes import ASK, IS_DEFECT, IS_GOOD, UNDECIDED, Routes, settings
from hf_inspect.errors import DataError
from hf_inspect.metrics.inputs import as_labels, as_severities

EARLY = {IS_GOOD: "the edge is sure of good", IS_DEFECT: "the edge is sure of a defect"}
SURE = {IS_GOOD: "below the good limit", IS_DEFECT: "above the defect limit", UNDECIDED: "between the limits"}


@dataclass(frozen=True, slots=True)
class Certified:
    """Good where the composite lies below `limits.low`, defect above `limits.high`, undecided between.

    `promise` bounds what the whole system says, jointly with its confidence over calibration draws: the composite was
    fixed before calibration was looked at. `fallback` other than `hold` is beyond it.
    """

    promise: Promise
    composite: Composite
    limits: Limits
    seed: int
    statement: str

    name: ClassVar[str] = "certified"
    needs_complexity: ClassVar[bool] = False
    decider: ClassVar[Literal["both"]] = "both"  # whose verdict a part's is that the VLM was asked about

    def first(
        self, severity: ArrayLike, probabilities: ArrayLike | None = None, complexity: ArrayLike | None = None
    ) -> Routes:
        """What the edge's severities (n,) alone settle; ASK where the VLM's answer may settle more."""
        found = as_severities(severity, "the edge's severities")
        if self.composite.vlm is None:
            codes = self.limits.codes(self.composite.scores(found))
            return Routes(codes, self._reasons(codes))
        ends = self.composite.ends(found)
        said = self.limits.codes(self.composite.scores(found))  # NaN, and so undecided, where the VLM is missing
        codes = np.where((ends == ASK) & self._may_settle, ASK, said)
        reasons = np.select(
            [codes == ASK, (codes == ends) & (ends == IS_GOOD), (codes == ends) & (ends == IS_DEFECT),
             codes != UNDECIDED, ends != ASK],
            ["the edge alone is not sure enough", EARLY[IS_GOOD], EARLY[IS_DEFECT],
             np.where(codes == IS_GOOD, SURE[IS_GOOD], SURE[IS_DEFECT]),
             "the edge is sure, and more than may be was lost that way among the calibration parts"],
            self._too_few(),
        )  # fmt: skip
        return Routes(codes, reasons)

    def second(self, severity: ArrayLike, vlm: ArrayLike) -> Routes:
        """What both severities (n,) settle of the parts that the VLM was asked about: never ASK."""
        codes = self.limits.codes(self.composite.scores(severity, vlm))
        return Routes(codes, self._reasons(codes))

    def severity(self, edge: ArrayLike, vlm: ArrayLike) -> Floats:
        """P(defect) by both (n,), of parts that the VLM was asked about."""
        return self.composite.scores(edge, vlm)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, `policy` naming it."""
        return {"policy": self.name} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Certified":
        """The inverse of `to_dict`; unknown or missing keys raise DataError."""
        given = settings(cls, "Policy 'certified'", values)
        return cls(
            promise=Promise(**settings(Promise, "The promise", given["promise"])),
            composite=Composite.from_dict(given["composite"]),
            limits=Limits.from_dict(given["limits"]),
            seed=given["seed"],
            statement=given["statement"],
        )

    @property
    def _may_settle(self) -> bool:
        """Whether any fused score, in (0, 1), can lie beyond a limit."""
        low, high = self.limits.low, self.limits.high
        return (low is not None and low > 0) or (high is not None and high < 1)

    def _reasons(self, codes: Any) -> Any:
        between = self._too_few() if None in (self.limits.low, self.limits.high) else SURE[UNDECIDED]
        return np.select([codes == IS_GOOD, codes == IS_DEFECT], [SURE[IS_GOOD], SURE[IS_DEFECT]], between)

    def _too_few(self) -> str:
        low, high = self.limits.low, self.limits.high
        if low is None and high is None:
            return "too few calibration parts for any verdict"
        if low is None:
            return "not above the defect limit, and too few calibration defects to say good"
        if high is None:
            return "not below the good limit, and too few good calibration parts to say defect"
        return "no answer of the VLM could settle it within the promise"


def fit_certified(
    composite: Composite,
    edge: ArrayLike,
    vlm: ArrayLike | None,
    labels: ArrayLike,
    groups: ArrayLike,
    promise: Promise,
    seed: int = 0,
) -> Certified:
    """Limits of a composite from the calibration split: severities (n,; NaN: no answer), labels (n,), group ids (n,).

    Parts without a score set no limit: of such the system says neither good nor defect.
    """
    x = as_severities(edge, "the edge's severities", allow_nan=True)
    scores = composite.scores(x, None if vlm is None else as_severities(vlm, "the VLM's severities", len(x), True))
    y, own = as_labels(labels), ~np.isnan(scores)
    if not own.any():
        raise DataError("None of the calibration parts has a score of all models that are asked; calibrate again.")
    limits = fit_limits(scores[own], y[own], np.asarray(groups)[own], promise, seed)
    fitted = Certified(promise, composite, limits, int(seed), "")
    return replace(fitted, statement=statement_of(fitted))


def statement_of(policy: Certified) -> str:
    """What is promised and what is not, in plain words."""
    limits, promise = policy.limits, policy.promise
    sentences = [
        f"Calibrated on {limits.defects + limits.goods} parts, of a group one of each class: {limits.defects} defects "
        f"and {limits.goods} good; {limits.left_out} further parts of these groups left out.",
        _good_sentence(limits, promise),
        _defect_sentence(limits, promise),
        *(["The limits crossed; the upper was raised to the lower."] if limits.crossed else []),
        *_confidence_sentences(limits, promise),
        f"{_REST[None in (limits.low, limits.high)]} is undecided: a person looks. With the fallback 'pass' such parts "
        "may be escapes and with 'reject' overkill, beyond what is promised here.",
    ]
    return " ".join([*sentences, *_exit_sentences(policy)])


_REST = {False: "What lies between", True: "All else"}  # by whether a limit is missing


def _confidence_sentences(limits: Limits, promise: Promise) -> list[str]:
    """How sure the bounds are that there are."""
    begin = f"holds with confidence {1 - promise.miss:.2%} over calibration draws"
    whom = "for parts exchangeable with these, whoever decides"
    if None not in (limits.low, limits.high):
        return [f"Each bound {begin}, both with {promise.confidence:.2%}, {whom}."]
    return [] if limits.low is limits.high else [f"This bound {begin}, {whom}."]


def _good_sentence(limits: Limits, promise: Promise) -> str:
    where = None if limits.low is None else f"below {limits.low:.6g}, where at most {limits.k_defects}"
    there = f"{limits.defects} calibration defects"
    return _side("good", "an escape", promise.escape, promise.miss, "defects", there, where)


def _defect_sentence(limits: Limits, promise: Promise) -> str:
    where = None if limits.high is None else f"above {limits.high:.6g}, where at most {limits.k_goods}"
    there = f"{limits.goods} good calibration parts"
    return _side("defect", "an overkill", promise.overkill, promise.miss, "good parts", there, where)


def _side(verdict: str, an: str, risk: float, miss: float, of: str, there: str, where: str | None) -> str:
    """What is promised of one verdict, or that `there` are too few parts for it: `where` None."""
    if where is None:
        needed = parts_needed(risk, miss)
        return (
            f"Of {_RISKS[verdict]} nothing can be promised yet, and the system never says {verdict}: {there} are too "
            f"few for {an} of at most {risk:.2%}, it takes {needed}."
        )
    return f"The system says {verdict} to at most {risk:.2%} of {of}: {where} of the {there.partition(' ')[2]} lie."


_RISKS = {"good": "escapes", "defect": "overkill"}  # what a verdict may be wrong by


def _exit_sentences(policy: Certified) -> list[str]:
    """What the early exits have spoilt: more parts than may be lie among them, on the wrong side."""
    low, high = policy.limits.low, policy.limits.high
    said = []
    if policy.composite.early_good is not None and low is not None and low < 0:
        said.append(
            "More calibration defects than may be were left to the edge's early good: it is taken only below that "
            "limit, and no part that the VLM is asked about is called good."
        )
    if policy.composite.early_defect is not None and high is not None and high > 1:
        said.append(
            "More good calibration parts than may be were left to the edge's early defect: it is taken only above that "
            "limit, and no part that the VLM is asked about is called a defect."
        )
    return said


def alone(severity: ArrayLike, labels: ArrayLike, groups: ArrayLike, promise: Promise, seed: int = 0) -> Limits:
    """The limits of one model by itself at the same promise: severities (n,; NaN: no answer) of calibration."""
    found, y = as_severities(severity, "the severities", allow_nan=True), as_labels(labels)
    own = ~np.isnan(found)
    return fit_limits(found[own], y[own], np.asarray(groups)[own], promise, seed)

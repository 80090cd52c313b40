"""What a model says of an image, what the whole system does, and what anything is that answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.reading import Reading
from hf_inspect.schema.findings import Finding
from hf_inspect.schema.history import History
from hf_inspect.schema.task import DEFECT, GOOD, TaskSpec

Decision = Literal["good", "defect", "undecided", "unreadable"]
DecidedBy = Literal["edge", "vlm", "both", "rule"]  # rule: what becomes of parts that nobody may decide
_LAST_FIRST = ("vlm", "edge")  # models of a cascade, the one that is asked last first
_SUM = 1e-3  # by which rounded class probabilities may miss 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's answer.

    `severity` is finite, higher is worse, and its order is all that thresholds and promises rest on; None exactly where
    the answer could not be read, and `unreadable` says why. `probabilities` are of the task's classes, in its order.
    `map` says where: float32 (h, w) over the whole image, whatever the size of that; higher is worse. `findings` are
    the things found, the surest first; None where the model looks for none, () where it found nothing. An answer that
    breaks off has those that came before, and no severity unless one of them is a defect: what follows is not known.
    `notes` say what of an answer was left out, and why.
    """

    severity: float | None
    probabilities: tuple[float, ...] | None = None
    unreadable: str | None = None
    map: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    findings: tuple[Finding, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.severity is None) != (self.unreadable is not None):
            raise DataError("A prediction has a severity or a reason why it has none, and not both.")
        if self.severity is not None and not math.isfinite(self.severity):
            raise DataError(f"A severity of {self.severity} came; finite numbers are wanted.")
        p = self.probabilities
        if p is not None and not (all(0.0 <= x <= 1.0 for x in p) and abs(sum(p) - 1.0) <= _SUM):
            raise DataError(f"Class probabilities {p} came; they lie in [0, 1] and sum to 1.")

    def likeliest(self, task: TaskSpec, disposition: str) -> tuple[str, float] | None:
        """The likeliest of the task's good or of its defect classes, and its probability; None without any.

        Of things found, the class and the score of the surest on that side; a label that is no class of the task, as a
        VLM may say one, names none.
        """
        if self.findings is not None:
            known = [one for one in self.findings if one.name in task.classes]
            own = [one for one in known if task.disposition(one.name) == disposition]
            return (own[0].name, own[0].score) if own else None
        if self.probabilities is None:
            return None
        named = sorted(zip(task.classes, task.dispositions, self.probabilities, strict=True))
        return max(((name, p) for name, one, p in named if one == disposition), key=lambda pair: pair[1], default=None)

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON values, without what it does not have; of its map the highest value alone."""
        head = {"unreadable": self.unreadable} if self.severity is None else {"severity": self.severity}
        p = {} if self.probabilities is None else {"probabilities": list(self.probabilities)}
        where = {} if self.map is None else {"map_highest": float(self.map.max())}
        found = {} if self.findings is None else {"findings": [one.to_dict() for one in self.findings]}
        notes = {"notes": list(self.notes)} if self.notes else {}
        return head | p | where | found | notes


class Predictor(Protocol):
    """Anything that answers for images: an edge engine, a VLM, or a scripted stand-in.

    `identity` is the SHA-256 of all that decides its answers; `history` what it and its ancestors were trained on.
    Threads may share one; a fork of its process may not use it.
    """

    @property
    def task(self) -> TaskSpec:
        """What it answers, in the order of its outputs."""
        ...

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over files and settings: two predictors of one identity answer alike."""
        ...

    @property
    def history(self) -> History:
        """Its own training images and those of all ancestors."""
        ...

    @property
    def reading(self) -> Reading | None:
        """How the files it was trained on were read; None where it was trained on none."""
        ...

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """One answer for each RGB image uint8 (h, w, 3), in order."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the system says of one part.

    `class_name` is the likeliest class on the side that was decided and `p_class` its probability (`defect: crack,
    0.83`); `severity` is that of whoever decided, or was asked last where a rule did; None where nobody answered.
    `evidence` holds the prediction of each model that ran, by name. `reason` says why it was decided there, or why it
    was not; `notes` what was unusual about the file (first frame of 12, rotated by EXIF). `ms` holds milliseconds by
    step.
    """

    label: Decision
    decided_by: DecidedBy
    reason: str
    severity: float | None = None
    class_name: str | None = None
    p_class: float | None = None
    evidence: Mapping[str, Prediction] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label in (GOOD, DEFECT) and self.severity is None and self.decided_by != "rule":
            raise DataError(f"A verdict of {self.label!r} needs the severity it rests on.")

    def severity_of(self, model: str) -> float | None:
        """What `edge` or `vlm` said, None where it was not asked or gave no answer."""
        found = self.evidence.get(model)
        return None if found is None else found.severity

    @property
    def finder(self) -> str | None:
        """The model whose findings tell of the part: the last that looked for things; None where none did.

        An answer that could not be read, and found nothing before it broke off, tells of nothing.
        """
        return next((name for name in _LAST_FIRST if _looked(self.evidence.get(name))), None)

    def __str__(self) -> str:
        named = self.class_name if self.class_name not in (None, self.label) else None
        said = self.label + (f": {named}" if named else "")
        p = self.p_class if self.p_class is not None else self.severity
        return said if p is None else f"{said}, {p:.2f}"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {
            "label": self.label,
            "class": self.class_name,
            "p_class": self.p_class,
            "severity": self.severity,
            "decided_by": self.decided_by,
            "reason": self.reason,
            "found_by": self.finder,
            "evidence": {name: one.to_dict() for name, one in self.evidence.items()},
            "notes": list(self.notes),
            "ms": {name: round(value, 3) for name, value in self.ms.items()},
        }


def _looked(found: Prediction | None) -> bool:
    return found is not None and (bool(found.findings) or (found.findings is not None and found.severity is not None))

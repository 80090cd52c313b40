"""The frozen values that cross module borders, checked once at construction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]  # what is under way, how many are done, how many there are
LABELS = ("good", "defect")  # index = class id, everywhere
VerdictLabel = Literal["good", "defect", "undecided", "unreadable"]
DecidedBy = Literal["edge", "vlm", "rule"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One raw image before it is part of a data set.

    `source` names it (a path relative to the raw folder, with '/'), `stratum` is what the split keeps in
    proportion (label and cell type, say), `columns` are further values of its row. A `label` of None is decided
    by the mask: `defect` where any of its pixels is not zero.
    """

    source: str
    path: Path
    label: str | None
    stratum: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None

    def read(self) -> bytes:
        """The file's bytes as they are on disk."""
        return self.path.read_bytes()


class Scorer(Protocol):
    """Anything that gives P(defect): an edge engine, a VLM, or a scripted stand-in."""

    @property
    def trained_on(self) -> Mapping[str, Any] | None:
        """trained_on.json of the model, None when it was not trained on any built data set."""

    def p_defect(self, images: "Sequence[NDArray[np.uint8]]") -> "NDArray[np.float64]":
        """P(defect) in [0, 1] of each RGB image (h, w, 3) -> (n,)."""
        ...


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the system says of one part.

    `p_defect` is the P(defect) in [0, 1] of whoever decided (None for `unreadable`); `p_edge` and `p_vlm` are
    the scores of each model that ran. `reason` says why it was decided there, or why it was not; `notes` what
    was unusual about the file (first frame of 12, rotated by EXIF). `ms` holds milliseconds by step.
    """

    label: VerdictLabel
    decided_by: DecidedBy
    reason: str
    p_defect: float | None = None
    p_edge: float | None = None
    p_vlm: float | None = None
    notes: tuple[str, ...] = ()
    ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("p_defect", "p_edge", "p_vlm"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise DataError(f"Verdict.{name} is {value}; probabilities lie in [0, 1].")
        if self.label in LABELS and self.p_defect is None:
            raise DataError(f"A verdict of {self.label!r} needs the probability it rests on.")

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return asdict(self) | {"notes": list(self.notes), "ms": {k: round(v, 3) for k, v in self.ms.items()}}

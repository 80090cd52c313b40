"""What a model answers: its classes and what each of them means, as one value that travels with every artefact."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.schema.meaning import Meaning

Disposition = Literal["good", "defect"]
GOOD: Disposition = "good"
DEFECT: Disposition = "defect"
ANOMALY = "anomaly"
DETECTION, SEGMENTATION = "detection", "segmentation"  # find things in an image: their boxes; and their masks too
_FINDERS = (DETECTION, SEGMENTATION)
KINDS = ("classification", ANOMALY, *_FINDERS)  # a kind is a row of `tasks.TASKS`


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a model answers: the classes, in the order of its outputs, and whether each is `good` or `defect`.

    Travels with every artefact. Two specs are of one task when they name the same classes with the same dispositions;
    the order is the model's own, and `order_in` translates it. `score` says what an anomaly's severity means, and what
    that of a detection or segmentation does where it is more than its highest score; a classification has none. The
    classes of a detection or segmentation are those of the things it finds; an image without any is good.
    """

    classes: tuple[str, ...]
    dispositions: tuple[Disposition, ...]
    kind: str = "classification"
    score: Meaning | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"A task of kind {self.kind!r} came; this version knows {', '.join(KINDS)}.")
        if not self.classes or len(self.classes) != len(self.dispositions):
            raise DataError(
                f"A task has {len(self.classes)} classes, {len(self.dispositions)} dispositions; give both."
            )
        if wrong := [name for name in self.classes if not isinstance(name, str) or not name.strip()]:
            raise DataError(f"A class is called {wrong[0]!r}; give every class a name.")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"A task names a class twice: {', '.join(self.classes)}.")
        if unknown := [one for one in self.dispositions if one not in (GOOD, DEFECT)]:
            raise DataError(f"A class is {unknown[0]!r}; it is {GOOD!r} or {DEFECT!r}.")
        if (self.score is None and self.kind == ANOMALY) or (self.score is not None and self.kind == KINDS[0]):
            raise DataError(
                f"A task of kind {self.kind!r} states what its score means, or is an anomaly's and does not; fit it "
                "again."
            )

    @classmethod
    def of(cls, names: Iterable[str], good: Iterable[str]) -> "TaskSpec":
        """A classification into `names`, of which those in `good` are good and all others defects.

        DataError when `good` names a class that is not there.
        """
        classes, fine = tuple(names), set(good)
        if strange := sorted(fine - set(classes)):
            raise DataError(f"{', '.join(strange)} is said to be good, but the classes are {', '.join(classes)}.")
        return cls(classes, tuple(GOOD if name in fine else DEFECT for name in classes))

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "TaskSpec":
        """The spec that `to_dict` wrote into the record `where`; DataError names what is missing or wrong."""
        try:
            classes = [(one["name"], one["disposition"]) for one in value["classes"]]
            names, dispositions = tuple(name for name, _ in classes), tuple(one for _, one in classes)
            stated = "score" in value or value["kind"] == ANOMALY
            score = Meaning.from_dict(value["score"], where) if stated else None
            return cls(names, dispositions, value["kind"], score)
        except (KeyError, TypeError):
            raise DataError(
                f"{where} does not say which classes there are and which of them are good (it holds the task "
                f"{value!r}); it was made by an older version: make it again."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        pairs = zip(self.classes, self.dispositions, strict=True)
        score = {} if self.score is None else {"score": self.score.to_dict()}
        return {"kind": self.kind, "classes": [{"name": name, "disposition": one} for name, one in pairs]} | score

    @property
    def says_where(self) -> bool:
        """Whether its answers say where, besides how bad: by a map, or by what they find."""
        return self.kind == ANOMALY or self.finds

    @property
    def finds(self) -> bool:
        """Whether its answers are things found in an image."""
        return self.kind in _FINDERS

    @property
    def good(self) -> tuple[str, ...]:
        """The classes that may ship."""
        return tuple(name for name, one in zip(self.classes, self.dispositions, strict=True) if one == GOOD)

    @property
    def defects(self) -> tuple[str, ...]:
        """The classes that must not ship."""
        return tuple(name for name in self.classes if name not in self.good)

    @property
    def is_defect(self) -> NDArray[np.bool_]:
        """Whether each class is a defect -> (k,)."""
        return np.array([one == DEFECT for one in self.dispositions])

    def disposition(self, name: str) -> Disposition:
        """Whether a class is good or a defect; DataError for one that is not of the task."""
        return self.dispositions[self.index(name)]

    def index(self, name: str) -> int:
        """The place of a class among the outputs; DataError for one that is not of the task."""
        if name not in self.classes:
            raise DataError(f"{name!r} is no class of {self}.")
        return self.classes.index(name)

    def same_as(self, other: "TaskSpec") -> bool:
        """Whether both are of one task, in whatever order of the classes."""
        return self.kind == other.kind and dict(self._pairs()) == dict(other._pairs())

    def order_in(self, other: "TaskSpec") -> list[int]:
        """Where each class of this spec stands in `other`: `p[:, self.order_in(other)]` is in this spec's order."""
        return [other.index(name) for name in self.classes]

    def refuse_other(self, other: "TaskSpec", own: str, others: str) -> None:
        """DataError, with both printed, unless the two are of one task; `own` and `others` say whose they are."""
        if not self.same_as(other):
            raise DataError(f"{own} and {others} answer different questions.\n  {own}: {self}\n  {others}: {other}")

    def answered_by(self, model: "TaskSpec") -> bool:
        """Whether a model of task `model` answers what this one, a data set's, asks.

        It does where both are of one task; a model of anomalies, or one that finds things, tells good parts from all
        others, whatever their names.
        """
        judged = model.kind != KINDS[0] and self.kind == KINDS[0] and bool(self.good)
        return self.same_as(model) or judged

    def refuse_partner(self, other: "TaskSpec", own: str, others: str) -> None:
        """DataError, with both printed, unless two models may judge one part: one of them answers what the other does.

        A model of anomalies and one that finds things do, as both tell good parts from all others; two that find things
        where they are the same things, with masks or without. `own` and `others` say whose they are.
        """
        judges = self.finds != other.finds and ANOMALY in (self.kind, other.kind)
        things = self.finds and other.finds and dict(self._pairs()) == dict(other._pairs())
        if not (judges or things or self.answered_by(other) or other.answered_by(self)):
            self.refuse_other(other, own, others)

    def refuse_model(self, model: "TaskSpec", own: str, its: str) -> None:
        """DataError, with both printed, unless `answered_by` the model; `own` and `its` say whose they are."""
        if not self.answered_by(model):
            self.refuse_other(model, own, its)

    def refuse_things(self, things: "TaskSpec", own: str, others: str) -> None:
        """DataError, with both printed, unless a model of this task finds what a data set's images show, `things`.

        Boxes are found in images with masks as well.
        """
        if not (self.finds and things.finds and dict(self._pairs()) == dict(things._pairs())):
            self.refuse_other(things, own, others)

    def refuse_one_sided(self, what: str) -> None:
        """DataError unless there is a good and a defect class: a model of one side alone decides nothing.

        What finds things needs none that is good: an image without any is.
        """
        if (not self.good and not self.finds) or not self.defects:
            side = GOOD if self.good else DEFECT
            raise DataError(f"{what} needs a good and a defect class; {self} has {side} ones alone.")

    @property
    def by_name(self) -> list[int]:
        """Positions of the classes in the order of their names: what is summed or compared in it is of no order."""
        return sorted(range(len(self.classes)), key=self.classes.__getitem__)

    def severity(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Class probabilities (n, k) in this order -> summed probability of the defect classes (n,) in [0, 1]."""
        defects = [i for i in self.by_name if self.dispositions[i] == DEFECT]
        return np.asarray(probabilities[:, defects].sum(1).clip(0.0, 1.0))

    def likeliest(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Class probabilities (n, k) in this order -> position of each row's largest (n,); of equal ones, by name."""
        order = np.array(self.by_name)
        return np.asarray(order[probabilities[:, order].argmax(1)])

    def _pairs(self) -> Iterable[tuple[str, Disposition]]:
        return zip(self.classes, self.dispositions, strict=True)

    def __str__(self) -> str:
        return f"{self.kind} into " + ", ".join(f"{name} ({one})" for name, one in self._pairs())


BINARY = TaskSpec((GOOD, DEFECT), (GOOD, DEFECT))  # sets that say of a part no more than that

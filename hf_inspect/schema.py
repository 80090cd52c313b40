"""The frozen values that cross module borders, checked once at construction."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.reading import Reading

Progress = Callable[[str, int, int], None]  # what is under way, how many are done, how many there are
Disposition = Literal["good", "defect"]
GOOD: Disposition = "good"
DEFECT: Disposition = "defect"
Decision = Literal["good", "defect", "undecided", "unreadable"]
DecidedBy = Literal["edge", "vlm", "rule"]
KINDS = ("classification",)  # a kind is a row of `tasks.TASKS`
HISTORY_FORMAT = 2  # of trained_on.json; a reader refuses another
RECORD_FIELDS = frozenset({1, 3, 4})  # that an image of trained_on.json may have
_REPOSITORY, _COMMIT = re.compile(r"\w[\w.-]*/\w[\w.-]*"), re.compile(r"[0-9a-f]{40}")
_SUM = 1e-3  # by which rounded class probabilities may miss 1


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a model answers: the classes, in the order of its outputs, and whether each is `good` or `defect`.

    Travels with every artefact. Two specs are of one task when they name the same classes with the same dispositions;
    the order is the model's own, and `order_in` translates it.
    """

    classes: tuple[str, ...]
    dispositions: tuple[Disposition, ...]
    kind: str = "classification"

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
            return cls(tuple(name for name, _ in classes), tuple(one for _, one in classes), value["kind"])
        except (KeyError, TypeError):
            raise DataError(
                f"{where} does not say which classes there are and which of them are good (it holds the task "
                f"{value!r}); it was made by an older version: make it again."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        pairs = zip(self.classes, self.dispositions, strict=True)
        return {"kind": self.kind, "classes": [{"name": name, "disposition": one} for name, one in pairs]}

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

    def refuse_one_sided(self, what: str) -> None:
        """DataError unless there is a good and a defect class: a model of one side alone decides nothing."""
        if not self.good or not self.defects:
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


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's answer.

    `severity` is finite, higher is worse, and its order is all that thresholds and promises rest on; None exactly where
    the answer could not be read, and `unreadable` says why. `probabilities` are of the task's classes, in its order.
    """

    severity: float | None
    probabilities: tuple[float, ...] | None = None
    unreadable: str | None = None

    def __post_init__(self) -> None:
        if (self.severity is None) != (self.unreadable is not None):
            raise DataError("A prediction has a severity or a reason why it has none, and not both.")
        if self.severity is not None and not math.isfinite(self.severity):
            raise DataError(f"A severity of {self.severity} came; finite numbers are wanted.")
        p = self.probabilities
        if p is not None and not (all(0.0 <= x <= 1.0 for x in p) and abs(sum(p) - 1.0) <= _SUM):
            raise DataError(f"Class probabilities {p} came; they lie in [0, 1] and sum to 1.")

    def likeliest(self, task: TaskSpec, disposition: str) -> tuple[str, float] | None:
        """The likeliest of the task's good or of its defect classes, and its probability; None without any."""
        if self.probabilities is None:
            return None
        named = sorted(zip(task.classes, task.dispositions, self.probabilities, strict=True))
        return max(((name, p) for name, one, p in named if one == disposition), key=lambda pair: pair[1], default=None)

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON values, without what it does not have."""
        if self.severity is None:
            return {"unreadable": self.unreadable}
        p = {} if self.probabilities is None else {"probabilities": list(self.probabilities)}
        return {"severity": self.severity} | p


@dataclass(frozen=True, slots=True)
class Source:
    """A built data set that a model was trained on: name, fingerprint, licence, and how many of its images."""

    name: str
    fingerprint: str
    licence: str
    images: int


@dataclass(frozen=True, slots=True)
class History:
    """What a model and all its ancestors were trained on.

    `signatures` say of every image what others are compared with, as hex (see `data.hashing`): [SHA-256] where its data
    set was built with `--near off`, [SHA-256, pHash, check bits], and with `--near strict` [..., grain] besides.
    `unknown` names the ancestors that carry no record, such as weights of somebody else: of their images nothing can be
    said.
    """

    sources: tuple[Source, ...] = ()
    signatures: tuple[tuple[str, ...], ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of all the images, each once: they hold at once."""
        return tuple(dict.fromkeys(source.licence for source in self.sources))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of all the data, each once."""
        return tuple(dict.fromkeys(source.fingerprint for source in self.sources))

    def union(self, *others: "History") -> "History":
        """Everything that this one or another saw, each once, this one's first."""
        every = (self, *others)
        return History(
            tuple(dict.fromkeys(source for one in every for source in one.sources)),
            tuple(dict.fromkeys(signature for one in every for signature in one.signatures)),
            tuple(dict.fromkeys(name for one in every for name in one.unknown)),
        )

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "History":
        """The history that `to_dict` wrote into the record `where`; DataError for anything else, older ones too."""
        try:
            if value["format"] != HISTORY_FORMAT:
                raise KeyError("format")
            sources = tuple(Source(**one) for one in value["sources"])
            signatures = tuple(tuple(image) for image in value["images"])
            if not {len(image) for image in signatures} <= RECORD_FIELDS:
                raise ValueError("images")
            return cls(sources, signatures, tuple(value["unknown"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where} is no record of a training that this version reads ({error!r}); train the model again, or "
                "export it again from one that was."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The history as plain JSON values; `licences` repeats what the sources say, for those who read the file."""
        return {
            "format": HISTORY_FORMAT,
            "sources": [asdict(source) for source in self.sources],
            "licences": list(self.licences),
            "unknown": list(self.unknown),
            "images": [list(signature) for signature in self.signatures],
        }

    def summary(self) -> dict[str, Any]:
        """What results.json says of it: the data, and the ancestors that nothing is known of."""
        stated = [{"name": one.name, "fingerprint": one.fingerprint, "images": one.images} for one in self.sources]
        return {"data": stated, "unknown": list(self.unknown)}


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
class Part:
    """Where a piece of an artefact lies; nothing else is ever looked for in its place.

    `folder`: a folder inside the artefact. `hub`: a repository `org/name` at a full commit. `packaged`: a base that is
    assembled from PyPI packages, by its name (`demo-base`).
    """

    kind: Literal["folder", "hub", "packaged"]
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "hub" and not (_REPOSITORY.fullmatch(self.name) and _COMMIT.fullmatch(self.revision or "")):
            raise DataError(f"The part {self} is no repository org/name at a commit of 40 digits; pin it at one.")
        if self.kind != "hub" and self.revision is not None:
            raise DataError(f"The {self.kind} part {self.name} has a revision, {self.revision}; only a repository has.")
        if self.kind == "folder" and (Path(self.name).name != self.name or self.name == ".."):
            raise DataError(f"The part {self.name!r} is no folder right inside its artefact, where parts lie.")

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Part":
        """The part that `to_dict` wrote into the record `where`; DataError for anything else."""
        given = dict(value) if isinstance(value, Mapping) else {}
        texts = all(isinstance(one, str) and one for one in given.values())
        match sorted(given) if texts else None:
            case ["folder"]:
                return cls("folder", given["folder"])
            case ["packaged"]:
                return cls("packaged", given["packaged"])
            case ["hub", "revision"]:
                return cls("hub", given["hub"], given["revision"])
        raise DataError(
            f'{where} names a part as {value!r}; parts are {{"folder": "edge"}}, {{"hub": "org/name", "revision": '
            '"commit"}} or {{"packaged": "demo-base"}}. Run \'hf-inspect calibrate\' again.'
        )

    def to_dict(self) -> dict[str, str]:
        """The part as plain JSON values."""
        return {self.kind: self.name} | ({} if self.revision is None else {"revision": self.revision})

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One raw image before it is part of a data set.

    `source` names it (a path relative to the raw folder, with '/'), `class_name` is of the data set's task, `stratum`
    is what the split keeps in proportion (class and cell type, say), `columns` are further values of its row. A
    `class_name` of None is decided by the mask: `defect` where it marks any pixel.
    """

    source: str
    path: Path
    class_name: str | None
    stratum: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None

    def read(self) -> bytes:
        """The file's bytes as they are on disk; DataError where its name, or its mask's, is no Unicode."""
        try:
            f"{self.source}{self.mask.name if self.mask else ''}".encode()
        except UnicodeEncodeError:
            raise DataError("its name, or its mask's, is no UTF-8; rename it.") from None
        try:
            return self.path.read_bytes()
        except ValueError:  # a zero byte in it
            raise DataError("its name is none that a file can have.") from None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the system says of one part.

    `class_name` is the likeliest class on the side that was decided and `p_class` its probability (`defect: crack,
    0.83`); `severity` is that of whoever decided (the edge's where a rule did), None where nobody did. `evidence` holds
    the prediction of each model that ran, by name. `reason` says why it was decided there, or why it was not; `notes`
    what was unusual about the file (first frame of 12, rotated by EXIF). `ms` holds milliseconds by step.
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
            "evidence": {name: one.to_dict() for name, one in self.evidence.items()},
            "notes": list(self.notes),
            "ms": {name: round(value, 3) for name, value in self.ms.items()},
        }

"""Labels as a model says them -> classes of a task: exactly, by the top of a taxonomy, or by what they mean.

A label of no class is kept: its findings are of a class of their own, of which nothing is ever there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import Shown
from hf_inspect.schema import DEFECT, GOOD, TaskSpec

EXACT, TAXONOMY, SEMANTIC = "exact", "taxonomy", "semantic"
MATCHES = (EXACT, TAXONOMY, SEMANTIC)
NO_CLASS = "(no class)"  # what findings are of whose label is of none
SIMILAR = 0.7  # cosine from which on a label means a class
_LEVEL = "/"  # between the levels of a taxonomy: screw/install
_SPACES = str.maketrans("/_-", "   ")

Embed = Callable[[Sequence[str]], NDArray[Any]]  # n texts -> what they mean, rows (n, d)


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that were said, and the classes that they are of.

    `task` has the classes compared, `classes` which of them each class of the data is, `said` which of them each label
    is, None where it is none. `nearest` has of a label the class that is most similar, and the cosine; of those alone
    that were looked up by what they mean.
    """

    task: TaskSpec
    classes: Mapping[str, str]
    said: Mapping[str, str | None]
    nearest: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def compared(self) -> TaskSpec:
        """The task that `taken` images are of: with a class for labels of none, the last one, where there are such."""
        if None not in self.said.values():
            return self.task
        names, sides = (*self.task.classes, NO_CLASS), (*self.task.dispositions, DEFECT)
        return replace(self.task, classes=names, dispositions=sides)

    def taken(self, image: Shown) -> Shown:
        """An image whose things and findings are of the classes compared."""
        things = tuple(replace(one, name=self.classes[one.name]) for one in image.things)
        found = tuple(replace(one, name=self.said[one.name] or NO_CLASS) for one in image.findings)
        return replace(image, things=things, findings=found)

    def grouped(self) -> "Labels":
        """The same of groups of classes, the tops of their names; a label of no class may still be of a group."""
        groups = _groups(self.task)
        tops = {label: top(label if name is None else name) for label, name in self.said.items()}
        return Labels(
            groups,
            {own: top(name) for own, name in self.classes.items()},
            {label: name if name in groups.classes else None for label, name in tops.items()},
            self.nearest,
        )

    def counted(self, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Of the labels of findings, the most common first: those `renamed` to a class, and those `unmatched`."""
        listed: dict[str, list[dict[str, Any]]] = {"renamed": [], "unmatched": []}
        for label, n in sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0])):
            name = self.said[label]
            if name == label:
                continue
            entry: dict[str, Any] = {"label": label, "n": n} | ({} if name is None else {"class": name})
            near, cosine = self.nearest.get(label, (None, None))
            entry |= {} if near is None else {"nearest": near, "cosine": round(float(cosine or 0.0), 4)}
            listed["unmatched" if name is None else "renamed"].append(entry)
        return listed


@dataclass(frozen=True, slots=True)
class Naming:
    """By which of `MATCHES` labels are taken for classes.

    `exact`: by the same name. `taxonomy`: things and labels are both taken at the top of their names, so that
    `screw/floor` answers `screw/install`. `semantic`: the class that is most similar by `embed`, if its cosine is
    `threshold` or more.
    """

    match: str = EXACT
    threshold: float = SIMILAR
    embed: Embed | None = None

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise DataError(f"Labels are matched by {self.match!r}; there are {', '.join(MATCHES)}.")
        if not -1 <= self.threshold <= 1:
            raise DataError(f"The semantic threshold is {self.threshold}; it is a cosine, -1 to 1.")
        if (self.match == SEMANTIC) != (self.embed is not None):
            raise DataError(
                f"Labels are matched by {self.match!r}; an embedder goes with {SEMANTIC!r}, and only there."
            )

    def of(self, task: TaskSpec, said: Iterable[str]) -> Labels:
        """The labels that were said, each once or more, as classes of a task."""
        every = list(dict.fromkeys(said))
        known = {label: label if label in task.classes else None for label in every}
        labels = Labels(task, {name: name for name in task.classes}, known)
        if self.match == TAXONOMY:
            return labels.grouped()
        strange = [label for label in every if known[label] is None]
        if self.embed is None or not strange:
            return labels
        near = _nearest(strange, task.classes, self.embed)
        meant = {label: name for label, (name, cosine) in near.items() if cosine >= self.threshold}
        return replace(labels, said=known | meant, nearest=near)


def top(label: str) -> str:
    """The first level of a label: `screw` of `screw/install`."""
    return label.split(_LEVEL)[0].strip()


def without_unmatched(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without its class of labels of none, which keeps its column of the confusion and is no class."""
    confusion = report["told"]["confusion"]
    rows = [(name, of) for name, of in zip(confusion["rows"], confusion["counts"], strict=True) if name != NO_CLASS]
    kept = confusion | {"rows": [name for name, _ in rows], "counts": [of for _, of in rows]}
    classes = {name: one for name, one in report["classes"].items() if name != NO_CLASS}
    told = {name: one for name, one in report["told"]["classes"].items() if name != NO_CLASS}
    return {**report, "classes": classes, "told": report["told"] | {"classes": told, "confusion": kept}}


def _groups(task: TaskSpec) -> TaskSpec:
    """The tops of a task's classes, in its order; one is a defect where any of its classes is."""
    names = tuple(dict.fromkeys(map(top, task.classes)))
    bad = {top(name) for name in task.defects}
    return replace(task, classes=names, dispositions=tuple(DEFECT if name in bad else GOOD for name in names))


def _nearest(labels: Sequence[str], classes: Sequence[str], embed: Embed) -> dict[str, tuple[str, float]]:
    """Of each label the most similar class and its cosine; of equal ones the first."""
    rows = np.asarray(embed([one.translate(_SPACES) for one in (*classes, *labels)]), np.float64)
    if rows.ndim != 2 or len(rows) != len(classes) + len(labels) or not np.isfinite(rows).all():
        raise DataError(f"The embedder gave {rows.shape} for {len(classes) + len(labels)} texts; finite rows (n, d).")
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = rows[len(classes) :] @ rows[: len(classes)].T
    best = cosines.argmax(1)
    return {label: (classes[i], float(of[i])) for label, i, of in zip(labels, best.tolist(), cosines, strict=True)}

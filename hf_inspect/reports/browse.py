"""Answers of an evaluation, as it left them, and its data set -> what was found beside what is there, image by image:
what is right, what is not and how, to be filtered. Nothing is asked of a model.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, Rgb
from hf_inspect.metrics.findings import Compared, Shown, Thing, surest
from hf_inspect.metrics.labels import TAXONOMY, Labels, Naming
from hf_inspect.metrics.matches import Matches, mistaken
from hf_inspect.reports import timing
from hf_inspect.reports.detect import as_finding
from hf_inspect.reports.ground import SECTION
from hf_inspect.schema import Finding, TaskSpec
from hf_inspect.scoring import Row, read_rows
from hf_inspect.tasks.detection import drawn

RIGHT, WRONG, NOTHING, MISSED = "right", "wrong class", "of nothing there", "missed"
CROWD = "in a crowd"  # counts as neither
BROKEN = "answer not whole"  # of an image: unreadable, broken off, or something of it left out
KINDS = (MISSED, WRONG, NOTHING, RIGHT, BROKEN)  # that images are filtered by
SIDE = 1600  # pixels of a picture's longer side at most
_COLUMNS = ["objects", "width", "height"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A finding or a missed thing: which of the kinds it is, its label as said, the classes that it concerns.

    `other` is the class of what a finding was taken for or should have been; `score` None of what was missed.
    """

    kind: str
    name: str
    classes: tuple[str, ...]
    score: float | None
    other: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """An image of the split by its number: its source, what it shows and what was found, labels as they were said.

    `said` are notes on its answer, and why it is unreadable; `shown` is None where the image itself was.
    """

    number: int
    source: str
    shown: Shown | None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Browsed:
    """An evaluation to look through: its images in order, matched as it matched them.

    `threshold` is the score from which on it tells of findings. `found` (f,) are the case and the label's class of each
    finding of `matches`, `there` (o,) the case of each object.
    """

    data: Path
    place: str
    reading: Reading
    task: TaskSpec
    threshold: float
    cases: tuple[Case, ...]
    matches: Matches
    found: tuple[tuple[int, Finding], ...]
    there: tuple[tuple[int, Thing], ...]
    _marks: dict[float, list[list[Mark]]] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes to filter by; the last may be that of labels of none."""
        return self.matches.compared.task.classes

    def marks(self, threshold: float) -> list[list[Mark]]:
        """What became of the findings from a score on, and what was missed, by case."""
        if (found := self._marks.get(threshold)) is None:
            found = self._marked(threshold)
            self._marks.clear()
            self._marks[threshold] = found
        return found

    def chosen(self, name: str | None, kinds: Collection[str], threshold: float, text: str = "") -> list[int]:
        """Cases with a mark of one of the kinds (none: of any) and of the class `name` (None: of any), whose source
        holds `text` in whatever case.
        """
        every = zip(self.cases, self.marks(threshold), strict=True)
        asked = text.strip().lower()
        return [
            i for i, (case, marks) in enumerate(every)
            if asked in case.source.lower() and _meets(case, marks, name, kinds)
        ]  # fmt: skip

    def counts(self, chosen: Sequence[int], threshold: float) -> dict[str, int]:
        """How many marks of each kind some of the cases have, and of how many cases the answer is not whole."""
        marks = self.marks(threshold)
        counted = Counter(mark.kind for i in chosen for mark in marks[i])
        return {kind: counted[kind] for kind in KINDS[:-1]} | {BROKEN: sum(bool(self.cases[i].said) for i in chosen)}

    def pictures(self, i: int, threshold: float) -> tuple[Rgb, Rgb]:
        """A case's image with what is there, and with what was found, each of `SIDE` pixels at most.

        DataError where it cannot be read.
        """
        case = self.cases[i]
        [content] = timing.contents(self.data, self.place, [case.number])
        rgb = images.load(content, self.reading).rgb
        if case.shown is None:
            return _fit(rgb), _fit(rgb)
        there = [as_finding(thing, case.shown) for thing in case.shown.things]
        made = drawn(rgb, case.shown.findings, self.task, threshold)
        return _fit(drawn(rgb, there, self.task, 0.0)), _fit(made)

    def _marked(self, threshold: float) -> list[list[Mark]]:
        marked: list[list[Mark]] = [[] for _ in self.cases]
        names, of = self.classes, self.matches
        confused = mistaken(of, threshold).tolist()
        taken = set(confused) | set(of.partners[of.scores >= threshold].tolist())
        rows = zip(self.found, of.kinds.tolist(), of.partners.tolist(), confused, of.apart.tolist(), strict=True)
        for (i, one), own, partner, other, apart in rows:
            if one.score < threshold:
                continue
            concerned = (names[own], *([names[of.objects[other]]] if other >= 0 else []))
            kind = CROWD if apart else RIGHT if partner >= 0 else WRONG if other >= 0 else NOTHING
            object_name = self.there[max(partner, other)][1].name if max(partner, other) >= 0 else ""
            marked[i].append(Mark(kind, one.name, concerned, one.score, object_name, one.description))
        for number, ((i, thing), own) in enumerate(zip(self.there, of.objects.tolist(), strict=True)):
            if number not in taken:
                marked[i].append(Mark(MISSED, thing.name, (names[own],), None, description=thing.description))
        return marked


def open_results(results: Path, data: Path | None = None) -> Browsed:
    """The evaluation whose results.json this is, with its answers beside it, on the data set in `data`.

    Without `data` it is where the results say it was. DataError where something of it is missing, or of another run.
    """
    stated = files.read_json(results)
    report = stated.get(SECTION) if isinstance(stated, dict) else None
    if not isinstance(report, dict) or "told" not in report:
        raise DataError(f"{results} holds no findings; browse what 'eval detect' or 'eval ground' wrote.")
    folder = _folder(results, stated, data)
    scores = results.with_suffix(".scores.jsonl")
    head, rows = _answers(scores)
    place = str(head["split"])
    if head["data"] != stated["data"]["fingerprint"] or len(rows) != sets.count(folder, place):
        raise DataError(
            f"{scores} holds {len(rows)} answers on the data {head['data'][:12]}, {results} is of all of {place} of "
            f"{stated['data']['fingerprint'][:12]}; run the evaluation again."
        )
    task = TaskSpec.from_dict(stated["task"], results)
    cases = tuple(_cases(rows, folder, place))
    labels = _labels(report, task, cases)
    taken = [(i, case.shown, labels.taken(case.shown)) for i, case in enumerate(cases) if case.shown is not None]
    compared = Compared.of((shown for *_, shown in taken), labels.compared)
    return Browsed(
        data=folder,
        place=place,
        reading=sets.read_reading(folder),
        task=task,
        threshold=float(report["told"]["threshold"]),
        cases=cases,
        matches=Matches.of(compared),
        found=tuple((i, one) for i, said, own in taken for one in _kept(said, own)),
        there=tuple((i, thing) for i, said, _ in taken for thing in said.things if not thing.crowd),
    )


def case_html(case: Case, marks: Sequence[Mark]) -> str:
    """What is to be said of a case, as a table: findings by their score, then what was missed; and its notes."""
    order = sorted(marks, key=lambda mark: (mark.score is None, -(mark.score or 0.0)))
    said = "".join(f"<p><b>{escape(one)}</b></p>" for one in case.said)
    if not order:
        return f"{said}<p>Nothing is there, and nothing was found from this score on.</p>"
    rows = "".join(
        f"<tr><td>{mark.kind}</td><td>{escape(mark.name)}</td><td>{escape(mark.other)}</td>"
        f"<td>{'' if mark.score is None else f'{mark.score:.3f}'}</td><td>{escape(mark.description)}</td></tr>"
        for mark in order
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "label", "there", "score", "description"))
    return f"{said}<table><tr>{head}</tr>{rows}</table>"


def counts_html(counts: Mapping[str, int], n: int, every: int) -> str:
    """How many images are chosen, and what their findings are."""
    listed = ", ".join(f"{kind}: {k}" for kind, k in counts.items())
    return f"<p>{n} of {every} images. {listed}.</p>"


def _folder(results: Path, stated: Mapping[str, Any], data: Path | None) -> Path:
    """The data set that was measured on."""
    own = stated["data"]
    folder = data or Path(own.get("folder", ""))
    what = f"{results} is of the data set {own['name']}, fingerprint {own['fingerprint'][:12]}"
    if data is None and ("folder" not in own or not folder.is_dir()):
        raise DataError(f"{what}, which is not at hand; give its folder as --data.")
    found = sets.read_head(folder)
    if found.get("fingerprint") != own["fingerprint"]:
        raise DataError(f"{what}; {folder} has {str(found.get('fingerprint'))[:12]}. Give the one it was measured on.")
    return folder


def _answers(scores: Path) -> tuple[Row, list[Row]]:
    """What was asked, and a row an image."""
    try:
        head, *rows = read_rows(scores)
        if not {"data", "split"} <= set(head) or not all("error" in row or SECTION in row for row in rows):
            raise ValueError("other keys")
    except (DataError, ValueError, TypeError) as error:
        raise DataError(
            f"{scores} does not hold the answers that the results are of ({error}); run the evaluation again."
        ) from None
    return head, rows


def _cases(rows: Sequence[Row], folder: Path, place: str) -> Iterator[Case]:
    names = sets.read_objects(folder).classes
    there = (row for batch in sets.stream(folder, place, _COLUMNS) for row in batch)
    for number, (row, own) in enumerate(zip(rows, there, strict=True)):
        if "error" in row:
            yield Case(number, row["source"], None, (row["error"],))
            continue
        answer = row[SECTION]
        things = sets.things_of(own["objects"], names)
        found = tuple(map(Finding.from_dict, answer.get("findings", ())))
        why = (f"unreadable: {answer['unreadable']}",) if "unreadable" in answer else ()
        shown = Shown(own["height"], own["width"], things, found)
        yield Case(number, row["source"], shown, (*why, *answer.get("notes", ())))


def _labels(report: Mapping[str, Any], task: TaskSpec, cases: Sequence[Case]) -> Labels:
    """What the evaluation took labels for, as its results say: what labels mean is not looked up again."""
    said = [one.name for case in cases if case.shown is not None for one in case.shown.findings]
    stated = report.get("labels", {})
    if stated.get("match") == TAXONOMY:
        return Naming(TAXONOMY).of(task, said)
    renamed = {one["label"]: one["class"] for one in stated.get("renamed", ())}
    exact = Naming().of(task, said)
    return replace(exact, said={label: name or renamed.get(label) for label, name in exact.said.items()})


def _kept(said: Shown, taken: Shown) -> list[Finding]:
    """The findings of an image that are compared, as they were said."""
    kept = {id(one) for one in surest(taken.findings)}
    return [own for own, one in zip(said.findings, taken.findings, strict=True) if id(one) in kept]


def _fit(rgb: Rgb) -> Rgb:
    picture = Image.fromarray(rgb)  # pixels of ours, no file
    picture.thumbnail((SIDE, SIDE))
    return np.array(picture)


def _meets(case: Case, marks: Sequence[Mark], name: str | None, kinds: Collection[str]) -> bool:
    if (not kinds and name is None) or (BROKEN in kinds and name is None and case.said):
        return True
    return any((not kinds or mark.kind in kinds) and (name is None or name in mark.classes) for mark in marks)

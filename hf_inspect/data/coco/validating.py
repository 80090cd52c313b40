"""A COCO file and its images -> every finding of `rules.RULES`; and the file as it is after a repair."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.coco.annotations import judge, turned
from hf_inspect.data.coco.categories import Categories, judge_categories
from hf_inspect.data.coco.entries import Entries, judge_images
from hf_inspect.data.coco.rules import RULES, Finding, by_rule, seen
from hf_inspect.data.raw.document import Document, parsed, read_document, shallow, text_of, whole
from hf_inspect.data.raw.exports import COCO_LISTS
from hf_inspect.errors import DataError

_ROUNDS = 3  # a repair may show what it hid: a clipped box, one that misses its mask


@dataclass(frozen=True, slots=True)
class Validation:
    """What was found in a COCO file, and what it holds after a repair; `there`: how many of its images' files are."""

    document: Document
    there: int
    findings: Sequence[Finding]
    content: Mapping[str, Any]

    @property
    def wrong(self) -> list[Finding]:
        """The findings that a file must not have; the others are told of."""
        return [one for one in self.findings if RULES[one.rule].wrong]

    def table(self) -> str:
        """The findings by rule, with the first of each, and what to do."""
        return "\n".join([self._head(), *by_rule(self.findings, RULES), self._verdict()])

    def to_dict(self) -> dict[str, Any]:
        """All findings, as JSON has them, with counts by rule."""
        counts = {name: len(getattr(self.document, name)) for name in COCO_LISTS}
        return {
            "file": self.document.name,
            "counts": {**counts, "files": self.there},
            "valid": not self.wrong,
            "rules": dict(Counter(one.rule for one in self.findings).most_common()),
            "findings": [one.to_dict() for one in self.findings],
        }

    def _head(self) -> str:
        counts = ", ".join(f"{len(getattr(self.document, name))} {name}" for name in COCO_LISTS)
        return f"{self.document.name}: {counts}; {self.there} of {len(self.document.images)} image files found"

    def _verdict(self) -> str:
        n = len(self.wrong)
        if not n:
            return "valid"
        return f"{n} {'thing is' if n == 1 else 'things are'} wrong; --repair OUT.json writes a file without"


@dataclass(frozen=True, slots=True)
class Repair:
    """What is found in the file that was written, and a line for every change: what was found, and what was done."""

    after: Validation
    changes: Sequence[str]

    def table(self) -> str:
        """Every change, and what is found afterwards."""
        return "\n".join([*self.changes, f"{len(self.changes)} changes", self.after.table()])

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"changes": list(self.changes), "repaired": self.after.to_dict()}


def validate(path: Path, images: Path, exif: str | None = None) -> Validation:
    """Hold a COCO file against every rule, and against the files of its images, which lie below `images`.

    `exif` says how boxes lie on photos turned by EXIF where the sizes do not tell: `stored` or `upright`. DataError for
    what is no COCO file.
    """
    if exif not in (None, "stored", "upright"):
        raise DataError(f"--exif {exif} is not known; use stored or upright.")
    return judged(read_document(path), images, exif)


@shallow()
def repair(found: Validation, images: Path, out: Path, exif: str | None = None) -> Repair:
    """Write what can be saved of a validated file to `out`, and say what was changed; nothing is wrong with it then.

    DataError, and nothing is written, where nothing can be saved.
    """
    files.refuse_overlap(out, [found.document.path] if found.document.path else [])
    files.refuse_other(out, COCO_LISTS)
    again, changes = found, list[str]()
    for _ in range(_ROUNDS):
        changes += [f"{one.line()} -> {RULES[one.rule].repair}" for one in again.wrong]
        text = _text(again.content)
        again = judged(parsed(text.encode(errors="backslashreplace"), out.name), images, exif and "upright")
        if not again.document.images:
            raise DataError(f"nothing of {found.document.name} can be saved: no image is left; nothing was written.")
        if not again.wrong:
            files.write_text(out, text + "\n")
            return Repair(again, changes)
    left = again.wrong[0]
    raise DataError(
        f"{found.document.name} cannot be repaired: {left.line()} ({RULES[left.rule].finds}) comes back. Mend it by "
        "hand; nothing was written."
    )


@shallow()
def judged(document: Document, images: Path, exif: str | None = None) -> Validation:
    """Every finding in a document, and what it holds after a repair."""
    annotations = [one if isinstance(one, dict) else None for one in document.annotations]
    categories = judge_categories(document.categories, _counted(annotations, "category_id"))
    entries = judge_images(document.images, images, _counted(annotations, "image_id"), exif)
    kept, findings = _judged_annotations(annotations, categories, entries)
    emptied = _emptied(annotations, kept, entries)
    gone = {one.where for one in emptied}
    content = {
        **document.content,
        "images": [one.value for own_id, one in entries.kept.items() if f"image {own_id}" not in gone],
        "annotations": kept,
        "categories": list(categories.kept),
    }
    every = [*_of_json(document), *categories.findings, *entries.findings, *findings, *emptied]
    return Validation(document, entries.there, every, content)


def _judged_annotations(
    annotations: Sequence[dict[str, Any] | None], categories: Categories, entries: Entries
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The annotations that are kept, as a repair writes them, and what is wrong with all."""
    findings, kept, keypoints = list[Finding](), list[dict[str, Any]](), categories.keypoints()
    ids, told = _Ids(annotations), set[str]()
    for number, annotation in enumerate(annotations, 1):
        if annotation is None:
            findings.append(Finding("annotation-form", f"annotation number {number}", "", "no object"))
            continue
        own_id, spelt = ids.of(annotation)
        where = f"annotation {own_id}"
        image, category = whole(annotation.get("image_id")), whole(annotation.get("category_id"))
        entry = entries.kept[entries.ids[image]] if image in entries.ids else None
        file = entry.name if entry else ""
        findings += [Finding(rule, where, file, what) for rule, what in spelt]
        if entry is None:
            findings.append(Finding("no-image", where, "", f"image_id {seen(annotation.get('image_id'))}"))
            continue
        if category is None or category not in categories.ids:
            findings.append(Finding("no-category", where, file, f"category_id {seen(annotation.get('category_id'))}"))
            continue
        named = {"id": own_id, "image_id": entry.value["id"], "category_id": categories.ids[category]}
        misspelt = [key for key in ("image_id", "category_id") if type(annotation[key]) is not int]
        findings += [Finding("id-form", where, file, f"{key} {seen(repr(annotation[key]))}") for key in misspelt]
        found = judge({**annotation, **named}, entry.frame.size, keypoints.get(named["category_id"]))
        findings += [Finding(rule, where, file, what) for rule, what in found.problems]
        if found.value is None:
            continue
        said = _said(found.value)
        if said in told:
            findings.append(Finding("repeat", where, file, "box, mask and category are those of another one"))
            continue
        told.add(said)
        kept.append(found.value if entry.frame.orientation == 1 else turned(found.value, entry.frame))
    return kept, findings


class _Ids:
    """The ids of annotations, each given once: its own where it has one that is free, else the next free number."""

    def __init__(self, annotations: Iterable[dict[str, Any] | None]) -> None:
        stated = {whole(one.get("id")) for one in annotations if one}
        self.free, self.given = (number for number in count(1) if number not in stated), set[int]()

    def of(self, annotation: Mapping[str, Any]) -> tuple[int, list[tuple[str, str]]]:
        """The id of an annotation, and what is wrong with the one that it states."""
        stated = annotation.get("id")
        own_id = whole(stated)
        if own_id is None or own_id in self.given:
            return next(self.free), [("id-twice", f"id {seen(stated)}")]
        self.given.add(own_id)
        return own_id, [] if type(stated) is int else [("id-form", f"id {seen(repr(stated))}")]


def _said(value: Mapping[str, Any]) -> str:
    """What an annotation says, as a text that equal ones share."""
    keys = ("image_id", "category_id", "bbox", "segmentation", "keypoints")
    return repr([value.get(key) for key in keys])


def _emptied(
    annotations: Iterable[dict[str, Any] | None], kept: Iterable[Mapping[str, Any]], entries: Entries
) -> list[Finding]:
    """Images that had annotations, of which none can be kept."""
    had = Counter(whole(one.get("image_id")) for one in annotations if one)
    left = {one["image_id"] for one in kept}
    lost = defaultdict[int, int](int)
    for own_id, meant in entries.ids.items():
        if meant not in left and had[own_id]:
            lost[meant] += had[own_id]
    return [
        Finding("emptied", f"image {own_id}", entries.kept[own_id].name, f"all {n} of its annotations")
        for own_id, n in lost.items()
    ]


def _of_json(document: Document) -> list[Finding]:
    """What is wrong with the file as JSON."""
    found = [Finding("mark", "file", "", "U+FEFF")] if document.marked else []
    found += [Finding("key-twice", "file", "", f"{seen(key)} in {n} objects") for key, n in document.twice.items()]
    return found + ([Finding("no-number", "file", "", f"{document.constants} of them")] if document.constants else [])


def _counted(annotations: Iterable[dict[str, Any] | None], key: str) -> Counter[int]:
    """How many annotations give each id."""
    return Counter(own_id for one in annotations if one and (own_id := whole(one.get(key))) is not None)


def _text(content: Mapping[str, Any]) -> str:
    """Content as JSON, with null for numbers that JSON does not have."""
    try:
        return text_of(content)
    except ValueError:
        return text_of({key: _finite(one) for key, one in content.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

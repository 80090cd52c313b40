"""A COCO file -> one a split, by group, each class in proportion; together they hold exactly what it held."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files
from hf_inspect.console import plain, shown
from hf_inspect.data.coco.entries import leads_out
from hf_inspect.data.examine import examine
from hf_inspect.data.near import group
from hf_inspect.data.raw.coco import finder
from hf_inspect.data.raw.document import Document, read_document, shallow, text_of, whole
from hf_inspect.data.raw.sources import keys_by_rule, relative, walk
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, Sample, no_progress

_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a COCO file by name, how many groups each has, and annotations of each by category."""

    parts: Mapping[str, dict[str, Any]]
    groups: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]

    def table(self) -> str:
        """Images, groups and annotations of each part, and of each class."""
        names = list(next(iter(self.classes.values())))
        head = ["", "images", "groups", "annotations", *map(plain, names)]
        rows = [
            [part, len(content["images"]), self.groups[part], len(content["annotations"]), *self.classes[part].values()]
            for part, content in self.parts.items()
        ]
        sums = ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]
        cells = [head, *([str(row[0]), *(f"{n:,}" for n in row[1:])] for row in (*rows, sums))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in cells)


def parse_split(text: str) -> dict[str, float]:
    """`train:0.7,val:0.15,test:0.15` -> shares that sum to 1, by name; DataError for what is none."""
    shares = dict[str, float]()
    for one in text.split(","):
        name, _, share = one.strip().partition(":")
        value = float(share) if re.fullmatch(r"\d*\.?\d+|\d+\.", share) else 0.0
        if not _NAME.fullmatch(name) or name in shares or not 0 < value <= 1:
            raise DataError(f"--split {text!r}: {one.strip()!r} is no name with a share above 0, as train:0.7 is.")
        shares[name] = value
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"--split {text!r}: the shares sum to {sum(shares.values()):g}; they must sum to 1.")
    return shares


@shallow()
def split(
    path: Path,
    shares: Mapping[str, float],
    out: Path,
    rule: str | None = None,
    seed: int = 42,
    images: Path | None = None,
    progress: Progress = no_progress,
) -> Split:
    """Write a file a part to the folder `out` (`train.json`), and say what they hold.

    Images of one group are in one part: those of which group 1 of the regular expression `rule` is the same, found in
    the file name (where it holds a '/', in the path). With `images`, copies and near-duplicates join a group besides,
    as in a built data set. DataError where ids do not hold together, or there are too few groups.
    """
    document = read_document(path)
    groups = _groups(document, rule, images, progress)
    made = parts_of(document, groups, shares, seed)
    with files.staged_folder(out, [path, *([images] if images else [])]) as stage:
        for name, content in made.parts.items():
            files.write_text(stage / f"{name}.json", _text(document, content) + "\n")
    return made


@shallow()
def parts_of(document: Document, groups: Sequence[int], shares: Mapping[str, float], seed: int) -> Split:
    """The parts of a document whose images are of these `groups`; nothing of it is changed.

    Which part a group goes to depends on the images' names and classes and on `seed`, not on the order of the file.
    """
    at = checked(document)
    names, columns = _classes(document)
    in_group = np.unique(np.asarray(groups), return_inverse=True)[1]
    labels = np.zeros((in_group.max() + 1, len(columns) + 1), bool)
    annotated = np.zeros(len(groups), bool)
    for one in document.annotations:
        image = at[whole(one["image_id"])]
        annotated[image] = True
        labels[in_group[image], columns[_category(one)]] = True
    labels[in_group[~annotated], -1] = True
    part_of = _dealt(labels, _ordered(document, in_group), list(shares.values()), seed)[in_group]
    parts, counts, held = dict[str, dict[str, Any]](), dict[str, int](), dict[str, dict[str, int]]()
    for number, part in enumerate(shares):
        mine = part_of == number
        if not mine.any():
            raise DataError(
                f"{document.name} has {len(labels)} groups of images, too few for --split: {part} would be empty."
            )
        annotations = [one for one in document.annotations if mine[at[whole(one["image_id"])]]]
        kept = [entry for entry, own in zip(document.images, mine, strict=True) if own]
        parts[part] = {**document.content, "images": kept, "annotations": annotations}
        counts[part] = len(np.unique(in_group[mine]))
        held[part] = _held(annotations, names, columns)
    return Split(parts, counts, held)


def checked(document: Document) -> dict[int | None, int]:
    """The place of each image by its id; DataError where ids do not hold the file together."""
    at = dict[int | None, int]()
    for number, entry in enumerate(document.images):
        own_id = whole(entry.get("id")) if isinstance(entry, dict) else None
        if own_id is None or own_id in at or not isinstance(entry.get("file_name"), str):
            raise _unsound(document, f"image number {number + 1} has no file_name, or no id of its own")
        at[own_id] = number
    for number, one in enumerate(document.annotations, 1):
        if not isinstance(one, dict) or whole(one.get("image_id")) not in at:
            raise _unsound(document, f"annotation number {number} is of no image that is listed")
    if not at:
        raise _unsound(document, "it lists no image")
    return at


def _unsound(document: Document, what: str) -> DataError:
    return DataError(
        f"{document.name}: {what}. Run 'hf-inspect data validate {document.name} --images DIR --repair fixed.json', "
        "and split that."
    )


def _groups(document: Document, rule: str | None, images: Path | None, progress: Progress) -> Sequence[int]:
    """The group of each image: by the rule, and by what they show where there is a folder of them."""
    checked(document)
    names = [entry["file_name"].replace("\\", "/") for entry in document.images]
    looked_in = names if rule and "/" in rule else [name.rsplit("/", 1)[-1] for name in names]
    keys = keys_by_rule(looked_in, rule) if rule else [None] * len(names)
    if images is None:
        by_key = dict[str, int]()
        return [n if key is None else by_key.setdefault(key, n) for n, key in enumerate(keys)]
    examined, rejected = examine(_samples(names, images), progress=progress)
    if rejected:
        raise DataError(f"{shown(rejected[0].source)}: {rejected[0].reason} Split without --images, or mend it.")
    return group([one.signature for one in examined], keys).tolist()


def _samples(names: Sequence[str], images: Path) -> list[Sample]:
    """The images' files; DataError where one is not below the folder."""
    find, samples = finder(walk(images).files, images), list[Sample]()
    for name in names:
        path = None if leads_out(name) else find(name, [""])
        if path is None:
            raise DataError(f"{shown(name)} is not in {images}; give the folder that holds all images.")
        samples.append(Sample(relative(path, images), path, "", ""))
    return samples


def _classes(document: Document) -> tuple[list[str], dict[int | None, int]]:
    """The names of categories in use, and the column of each category's id; one that is not listed has its own."""
    listed = {whole(one.get("id")): str(one.get("name")) for one in document.categories if isinstance(one, dict)}
    used = sorted({_category(one) for one in document.annotations}, key=lambda own_id: (own_id is None, own_id or 0))
    return [listed.get(own_id, "not listed") for own_id in used], {own_id: i for i, own_id in enumerate(used)}


def _category(annotation: Mapping[str, Any]) -> int | None:
    return whole(annotation.get("category_id"))


def _ordered(document: Document, in_group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups in the order of their first image's name, which the order of the file has no part in."""
    first = defaultdict[int, str](str)
    for entry, number in zip(document.images, in_group.tolist(), strict=True):
        name = entry["file_name"]
        first[number] = min(first[number] or name, name)
    return np.array(sorted(first, key=lambda number: first[number]), np.int64)


def _dealt(
    labels: NDArray[np.bool_], order: NDArray[np.int64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The part of each group, by iterative stratification (Sechidis et al. 2011) over the classes that it has."""
    from iterstrat.ml_stratifiers import IterativeStratification
    from sklearn.utils import check_random_state

    dealt = np.empty(len(labels), np.int64)
    dealt[order] = IterativeStratification(labels[order], np.asarray(shares), check_random_state(seed))
    return dealt


def _held(
    annotations: Sequence[Mapping[str, Any]], names: Sequence[str], columns: Mapping[int | None, int]
) -> dict[str, int]:
    """How many annotations are of each category, by name."""
    held = dict.fromkeys(names, 0)
    for one in annotations:
        held[names[columns[_category(one)]]] += 1
    return held


def _text(document: Document, content: Mapping[str, Any]) -> str:
    try:
        return text_of(content)
    except ValueError:
        raise _unsound(document, "it holds NaN or Infinity, which JSON does not have") from None

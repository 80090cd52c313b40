"""The user's own parts with COCO JSONs -> boxes, polygons and good or defect, split by group or as given.

What cannot be used is counted and named, never dropped in silence; a part whose annotations cannot be is no good one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement
from hf_inspect.data.published import (
    GivenSplit,
    across_published_split,
    check_splits,
    given_or_dealt,
    told_of_splits,
)
from hf_inspect.data.raw import accounting
from hf_inspect.data.raw.coco import ANNOTATIONS, ENTRIES, Key, Listed, Listing, read_coco
from hf_inspect.data.raw.document import whole
from hf_inspect.data.raw.goods import USUAL, check_good, good_of
from hf_inspect.data.raw.objects import TURNED, Found, Frame, frame_of, object_of
from hf_inspect.data.raw.sources import Raw, relative
from hf_inspect.errors import DataError
from hf_inspect.schema import DEFECT, DETECTION, GOOD, SEGMENTATION, TaskSpec

UNLABELLED = "images without an annotation, in a set whose good parts have one"
UNKNOWN = "images whose only annotations are good or of no category that the JSON lists"
LEFT_OUT = "of images that are left out"
TWICE = "images are listed more than once; their annotations were united"


@dataclass(frozen=True)
class Options:
    r"""Which categories mean good, how the images are split and joined, and their licence (an id of the Hub's list).

    `good`: names of categories, as `folder` has them; empty where none means good. `splits`: whether the JSONs of
    several splits are dealt anew (redeal) or kept. `exif`: how boxes lie on photos turned by EXIF where the JSON's
    sizes do not tell: stored or upright. `shares`: percent of train/validation/calibration/test. `group_rule`: a
    regular expression whose group 1, found in the file name, or, where it holds a '/', in the path below the raw
    folder, names the photo: `(.+)\.rf\.` for augmented copies, `(.+)_tile` for tiles of one photo. `hierarchy`: a
    class is called by its category's supercategory and name, `screw/install`, also in `good`.
    """

    good: str = field(default=USUAL, metadata={"repeated": True})
    seed: int = 0
    shares: str = "55/10/15/20"
    splits: str = "redeal"
    exif: str | None = None
    group_rule: str | None = None
    hierarchy: bool = False
    license: str = "other"

    def __post_init__(self) -> None:
        check_splits(self, Options.shares)
        if self.exif not in (None, "stored", "upright"):
            raise DataError(f"--exif {self.exif} is not known; use stored or upright.")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all images of a set share: names of the categories in use, and the entries and annotations to account for.

    Both by their keys, with what each is called, and why some are of no image.
    """

    names: Sequence[str]
    there: Mapping[str, Mapping[Key, str]]
    lost: Mapping[str, Mapping[Key, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated(GivenSplit):
    """A sample whose `columns` are what the JSON has of it, until it is placed."""

    listed: Listed
    shared: Shared


class Coco(InspectionBuilder):
    """A row an image; `objects` holds its annotations as lists of equal length."""

    VERSION = datasets.Version("1.5.0")
    LICENCE = None
    OPTIONS = Options

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """Every image that the JSONs list, in their order; DataError where they are no COCO, or no part is good."""
        listing = read_coco(src, hierarchy=options.hierarchy)
        check_good(options.good, listing.known, "categories")
        good = good_of(options.good, listing.names)
        classes = {image.path: _class_of(image, good) for image in listing.images}
        if GOOD not in classes.values() and options.good:
            raise DataError(
                "every image has an annotation, so that no part is good; name the categories that mean good with "
                f"--good (there are {accounting.first_of(listing.names)}), or say --good '' where none does."
            )
        images = [image for image in listing.images if classes[image.path] in (GOOD, DEFECT)]
        there = {ENTRIES: listing.entries, ANNOTATIONS: listing.annotations}
        shared, strata = Shared(listing.names, there, listing.lost), _strata(images, good)
        samples = [_sample(one, listing, classes[one.path], shared, strata[one.path]) for one in images]
        why = {path: reason for path, reason in classes.items() if reason not in (GOOD, DEFECT)}
        notes = told_of_splits({sample.split for sample in samples}, options.splits)
        return Raw(listing.inventory, samples, listing.jsons, {**listing.left_out, **why}, notes)

    @classmethod
    def columns_of(cls, samples: Sequence[Annotated], options: Options) -> Mapping[str, Any]:
        """Id, size in pixels and objects of an image: boxes x0, y0, x1, y1, polygons x, y, x, y, ..., in pixels.

        An RLE mask is polygons as well; `description` is what was written of a thing, empty where nothing was.
        """
        number = datasets.Value("float32")
        objects = {
            "bbox": datasets.List(datasets.List(number, length=4)),
            "category": datasets.List(datasets.ClassLabel(names=list(samples[0].shared.names))),
            "polygons": datasets.List(datasets.List(datasets.List(number))),
            "iscrowd": datasets.List(datasets.Value("bool")),
            "description": datasets.List(datasets.Value("string")),
        }
        whole_number = datasets.Value("int64")
        return {"image_id": whole_number, "width": whole_number, "height": whole_number, "objects": objects}

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The option's shares, by group, or the JSONs' splits; images whose size belies the JSON are left out."""
        frames = [_frame(image, options.exif) for image in examined]
        left_out = {
            image.sample.source: frame for image, frame in zip(examined, frames, strict=True) if isinstance(frame, str)
        }
        kept, found = [], list[tuple[Annotated, Frame, list[Found]]]()
        for image, frame in zip(examined, frames, strict=True):
            if isinstance(frame, Frame):
                objects = _objects(image, frame)
                found.append((image.sample, frame, objects))
                kept.append(replace(image, sample=replace(image.sample, columns=_columns(image, objects))))
        if not kept:
            first, why = next(iter(left_out.items()))
            raise DataError(f"none of {len(examined)} images can be used; the first, {first}, is one of the {why}.")
        theirs = [group for group, frame in zip(groups, frames, strict=True) if isinstance(frame, Frame)]
        rows = given_or_dealt(kept, theirs, options)
        notes = [*accounting.noted(_problems(found)), *across_published_split(rows)]
        objects = _task_of(found, found[0][0].shared.names, good_of(options.good, found[0][0].shared.names))
        return Placement(rows, notes, left_out, _accounts(found), objects)


def _class_of(image: Listed, good: Sequence[str]) -> str:
    """GOOD or DEFECT, or why neither can be told: with good categories about, a part without any is not looked at."""
    categories = {one.category for one in image.annotations}
    if not categories:
        return UNLABELLED if good else GOOD
    if categories - {None, *good}:
        return DEFECT
    return GOOD if None not in categories else (UNKNOWN if good else DEFECT)


def _task_of(
    found: Sequence[tuple[Annotated, Frame, list[Found]]], names: Sequence[str], good: Sequence[str]
) -> TaskSpec:
    """What a model of these objects answers: their boxes, and their masks where every one of them has polygons."""
    values = [one.value for _, _, objects in found for one in objects if one.value is not None]
    kind = SEGMENTATION if values and all(value["polygons"] for value in values) else DETECTION
    return TaskSpec(tuple(names), tuple(GOOD if name in good else DEFECT for name in names), kind)


def _strata(images: Sequence[Listed], good: Sequence[str]) -> dict[Path, str]:
    """What the split keeps in proportion: an image's rarest category that is no good one, `good` where it has none."""
    names = {image.path: {one.category or "unknown" for one in image.annotations} - {*good} for image in images}
    counted = Counter(name for of_image in names.values() for name in of_image)
    return {path: min(own, key=lambda name: (counted[name], name), default=GOOD) for path, own in names.items()}


def _sample(image: Listed, listing: Listing, class_name: str, shared: Shared, stratum: str) -> Annotated:
    source = relative(image.path, listing.inventory.root)
    said = {"entry": image.entries[0][1], "annotations": [[one.category, one.value] for one in image.annotations]}
    return Annotated(source, image.path, class_name, stratum, said, split=image.split, listed=image, shared=shared)


def _frame(image: Examined, exif: str | None) -> Frame | str:
    """The frame of an image's boxes by what its entry says of its size, or why it is not known."""
    entry, annotations = image.sample.listed.entries[0][1], image.sample.listed.annotations
    width, height = (entry.get(name) and (whole(entry[name]) or -1) for name in ("width", "height"))
    return frame_of((image.width, image.height), image.orientation, (width, height), exif, bool(annotations))


def _objects(image: Examined, frame: Frame) -> list[Found]:
    size = (image.width, image.height)
    return [object_of(one.value, one.category, frame, size) for one in image.sample.listed.annotations]


def _columns(image: Examined, found: Sequence[Found]) -> dict[str, Any]:
    """The further values of an image's row."""
    values = [one.value for one in found if one.value is not None]
    names = ("bbox", "category", "polygons", "iscrowd", "description")
    objects = {name: [value[name] for value in values] for name in names}
    image_id = whole(image.sample.listed.entries[0][1]["id"])
    return {"image_id": image_id, "width": image.width, "height": image.height, "objects": objects}


def _problems(found: Sequence[tuple[Annotated, Frame, list[Found]]]) -> list[tuple[str, str]]:
    """What to know of images and annotations that are taken, each with where it is."""
    problems = []
    for sample, frame, objects in found:
        problems += [(TWICE, sample.source)] if len(sample.listed.entries) > 1 else []
        problems += [(TURNED, sample.source)] if frame.orientation != 1 and objects else []
        for one, annotation in zip(objects, sample.listed.annotations, strict=True):
            name = sample.shared.there[ANNOTATIONS][annotation.key]
            problems += [(note, f"{sample.source} {name}") for note in one.notes if one.value is not None]
    return problems


def _accounts(found: Sequence[tuple[Annotated, Frame, list[Found]]]) -> dict[str, dict[str, Any]]:
    """All entries of the JSONs, and all annotations: taken, or left out and why."""
    shared = found[0][0].shared
    taken: dict[str, dict[Key, str]] = {ENTRIES: {}, ANNOTATIONS: {}}
    lost = {kind: dict(reasons) for kind, reasons in shared.lost.items()}
    for sample, _, objects in found:
        first, *more = (key for key, _ in sample.listed.entries)
        taken[ENTRIES] |= {first: "images", **dict.fromkeys(more, "repeats")}
        for one, annotation in zip(objects, sample.listed.annotations, strict=True):
            if one.value is not None:
                taken[ANNOTATIONS][annotation.key] = "objects"
            else:
                lost[ANNOTATIONS][annotation.key] = one.why
    accounts = {}
    for kind, there in shared.there.items():
        rest = dict.fromkeys((key for key in there if key not in taken[kind]), LEFT_OUT)
        accounts[kind] = accounting.account(there, taken[kind], rest | lost[kind])
    return accounts


BUILDER = Coco

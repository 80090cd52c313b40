"""Every rule that a COCO file is held against: what it finds, the remedy, and what a repair does about it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_inspect.console import plain, shown

_FIRST = 3  # findings of a rule that are shown
EDGE = 1.0  # pixels that a box or a polygon may reach beyond its image: exporters round
OFF = 2.0  # pixels by which a side of a box may miss its mask, or a twentieth of the box where that is more
DROPPED = "the annotation is dropped"
IMAGE_DROPPED = "the image is dropped, with its annotations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table; a finding that is no `wrong` one is told of, and nothing is done about it."""

    finds: str
    remedy: str
    repair: str = ""
    wrong: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule finds: where (`annotation 17`), of which image file, and what was seen there."""

    rule: str
    where: str
    file: str
    what: str

    def line(self) -> str:
        """The finding on one line."""
        of = f" of {plain(self.file)}" if self.file else ""
        return f"{self.where}{of}: {self.what}"

    def to_dict(self, rules: Mapping[str, Rule] | None = None) -> dict[str, Any]:
        """The finding as JSON has it, with the remedy and repair of its rule, one of `rules` (`RULES`)."""
        rule = (RULES if rules is None else rules)[self.rule]
        stated = {"rule": self.rule, "where": self.where, "file": self.file, "what": self.what}
        return stated | {"wrong": rule.wrong, "remedy": rule.remedy, "repair": rule.repair}


RULES: Mapping[str, Rule] = {
    # the file
    "mark": Rule("the file begins with a byte order mark", "save it as UTF-8 without one", "it is left out"),
    "key-twice": Rule(
        "an object gives a key more than once; readers take one or the other", "give it once",
        "the last value is kept, which is what this reader took",
    ),
    "no-number": Rule(
        "NaN and Infinity, which JSON does not have", "export again with numbers, or with null",
        "null stands in their place where the annotation is kept",
    ),
    # categories
    "category-form": Rule(
        "a category that is no object with a whole number as id and a name", "give it both", "the category is dropped",
    ),
    "category-twice": Rule("a category is listed twice", "list it once", "the repeat is dropped"),
    "category-clash": Rule(
        "one id stands for several names: which one an annotation means cannot be known",
        "give each category an id of its own, and its annotations that id",
        "the categories of this id are dropped, and their annotations with them",
    ),
    "category-renamed": Rule(
        "one name stands under several ids", "use one of the ids",
        "annotations are given the id that most of them have; the others are dropped",
    ),
    "category-unused": Rule(
        "no annotation is of this category", "none is needed; remove it if it is a parent that a tool added",
        wrong=False,
    ),
    # images
    "image-form": Rule(
        "an image's entry is no object with a whole number as id and a file_name", "give it both", IMAGE_DROPPED,
    ),
    "image-clash": Rule(
        "one id stands for several images", "give each an id of its own, and its annotations that id",
        "the images of this id are dropped, with their annotations",
    ),
    "file-twice": Rule(
        "a file is listed more than once", "list it once",
        "one entry is kept, and the annotations of all are put under its id",
    ),
    "name-outside": Rule(
        "a file_name leads out of the image folder (absolute, or with ..), and was not opened",
        "name files by their path below the image folder", IMAGE_DROPPED,
    ),
    "file-missing": Rule("no such file below --images", "copy it there, or remove its entry", IMAGE_DROPPED),
    "file-unsure": Rule("several files may be meant", "give the path below --images", IMAGE_DROPPED),
    "file-broken": Rule("the file is no image that can be read", "export or copy it again", IMAGE_DROPPED),
    "file-name": Rule(
        "the file is there under another spelling or in another folder", "give its path below --images as it is spelt",
        "the file's path is written",
    ),
    "size-form": Rule(
        "width or height is no whole number above 0", "state the file's size in pixels", "the file's size is written",
    ),
    "size-other": Rule(
        "width and height are not those of the file, so that its boxes may not fit",
        "export the annotations again with this very file",
        f"{IMAGE_DROPPED}; one without annotations is given the file's size",
    ),
    "exif": Rule(
        "a photo turned by EXIF is listed with the size of its stored pixels, and its boxes lie as these do",
        "turn the boxes, or save the photo upright",
        "its size, boxes, masks and keypoints are turned upright",
    ),
    "exif-unsure": Rule(
        "a photo turned by EXIF, where the size does not tell whether its boxes lie as the upright photo does",
        "say --exif stored or --exif upright", wrong=False,
    ),
    # ids and references
    "id-form": Rule("an id is spelt otherwise than as a whole number", "write 7, not \"7\" or 7.0", "it is rewritten"),
    "id-twice": Rule(
        "an annotation has no id, or that of another one", "number the annotations", "it is given a free id",
    ),
    "annotation-form": Rule("an annotation is no object", "remove it", DROPPED),
    "no-image": Rule("an annotation of no image that is listed", "list the image, or remove the annotation", DROPPED),
    "no-category": Rule(
        "an annotation of no category that is listed", "list the category, or remove the annotation", DROPPED,
    ),
    "repeat": Rule("an annotation that says what another one says", "remove it", DROPPED),
    # boxes
    "nothing": Rule("an annotation with neither a box nor a mask that can be used", "draw it again", DROPPED),
    "box-missing": Rule("a mask has no box", "let --repair write it", "the mask's tight box is written"),
    "box-form": Rule(
        "a box is not four numbers x, y, width, height in pixels", "export it again", "the mask's box is written",
    ),
    "box-empty": Rule(
        "a box has no area, or a negative width or height", "draw it again",
        "the mask's box is written; without a mask the annotation is dropped",
    ),
    "box-outside": Rule(
        f"a box reaches more than {EDGE:g} pixel beyond its image", "draw it inside",
        "it is clipped; of one that lies outside wholly the annotation is dropped",
    ),
    "box-off": Rule(
        f"a box misses its mask by more than {OFF:g} pixels and a twentieth of its size", "draw one of them again",
        "the mask's tight box is written",
    ),
    # masks
    "mask-form": Rule(
        "a segmentation is neither a list of polygons nor an RLE", "export it again",
        "the mask is dropped; without a box the annotation is too",
    ),
    "polygon-flat": Rule(
        "a polygon stands in no list of polygons", "write [[x, y, ...]], not [x, y, ...]", "it is put into a list",
    ),
    "polygon-form": Rule(
        "a polygon is no list of numbers x, y, x, y, ..., three points or more", "draw it again",
        "the polygon is dropped",
    ),
    "polygon-empty": Rule("a polygon has no area", "draw it again", "the polygon is dropped"),
    "polygon-crossing": Rule(
        "a polygon crosses itself", "draw it again", "it is cut where it crosses into several; their holes are filled",
    ),
    "polygon-outside": Rule(
        f"a polygon reaches more than {EDGE:g} pixel beyond its image", "draw it inside", "it is clipped",
    ),
    "rle-form": Rule(
        "an RLE is no size with counts, or its counts cannot be read or do not fill its size", "export it again",
        "the mask is dropped; without a box the annotation is too",
    ),
    "rle-size": Rule(
        "an RLE's size is not [height, width] of its image", "export it again",
        "the mask is dropped; without a box the annotation is too",
    ),
    "rle-empty": Rule(
        "an RLE marks nothing", "draw it again", "the mask is dropped; without a box the annotation is too",
    ),
    # the rest of an annotation
    "area-missing": Rule(
        "there is no area", "let --repair write it", "that of the mask, or the box, is written",
    ),
    "area-form": Rule(
        "an area is no number above 0", "let --repair write it", "that of the mask, or the box, is written",
    ),
    "area-off": Rule(
        "an area is not that of the mask (of the box, where there is no mask), which sizes are evaluated by",
        "let --repair write it", "that of the mask, or the box, is written",
    ),
    "crowd-form": Rule("iscrowd is neither 0 nor 1", "write 0 or 1", "what spells 1 becomes 1, all else 0"),
    "keypoints-form": Rule(
        "keypoints are no list of x, y, visibility (0, 1, 2), or not as many as the category has", "export them again",
        "the keypoints are dropped",
    ),
    "keypoints-count": Rule("num_keypoints is not how many are labelled", "count them", "the count is written"),
    # what a repair comes to
    "emptied": Rule(
        "none of an image's annotations can be kept; without one it would pass for a good part",
        "mend its annotations by hand", "the image is dropped",
    ),
}  # fmt: skip


def seen(value: Any) -> str:
    """A value of the file as findings show it."""
    return shown(value)


def by_rule(findings: Sequence[Finding], rules: Mapping[str, Rule]) -> list[str]:
    """Two lines and more for each rule: how often it finds what, the first of them, and the remedy."""
    by_rule = defaultdict[str, list[Finding]](list)
    for one in findings:
        by_rule[one.rule].append(one)
    lines = list[str]()
    for name, found in sorted(by_rule.items(), key=lambda pair: (not rules[pair[0]].wrong, -len(pair[1]))):
        rule = rules[name]
        lines.append(f"{len(found):>7,} {name}{'' if rule.wrong else ' (no fault)'}: {rule.finds}")
        lines += [f"{'':>9}{plain(one.line())}" for one in found[:_FIRST]]
        lines += [f"{'':>9}and {len(found) - _FIRST:,} others"] if len(found) > _FIRST else []
        lines.append(f"{'':>8}-> {rule.remedy}")
    return lines

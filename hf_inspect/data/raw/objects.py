"""COCO's boxes and masks -> boxes and polygons of an upright image, in pixels, clipped; and what is wrong with each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_inspect.images import turned_points, turned_size

FAR = 2**24  # pixels; float32 holds every whole number up to here, and no image is larger
NO_BOX = "neither a box of four numbers nor a polygon"
NO_AREA = "a box without area inside the image"
NO_CATEGORY = "no category that the JSON lists"
RLE = "annotations have an RLE mask, which became polygons"
HOLES = "annotations have an RLE mask with holes, whose polygons are cut through these"
NO_RLE = "annotations have an RLE mask that cannot be read or marks nothing, which was left out"
NO_TEXT = "annotations have a description that is no text, which was left out"
NO_POLYGON = "annotations have a polygon that is no list of three or more points, which was left out"
CLIPPED = "boxes reached outside their image and were clipped"
TURNED = "images were turned upright by EXIF, and their boxes and polygons with them"
OTHER_SIZE = "images of another size than the JSON says, as their boxes may not fit"
OTHER_TURNED = "images turned by EXIF that have neither their stored nor their upright size in the JSON"
UNSURE = "images turned by EXIF of which the JSON's size does not tell whether boxes were; say --exif stored or upright"

DESCRIPTIONS = ("description", "caption", "desc")  # what annotations call what was written of a thing

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True, slots=True)
class Frame:
    """How the pixels of an image's boxes lie: `size` as stored, turned upright from an EXIF `orientation`, 1 to 8."""

    size: tuple[int, int]
    orientation: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """An annotation as a row's object: None where it cannot be one, and `why`; `notes` on what else was done to it."""

    value: Mapping[str, Any] | None
    why: str = ""
    notes: Sequence[str] = ()


def frame_of(
    upright: tuple[int, int], orientation: int, said: tuple[Any, Any], exif: str | None, annotated: bool
) -> Frame | str:
    """The frame that an image's boxes were drawn in, by the size that is `said` (None: it is not), or why none is.

    `upright` is the image's size, `orientation` its file's by EXIF, 1 to 8. `exif` says it where the sizes do not tell:
    `stored` or `upright`. It does not matter for an image without boxes.
    """
    stored = turned_size(upright, orientation)
    fits = [frame for frame in (stored, upright) if all(a in (None, 0, b) for a, b in zip(said, frame, strict=True))]
    if not fits:
        return OTHER_SIZE if orientation == 1 else OTHER_TURNED
    if orientation == 1 or not annotated:
        return Frame(upright)
    if len(fits) == 2 and exif is None:
        return UNSURE
    turned = exif == "stored" if len(fits) == 2 else fits == [stored]
    return Frame(stored, orientation) if turned else Frame(upright)


def object_of(annotation: Mapping[str, Any], category: str | None, frame: Frame, size: tuple[int, int]) -> Found:
    """An annotation as a row's object, upright and clipped to the image's upright `size`."""
    polygons, notes = _polygons(annotation.get("segmentation"), frame.size)
    description = description_of(annotation)
    notes = [*notes, *([NO_TEXT] if description is None else [])]
    box = _box(annotation.get("bbox")) or _around(polygons)
    if category is None or box is None:
        return Found(None, NO_BOX if category else NO_CATEGORY, notes)
    x0, y0, x1, y1 = turned_box(box, frame)
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1]))]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return Found(None, NO_AREA, notes)
    reached = [CLIPPED] if clipped != [x0, y0, x1, y1] else []
    upright = [
        turned_points([one[i : i + 2] for i in range(0, len(one), 2)], frame.size, frame.orientation)
        for one in polygons
    ]
    value = {
        "bbox": clipped,
        "category": category,
        "polygons": [points.ravel().tolist() for points in upright],
        "iscrowd": bool(annotation.get("iscrowd")),
        "description": description or "",
    }
    return Found(value, notes=[*notes, *reached])


def description_of(annotation: Mapping[str, Any]) -> str | None:
    """What was written of a thing, by the first key that says anything; "" if none does, None if it is no text."""
    said = [annotation[key] for key in DESCRIPTIONS if annotation.get(key)]
    texts = [one.strip() for one in said if isinstance(one, str) and encodable(one)]
    return next(filter(None, texts), None if len(texts) < len(said) else "")


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can spell halves of characters, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def turned_box(box: Box, frame: Frame) -> Box:
    """A box's corners upright; one of negative size keeps it, and so has no area."""
    if frame.orientation == 1 or box[2] <= box[0] or box[3] <= box[1]:
        return box
    (ax, ay), (bx, by) = turned_points([box[:2], box[2:]], frame.size, frame.orientation).tolist()
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def _polygons(segmentation: Any, size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
    """The polygons of a segmentation, each x, y, x, y, ..., and what else it holds, or what became of it."""
    if not segmentation:
        return [], []
    if not isinstance(segmentation, list):
        from hf_inspect.data.coco.shapes import outlines, shape_of  # which read their numbers as this file does

        if not isinstance(segmentation, Mapping) or shape_of(segmentation, size)[0] is None:
            return [], [NO_RLE]
        drawn, holes = outlines(segmentation, size)
        return drawn, [RLE, *([HOLES] if holes else [])]
    sound = [one for one in segmentation if numbers(one) and len(one) >= 6 and len(one) % 2 == 0]
    return sound, [NO_POLYGON] if len(sound) < len(segmentation) else []


def _box(bbox: Any) -> Box | None:
    """COCO's x, y, width, height as corners."""
    if not numbers(bbox) or len(bbox) != 4:
        return None
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _around(polygons: Sequence[Sequence[float]]) -> Box | None:
    """The tight box of polygons, for annotations that have no other."""
    xs, ys = [x for one in polygons for x in one[::2]], [y for one in polygons for y in one[1::2]]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def numbers(values: Any, below: float = FAR) -> bool:
    """Whether a value is a list of numbers that lie in some image; `true`, which Python takes for 1, is none."""
    if not isinstance(values, list):
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < below for v in values)

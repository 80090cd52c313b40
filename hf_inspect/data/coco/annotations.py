"""An annotation, held against its image -> what is wrong with it, and what it is after a repair, or None."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hf_inspect import pixels
from hf_inspect.data.coco.rules import EDGE, OFF, seen
from hf_inspect.data.coco.shapes import LEAST, Problem, Size, shape_of
from hf_inspect.data.raw.document import whole
from hf_inspect.data.raw.objects import FAR, Box, Frame, numbers, turned_box
from hf_inspect.images import turned_points

_SHARE = 0.05  # of a side of a box, by which it may miss its mask
_TENTH = 0.1  # of an area; and the pixels along its edge, by which drawn and counted areas differ


@dataclass(frozen=True, slots=True)
class Judged:
    """What is wrong with an annotation, and what it is after a repair; None: it cannot be kept."""

    problems: Sequence[Problem]
    value: dict[str, Any] | None


def judge(annotation: Mapping[str, Any], size: Size, keypoints: int | None = None) -> Judged:
    """An annotation whose image is of `size`, in the frame that its box was drawn in; ids are not looked at.

    `keypoints` is how many its category has, None where that is not said.
    """
    shape, problems = shape_of(annotation.get("segmentation"), size)
    redrawn = bool(problems)
    box, said = _judged_box(annotation.get("bbox"), size)
    if annotation.get("bbox") in (None, []) and shape:
        said = [("box-missing", "the mask has one")]
    problems += said
    if shape is not None and box is not None and not said and (off := _off(box, shape.box)):
        said = [("box-off", off)]
        problems += said
    kept = shape.box if shape and (said or redrawn or box is None) else box
    if kept is None:
        return Judged([*problems, ("nothing", f"bbox {seen(annotation.get('bbox'))}")], None)
    value = dict(annotation)
    if kept is not box or said:
        value["bbox"] = _written(kept)
    if redrawn:
        value["segmentation"] = shape.value if shape else []
    area = shape.area if shape else (kept[2] - kept[0]) * (kept[3] - kept[1])
    if found := _judged_area(annotation, area, kept):
        problems.append(found)
        value["area"] = area
    problems += _judged_rest(annotation, value, keypoints)
    return Judged(problems, value)


def turned(annotation: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """A sound annotation of a frame as stored, where its photo is upright."""
    x, y, width, height = annotation["bbox"]
    value = {**annotation, "bbox": _written(turned_box((x, y, x + width, y + height), frame))}
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        value["segmentation"] = _turned_rle(segmentation, frame)
    elif segmentation:
        value["segmentation"] = [_points(one, frame).ravel().tolist() for one in segmentation]
    if annotation.get("keypoints"):
        points = np.reshape(np.asarray(annotation["keypoints"], float), (-1, 3))
        labelled = points[:, 2] > 0
        points[labelled, :2] = _points(points[labelled, :2], frame)
        value["keypoints"] = points.ravel().tolist()
    return value


def _judged_box(bbox: Any, size: Size) -> tuple[Box | None, list[Problem]]:
    """A box clipped to its image, None where none can be used, and what is wrong with it."""
    if bbox in (None, []):
        return None, []
    if not numbers(bbox) or len(bbox) != 4:
        return None, [("box-form", seen(bbox))]
    x, y, width, height = (float(one) for one in bbox)
    if width <= 0 or height <= 0 or width * height < LEAST:
        return None, [("box-empty", seen(bbox))]
    beyond = max(-x, -y, x + width - size[0], y + height - size[1])
    if beyond <= EDGE:
        return (x, y, x + width, y + height), []
    said = [("box-outside", f"{seen(bbox)} reaches {beyond:.1f} pixels beyond {size[0]} x {size[1]}")]
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, float(size[0])), min(y + height, float(size[1]))
    return ((x0, y0, x1, y1) if x1 > x0 and y1 > y0 and (x1 - x0) * (y1 - y0) >= LEAST else None), said


def _off(box: Box, tight: Box) -> str:
    """By how much a box misses its mask's, empty where it is little."""
    far = max(abs(a - b) for a, b in zip(box, tight, strict=True))
    side = max(tight[2] - tight[0], tight[3] - tight[1])
    return f"by {far:.1f} pixels" if far > max(OFF, _SHARE * side) else ""


def _judged_area(annotation: Mapping[str, Any], area: float, box: Box) -> Problem | None:
    stated = annotation.get("area")
    if stated is None:
        return "area-missing", f"it is {area:.1f}"
    if not numbers([stated], FAR**2) or stated <= 0:
        return "area-form", seen(stated)
    edge = box[2] - box[0] + box[3] - box[1]
    if abs(stated - area) > _TENTH * area + edge:
        return "area-off", f"{stated:.1f}, and it is {area:.1f}"
    return None


def _judged_rest(annotation: Mapping[str, Any], value: dict[str, Any], keypoints: int | None) -> list[Problem]:
    """What is wrong with iscrowd and keypoints, mended in `value`."""
    problems = list[Problem]()
    crowd, points = annotation.get("iscrowd", 0), annotation.get("keypoints")
    if type(crowd) is not int or crowd not in (0, 1):
        problems.append(("crowd-form", seen(crowd)))
        value["iscrowd"] = int(crowd is True or whole(crowd) == 1)
    if points in (None, []):
        return problems
    if not _are_keypoints(points, keypoints):
        del value["keypoints"]
        value.pop("num_keypoints", None)
        return [*problems, ("keypoints-form", seen(points))]
    labelled = sum(one > 0 for one in points[2::3])
    if "num_keypoints" in value and value["num_keypoints"] != labelled:
        problems.append(("keypoints-count", f"{seen(value['num_keypoints'])}, and there are {labelled}"))
        value["num_keypoints"] = labelled
    return problems


def _are_keypoints(points: Any, wanted: int | None) -> bool:
    if not numbers(points) or len(points) % 3 or wanted not in (None, len(points) // 3):
        return False
    return all(one in (0, 1, 2) for one in points[2::3])


def _written(box: Box) -> list[float]:
    """A box as COCO has it: x, y, width, height."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _points(points: Any, frame: Frame) -> Any:
    return turned_points(np.reshape(np.asarray(points, float), (-1, 2)), frame.size, frame.orientation)


def _turned_rle(rle: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """An RLE of the upright photo, compressed."""
    from faster_coco_eval import mask

    packed = mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
    upright = np.asarray(pixels.turned(Image.fromarray(mask.decode(packed)), frame.orientation))
    made = mask.encode(np.asfortranarray(upright))
    return {"size": [int(side) for side in made["size"]], "counts": made["counts"].decode()}

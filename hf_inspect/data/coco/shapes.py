"""A segmentation, polygons or RLE -> what it marks: its tight box and its area in pixels, and what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.data.coco.rules import EDGE, seen
from hf_inspect.data.raw.objects import Box, numbers

LEAST = 1e-3  # square pixels of a polygon or a box; less is rounding

Problem = tuple[str, str]  # the rule's name, and what was seen
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class Shape:
    """What a mask marks: `value` as COCO writes it, the tight `box` around it, and its `area`, all in pixels."""

    value: Any
    box: Box
    area: float


def shape_of(segmentation: Any, size: Size) -> tuple[Shape | None, list[Problem]]:
    """The mask of an annotation of an image of `size`, as far as it can be used, and what is wrong with it.

    None, without a problem, where there is no segmentation.
    """
    if segmentation is None or segmentation == []:
        return None, []
    if isinstance(segmentation, dict):
        return _of_rle(segmentation, size)
    if numbers(segmentation):
        shape, problems = _of_polygons([segmentation], size)
        return shape, [("polygon-flat", seen(segmentation)), *problems]
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, size)
    return None, [("mask-form", seen(segmentation))]


def outlines(mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """The outlines of a mask (h, w) whose first pixel is row and column `corner`: x, y, x, y, ... in pixels.

    Corners of pixels are whole numbers; holes are filled.
    """
    import cv2

    twice = mask.repeat(2, 0).repeat(2, 1).astype(np.uint8)  # else outlines run through pixels' centres
    found, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    top, left = corner
    corners = [np.ceil(one.reshape(-1, 2) / 2) + np.array([left, top]) for one in found if len(one) > 2]
    return [one.ravel().tolist() for one in corners]


def outlines_of_rle(rle: dict[str, Any], size: Size) -> list[list[float]]:
    """The outlines of the RLE of an image of `size`; none where it cannot be used."""
    from faster_coco_eval import mask

    if shape_of(rle, size)[0] is None:
        return []
    packed = mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
    return outlines(mask.decode({"size": rle["size"], "counts": packed["counts"]}).astype(bool))


def is_compressed(segmentation: Any) -> bool:
    """Whether an RLE's counts are a text."""
    return isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str)


def _of_polygons(polygons: Sequence[Any], size: Size) -> tuple[Shape | None, list[Problem]]:
    import shapely

    kept, problems = list[list[float]](), list[Problem]()
    parts = []
    for one in polygons:
        if not numbers(one) or len(one) < 6 or len(one) % 2:
            problems.append(("polygon-form", seen(one)))
            continue
        polygon = shapely.Polygon(np.reshape(np.asarray(one, float), (-1, 2)))
        sound, said = _sound(polygon, size)
        problems += said
        parts += sound
        kept += [one] if not said else [_written(part) for part in sound]
    if not parts:
        return None, problems
    united = shapely.union_all(parts) if len(parts) > 1 else parts[0]
    x0, y0, x1, y1 = united.bounds
    return Shape(kept, (x0, y0, x1, y1), float(united.area)), problems


def _sound(polygon: Any, size: Size) -> tuple[list[Any], list[Problem]]:
    """A polygon as those that can be kept of it: none of them crosses itself, or reaches beyond the image."""
    import shapely

    if not polygon.is_valid:
        reason = shapely.is_valid_reason(polygon)
        crosses = reason.startswith("Self-intersection")
        made, problems = shapely.make_valid(polygon), [("polygon-crossing", reason)] if crosses else []
    else:
        made, problems = polygon, []
    if made.area < LEAST:
        return [], [("polygon-empty", f"{made.area:g} square pixels")]
    x0, y0, x1, y1 = made.bounds
    beyond = max(-x0, -y0, x1 - size[0], y1 - size[1])
    if beyond > EDGE:
        problems.append(("polygon-outside", f"by {beyond:.1f} pixels"))
        made = shapely.make_valid(made.intersection(shapely.box(0, 0, *size)))
    if made is polygon:
        return [polygon], problems
    pieces = [part for one in shapely.get_parts(made) for part in shapely.get_parts(one)]
    areas = [one for one in pieces if one.geom_type == "Polygon" and one.area >= LEAST]
    return [shapely.Polygon(one.exterior) for one in areas], problems


def _written(polygon: Any) -> list[float]:
    """A polygon as COCO has it, without the repeated first point."""
    return np.asarray(polygon.exterior.coords)[:-1].ravel().tolist()


def _of_rle(rle: dict[str, Any], size: Size) -> tuple[Shape | None, list[Problem]]:
    from faster_coco_eval import mask
    from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE

    stated, counts = rle.get("size"), rle.get("counts")
    sides = stated if isinstance(stated, list) and [type(side) for side in stated] == [int, int] else []
    if not sides or not _are_counts(counts):
        return None, [("rle-form", f"size {seen(stated)}, counts {seen(counts)}")]
    if sides != [size[1], size[0]]:
        return None, [("rle-size", f"size {seen(stated)}, the image's is [{size[1]}, {size[0]}]")]
    try:
        packed = mask.frPyObjects({"size": sides, "counts": counts}, *sides) if isinstance(counts, list) else rle
        packed = {"size": sides, "counts": packed["counts"]}
        filled = sum(toUncompressedRLE([packed])[0]["counts"])
        area, (x, y, width, height) = float(mask.area(packed)), mask.toBbox(packed).tolist()
    except (ValueError, RuntimeError, TypeError) as error:
        return None, [("rle-form", f"counts {seen(counts)}: {error}")]
    if filled != sides[0] * sides[1]:
        return None, [("rle-form", f"counts of {filled} pixels, its size has {sides[0] * sides[1]}")]
    if not area:
        return None, [("rle-empty", f"size {seen(stated)}")]
    return Shape(rle, (x, y, x + width, y + height), area), []


def _are_counts(counts: Any) -> bool:
    """Whether counts may be handed to the library: a text of ASCII, or a list of whole numbers from 0."""
    if isinstance(counts, list):
        return all(type(one) is int and 0 <= one < 2**31 for one in counts)
    return isinstance(counts, str) and counts.isascii()

"""Polygons beside globox's boxes, which it has none of: read from the files of each format, and written into them."""

import json
import xml.etree.ElementTree as et
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data.coco.shapes import outlines, shape_of
from hf_inspect.data.raw.objects import description_of

if TYPE_CHECKING:
    from globox import Annotation, BoundingBox

Polygons = list[list[float]]  # of one thing, each x, y, x, y, ... in pixels
Drawn = dict[int, Polygons]  # by the id() of the thing's box
Described = dict[int, str]  # what was written of a thing, by the same
_LEAST = 6  # values of a polygon


def polygons_of(segmentation: Any, size: tuple[int, int]) -> Polygons:
    """What COCO's polygons or RLE mark of an image of width and height `size`; [] where they cannot be read."""
    shape, _ = shape_of(segmentation, size)
    if shape is None:
        return []
    return outlines(shape.value, size)[0] if isinstance(shape.value, dict) else shape.value


def box_of(label: str, polygons: Polygons, drawn: Drawn) -> "BoundingBox":
    """The tight box of a thing's polygons, which are noted in `drawn`."""
    from globox import BoundingBox

    xs, ys = ([v for one in polygons for v in one[start::2]] for start in (0, 1))
    box = BoundingBox.create(label=label, coords=(min(xs), min(ys), max(xs), max(ys)))
    drawn[id(box)] = polygons
    return box


def of_labelme(
    shapes: Sequence[Mapping[str, Any]], boxes: Sequence["BoundingBox"], drawn: Drawn, described: Described
) -> list["BoundingBox"]:
    """The things of LabelMe's polygons; those of one label and one `group_id` are one thing.

    What is written of them is noted in `described`, and so is what is of `boxes`, which are those of its rectangles.
    """
    rectangles = [one for one in shapes if one["shape_type"] == "rectangle"]
    _note(zip(boxes, map(description_of, rectangles), strict=True), described)
    given = [
        (str(one["label"]), one.get("group_id"), [float(v) for point in one["points"] for v in point], one)
        for one in shapes
        if one["shape_type"] == "polygon"
    ]
    return _things(given, drawn, described)


def of_cvat(image: et.Element, drawn: Drawn) -> list["BoundingBox"]:
    """The things of CVAT's polygons; those of one label and one `group_id` but 0 are one thing."""
    given: list[tuple[str, Any, list[float], Mapping[str, Any]]] = []
    for node in image.iter("polygon"):
        points = [float(v) for point in node.attrib["points"].split(";") for v in point.split(",")]
        given.append((node.attrib["label"], int(node.get("group_id", 0)) or None, points, {}))
    return _things(given, drawn, {})


def into_coco(content: dict[str, Any], images: Iterable["Annotation"], drawn: Drawn, described: Described) -> None:
    """Give globox's annotations, in the order of the boxes, their polygons, areas and descriptions."""
    boxes = [(box, one.image_size) for one in images for box in one.boxes]
    for annotation, (box, size) in zip(content["annotations"], boxes, strict=True):
        if polygons := drawn.get(id(box)):
            shape, _ = shape_of(polygons, size or (0, 0))
            annotation["segmentation"] = polygons
            annotation["area"] = shape.area if shape else annotation["area"]
        annotation |= _written(box, described)


def into_yolo(path: Path, one: "Annotation", drawn: Drawn, ids: Mapping[str, int]) -> int:
    """Write an image's labels as polygons, all of them, where any thing has one -> how many boxes became such.

    Ultralytics takes boxes or polygons in a file, not both. Several polygons of a thing are joined by a line.
    """
    if not any(id(box) in drawn for box in one.boxes):
        return 0
    width, height = one.image_size or (1, 1)
    lines, boxes = [], 0
    for box in one.boxes:
        x0, y0, x1, y1 = box.ltrb
        boxes += id(box) not in drawn
        outline = _joined(drawn.get(id(box), [[x0, y0, x1, y0, x1, y1, x0, y1]]))
        shares = (v / (height if i % 2 else width) for i, v in enumerate(outline))
        lines.append(" ".join([str(ids[box.label]), *(f"{v:.9g}" for v in shares)]))
    files.write_text(path, "\n".join(lines))
    return boxes


def into_labelme(path: Path, one: "Annotation", drawn: Drawn, described: Described) -> None:
    """Put polygons in the place of the rectangles of an image's file, and descriptions beside them."""
    content = json.loads(path.read_bytes())
    shapes = []
    for number, (box, shape) in enumerate(zip(one.boxes, content["shapes"], strict=True), 1):
        parts = drawn.get(id(box))
        group = number if parts and len(parts) > 1 else None
        for part in parts or ():
            points = [part[i : i + 2] for i in range(0, len(part), 2)]
            drawn_one = {"label": box.label, "points": points, "group_id": group, "shape_type": "polygon"}
            shapes.append(drawn_one | _written(box, described))
        shapes += [] if parts else [shape | _written(box, described)]
    files.write_text(path, json.dumps(content | {"shapes": shapes}))


def into_cvat(path: Path, images: Iterable["Annotation"], drawn: Drawn) -> None:
    """Put polygons in the place of the boxes of all images' one file."""
    root = et.parse(path).getroot()
    for one, image in zip(images, root.iter("image"), strict=True):
        nodes = list(image)
        for node in nodes:
            image.remove(node)
        for number, (box, node) in enumerate(zip(one.boxes, nodes, strict=True), 1):
            parts = drawn.get(id(box))
            group = {"group_id": str(number)} if parts and len(parts) > 1 else {}
            image.extend(
                et.Element("polygon", {"label": box.label, "points": _points(part), **group}) for part in parts or ()
            )
            image.extend([] if parts else [node])
    files.write_text(path, et.tostring(root, encoding="unicode"))


def _things(
    given: Iterable[tuple[str, Any, list[float], Mapping[str, Any]]], drawn: Drawn, described: Described
) -> list["BoundingBox"]:
    """Boxes of polygons (label, group, points, shape), one of each group, in the order of the first of it."""
    groups: dict[tuple[str, Any], Polygons] = {}
    written: dict[tuple[str, Any], str] = {}
    for number, (label, group, points, shape) in enumerate(given):
        if len(points) < _LEAST or len(points) % 2:
            raise ValueError(f"a polygon of {label} has {len(points)} coordinates")
        key = (label, ("alone", number) if group is None else group)
        groups.setdefault(key, []).append(points)
        written[key] = written.get(key) or description_of(shape) or ""
    boxes = [box_of(label, polygons, drawn) for (label, _), polygons in groups.items()]
    _note(zip(boxes, written.values(), strict=True), described)
    return boxes


def _note(written: Iterable[tuple["BoundingBox", str | None]], described: Described) -> None:
    described |= {id(box): text for box, text in written if text}


def _written(box: "BoundingBox", described: Described) -> dict[str, str]:
    return {"description": described[id(box)]} if id(box) in described else {}


def _joined(polygons: Polygons) -> list[float]:
    """One closed line along all polygons: from one's first point to the next one's, and back the same way."""
    if len(polygons) == 1:
        return polygons[0]
    there = [v for one in polygons for v in (*one, *one[:2])]
    return there + [v for one in reversed(polygons[:-1]) for v in one[:2]]


def _points(polygon: list[float]) -> str:
    return ";".join(f"{x!r},{y!r}" for x, y in zip(polygon[::2], polygon[1::2], strict=True))

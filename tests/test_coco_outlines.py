"""Polygons from COCO to LabelMe, YOLO and CVAT and back: the same points, classes, things and images."""

import json
import xml.etree.ElementTree as et
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect.data.coco import convert, repair, validate
from hf_inspect.errors import DataError
from tests import cocos

W, H = 64, 48
CLASSES = ("dent", "Riß")
WAGON = Path(__file__).parents[2] / "shared" / "data" / "wagon"
KEEPING = ("labelme", "cvat")  # several polygons of a thing; YOLO has one outline a thing


@st.composite
def shape(draw):
    """A triangle or a four-sided polygon within a cell of the image, its points apart."""
    x, y = draw(st.integers(0, 3)) * 16, draw(st.integers(0, 2)) * 16
    inside = st.floats(0, 7).map(lambda v: round(v, 3))
    corners = [(draw(inside), draw(inside)), (15 - draw(inside), draw(inside)), (15 - draw(inside), 15 - draw(inside))]
    corners += [(draw(inside), 15 - draw(inside))] if draw(st.booleans()) else []
    return [v for a, b in corners for v in (round(x + a, 3), round(y + b, 3))]


@st.composite
def contents(draw, parts):
    """A COCO file of three images, the last one without things; each thing has up to `parts` polygons, or a box."""
    listed = [{"id": i, "file_name": f"ü {i}.png", "width": W, "height": H} for i in (1, 2, 3)]
    annotations = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        polygons = draw(st.lists(shape(), min_size=0, max_size=parts))
        xs, ys = ([v for one in polygons or [[5, 5, 9, 9]] for v in one[start::2]] for start in (0, 1))
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        annotations.append(
            {"id": number, "image_id": draw(st.sampled_from([1, 2])), "category_id": draw(st.sampled_from([3, 7])),
             "bbox": box, "area": 1, "iscrowd": 0, **({"segmentation": polygons} if polygons else {})}
        )  # fmt: skip
    named = [{"id": 3, "name": CLASSES[0]}, {"id": 7, "name": CLASSES[1]}]
    return {"images": listed, "annotations": annotations, "categories": named}


def there_and_back(folder, content, other):
    """A file in another format and in COCO again, and what was said of either way."""
    made = convert(cocos.written(folder, content), "coco", other, folder / other)
    if other == "yolo":
        for one in content["images"]:
            picture = folder / "yolo" / "images" / one["file_name"]
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (one["width"], one["height"])).save(picture)
    again = convert(folder / other / ("annotations.xml" if other == "cvat" else ""), other, "coco", folder / "back")
    return made, again, json.loads((folder / "back/annotations.json").read_text())


def things(content):
    """Image, class and polygons of each annotation, in no order; a box is without."""
    named = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: one["file_name"] for one in content["images"]}
    return sorted(
        (files[one["image_id"]], named[one["category_id"]],
         [np.round(part, 3).tolist() for part in one.get("segmentation", [])], np.round(one["bbox"], 3).tolist())
        for one in content["annotations"]
    )  # fmt: skip


def area(polygons):
    return shapely.union_all([shapely.Polygon(np.reshape(one, (-1, 2))) for one in polygons]).area


@given(contents(3), st.sampled_from(KEEPING))
@settings(max_examples=20)
def test_polygons_of_labelme_and_cvat_come_back(content, other):
    with TemporaryDirectory() as folder:
        made, again, back = there_and_back(Path(folder), content, other)
    assert things(back) == things(content)
    assert (made.lost, again.lost) == ({}, {})
    assert made.polygons == again.polygons == sum("segmentation" in one for one in content["annotations"])
    for one in back["annotations"]:
        if one["segmentation"]:
            assert one["area"] == pytest.approx(area(one["segmentation"]), abs=1e-3)


@given(contents(1))
@settings(max_examples=12)
def test_polygons_of_yolo_come_back_and_boxes_beside_them_as_their_corners(content):
    with TemporaryDirectory() as folder:
        made, _, back = there_and_back(Path(folder), content, "yolo")
    before, after = things(content), things(back)
    drawn = {one["image_id"] for one in content["annotations"] if "segmentation" in one}
    beside = sum("segmentation" not in one and one["image_id"] in drawn for one in content["annotations"])
    assert sum(made.lost.values()) == beside
    assert len(before) == len(after)
    given_polygons = [one for one in before if one[2]]
    assert [one for one in after if one[2] and one[2] != [[5, 5, 9, 5, 9, 9, 5, 9]]] == given_polygons
    assert sorted((one[0], one[1], one[3]) for one in after) == sorted((one[0], one[1], one[3]) for one in before)


def test_several_polygons_of_a_thing_are_one_outline_in_yolo_which_is_told(tmp_path):
    content = cocos.sound()
    parts = [[5, 5, 9, 5, 9, 9, 5, 9], [20, 5, 25, 5, 25, 15, 20, 15], [12, 20, 18, 20, 15, 26]]
    content["annotations"] = [content["annotations"][1] | {"segmentation": parts, "bbox": [5, 5, 20, 21]}]
    made, _, back = there_and_back(tmp_path, content, "yolo")
    assert dict(made.lost) == {"things of several polygons became one outline each, as YOLO has no other": 1}
    [[outline]] = [one["segmentation"] for one in back["annotations"]]
    assert shapely.make_valid(shapely.Polygon(np.reshape(outline, (-1, 2)))).area == pytest.approx(area(parts))


def test_an_rle_mask_is_drawn_and_one_polygon_of_a_thing_has_no_group(tmp_path):
    made, _, back = there_and_back(tmp_path, cocos.sound(), "labelme")
    assert made.lost["RLE masks became polygons"] == 1
    masks = {one["segmentation"][0][0]: one["area"] for one in back["annotations"] if one["segmentation"]}
    assert sorted(masks.values()) == [20, 200]  # as the masks' own pixels
    shapes = json.loads((tmp_path / "labelme" / "a.json").read_text())["shapes"]
    assert [(one["shape_type"], one.get("group_id")) for one in shapes] == [("rectangle", None), ("polygon", None)]


def test_what_labelme_and_cvat_group_is_one_thing(tmp_path):
    triangle = [[1, 1], [9, 1], [5, 7]]
    shapes = [
        {"label": name, "points": triangle, "shape_type": "polygon", "group_id": group}
        for name, group in (("dent", 1), ("dent", 1), ("pin", 1), ("dent", None), ("dent", None))
    ]
    stated = {"imagePath": "a.png", "imageWidth": W, "imageHeight": H, "imageData": None, "shapes": shapes}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.json").write_text(json.dumps(stated))
    assert convert(tmp_path / "raw", "labelme", "coco", tmp_path / "out").boxes == {"dent": 3, "pin": 1}
    for shape, said in zip(shapes, ["", "left, right", "bent", None, 7], strict=True):
        shape["description"] = said
    shapes.append({"label": "pin", "points": [[1, 1], [9, 7]], "shape_type": "rectangle", "description": "a box"})
    (tmp_path / "raw" / "a.json").write_text(json.dumps(stated))
    convert(tmp_path / "raw", "labelme", "coco", tmp_path / "out")
    found = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    assert [one.get("description") for one in found] == ["a box", "left, right", "bent", None, None]
    convert(tmp_path / "out/annotations.json", "coco", "labelme", tmp_path / "back")
    back = json.loads((tmp_path / "back" / "a.json").read_text())["shapes"]
    assert [one.get("description") for one in back] == ["a box", *["left, right"] * 2, "bent", None, None]
    to_voc = convert(tmp_path / "out/annotations.json", "coco", "voc", tmp_path / "voc")
    assert to_voc.lost["descriptions left out"] == 3
    root = et.fromstring(
        f'<annotations><image name="a.png" width="{W}" height="{H}">'
        + "".join(f'<polygon label="dent" points="1,1;9,1;5,7" group_id="{group}"/>' for group in (0, 0, 2, 2))
        + "</image></annotations>"
    )
    (tmp_path / "x.xml").write_bytes(et.tostring(root))
    assert convert(tmp_path / "x.xml", "cvat", "coco", tmp_path / "other").boxes == {"dent": 3}


@pytest.mark.parametrize("points", ["1,1;2", "1,1;2,2", "", "x,y;1,2;3,4"])
def test_a_polygon_that_is_none_is_a_sentence(tmp_path, points):
    text = f'<annotations><image name="a.png" width="9" height="9"><polygon label="a" points="{points}"/></image>'
    (tmp_path / "x.xml").write_text(text + "</annotations>")
    with pytest.raises(DataError, match="cannot be converted as CVAT"):
        convert(tmp_path / "x.xml", "cvat", "coco", tmp_path / "out")


@pytest.mark.skipif(not WAGON.is_dir(), reason="the wagon photos are not here")
def test_the_wagons_polygons_come_back_by_way_of_two_formats(tmp_path):
    repair(validate(WAGON / "annotations.json", WAGON / "images"), WAGON / "images", tmp_path / "fixed.json")
    convert(tmp_path / "fixed.json", "coco", "labelme", tmp_path / "labelme")
    convert(tmp_path / "labelme", "labelme", "cvat", tmp_path / "cvat")
    again = convert(tmp_path / "cvat" / "annotations.xml", "cvat", "coco", tmp_path / "back")
    assert (again.images, again.polygons, dict(again.lost)) == (299, 1151, {})
    before = json.loads((tmp_path / "fixed.json").read_text())
    after = json.loads((tmp_path / "back/annotations.json").read_text())
    assert [one[:3] for one in things(after)] == [one[:3] for one in things(before)]

"""`data build coco` of RLE masks: compressed or not, with holes, of turned photos, the pixels marked are the same."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as library

from hf_inspect.data import build, load_split, read_manifest, read_objects, things_of
from hf_inspect.data.coco.shapes import outlines
from hf_inspect.data.raw.objects import Frame, object_of
from hf_inspect.schema import SEGMENTATION

W, H = 40, 28


def rle(mask, compressed):
    """A mask bool (h, w) as COCO has it, the counts a text or a list."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, append=not flat[-1])) + 1
    counts = np.diff(ends, prepend=0).tolist()
    given = {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
    packed = library.frPyObjects(given, *mask.shape)
    return given | {"counts": packed["counts"].decode()} if compressed else given


def filled(polygons, height, width):
    """The pixels of polygons, bool (height, width), as COCO's own tools fill them."""
    return library.decode(library.merge(library.frPyObjects(polygons, height, width))).astype(bool)


def ring():
    """A mask with a hole, and a spot apart from it."""
    mask = np.zeros((H, W), bool)
    mask[4:20, 6:30] = True
    mask[8:14, 10:22] = False
    mask[24, 36] = True
    return mask


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.booleans())
def test_outlines_are_filled_by_the_same_pixels_and_have_no_holes(mask, compressed):
    if not mask.any():
        return
    polygons, _ = outlines(rle(mask, compressed), mask.shape[::-1])
    drawn = [shapely.Polygon(np.reshape(one, (-1, 2))) for one in polygons]
    assert sum(one.area for one in drawn) == mask.sum() == shapely.union_all(drawn).area
    assert all(one.is_valid for one in drawn)
    assert (filled(polygons, *mask.shape) == mask).all()


@pytest.mark.parametrize("compressed", [True, False])
def test_large_smooth_masks_are_kept_too(compressed):
    y, x = np.mgrid[:480, :640]
    mask = (np.hypot(y - 200, x - 300) < 150) & (np.hypot(y - 220, x - 260) > 60)
    polygons, holes = outlines(rle(mask, compressed), (640, 480))
    assert holes
    assert (filled(polygons, 480, 640) == mask).all()
    assert sum(map(len, polygons)) < 3000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_turns_with_its_photo(orientation):
    mask = ring()
    upright = np.asarray(Image.fromarray(mask).transpose(TURNS[orientation]) if orientation > 1 else mask)
    frame, size = Frame((W, H), orientation), upright.shape[::-1]
    found = object_of({"segmentation": rle(mask, True)}, "dent", frame, size)
    assert (filled(found.value["polygons"], *upright.shape) == upright).all()
    x0, y0, x1, y1 = map(int, found.value["bbox"])
    assert upright[y0:y1, x0:x1].sum() == upright.sum()


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def test_a_data_set_of_masks_is_one_of_segmentation_and_says_what_became_of_them(tmp_path):
    (tmp_path / "raw").mkdir()
    rng, spot = np.random.default_rng(0), np.zeros((H, W), bool)
    spot[3:9, 5:17] = True
    masks = {i: ring() if i % 4 == 0 else spot for i in range(24)}
    for i in masks:
        Image.fromarray(rng.integers(0, 255, (H, W, 3), np.uint8)).save(tmp_path / "raw" / f"{i}.png")
    listed = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in masks]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": i % 5 == 0, "segmentation": rle(mask, i % 2 == 0)}
        for i, mask in masks.items()
    ]
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "dent"}]}
    (tmp_path / "raw" / "x.json").write_text(json.dumps(content))
    build("coco", tmp_path / "out", src=tmp_path / "raw", options={"good": "", "shares": "50/0/0/50"})
    assert read_objects(tmp_path / "out").kind == SEGMENTATION
    notes = read_manifest(tmp_path / "out")["notes"]
    assert [note.partition(":")[0] for note in notes] == [
        "24 annotations have an RLE mask, which became polygons",
        "6 annotations have an RLE mask with holes, whose polygons are cut through these",
    ]
    seen = 0
    for split in ("train", "test"):
        for row in load_split(tmp_path / "out", split):
            [thing] = things_of(row["objects"], ["dent"])
            mask = masks[row["image_id"]]
            assert (filled([list(one) for one in thing.polygons], H, W) == mask).all()
            assert thing.crowd == (row["image_id"] % 5 == 0)
            seen += 1
    assert seen == 24


BAD = [
    {"size": [H, W], "counts": [3, 4]}, {"size": [W, H], "counts": [0, W * H]}, {"size": [H, W], "counts": "\u00e4"},
    {"size": [H, W], "counts": [W * H]}, {"size": [H, W]}, {"size": "x", "counts": []},
    {"size": [H, W], "counts": [-1]},
    {"size": [H, W], "counts": "0" * 10_000}, "mask", 7,
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_one_that_cannot_be_read_leaves_the_box(bad):
    found = object_of({"segmentation": bad, "bbox": [1, 2, 3, 4]}, "dent", Frame((W, H)), (W, H))
    assert found.value["polygons"] == []
    assert found.notes == ["annotations have an RLE mask that cannot be read or marks nothing, which was left out"]

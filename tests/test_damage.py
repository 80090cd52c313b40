"""Damaged archives, images and COCO files: what is there is taken, or left out by name, or the whole is refused.

HF_INSPECT_TEST_DAMAGED is how many of each are tried; the usual few are the same ones every time.
"""

import copy
import io
import json
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import images
from hf_inspect.data import build, examine
from hf_inspect.data.raw.archives import unpack
from hf_inspect.errors import DataError
from hf_inspect.schema import Sample
from tests import accounted, raw
from tests.archived import KINDS, found_in, harmed, packed

TRIED = os.environ.get("HF_INSPECT_TEST_DAMAGED")


def tried(usually):
    """How often a test is run on other damage."""
    return settings(
        max_examples=int(TRIED or usually), derandomize=not TRIED, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


PLACE = st.integers(0, 10**6) | st.integers(0, 64)  # headers are hit often
HARM = st.tuples(
    st.sampled_from(["cut", "flip", "fill", "drop", "repeat"]), PLACE, st.integers(0, 600), st.integers(0, 255)
)
HARMS = st.lists(HARM, min_size=1, max_size=3)


@pytest.fixture(scope="module")
def scratch():
    """A folder that each example has for itself."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def check_sentence(error):
    """It may hold names with any letters; a terminal is shown them as escapes."""
    assert 20 < len(str(error)) < 2000


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@cache
def shipped():
    """What the archives hold: pictures of two classes, a long name and one beyond ASCII, and a text."""
    rng, files = np.random.default_rng(0), {"scratch/readme.txt": b"text " * 100}
    for i, name in enumerate(["good/1.png", "good/größe.png", "scratch/2.png", f"scratch/{'deep/' * 30}3.png"]):
        buffer = io.BytesIO()
        raw.picture(rng, 8 + i, 8).save(buffer, "png")
        files[name] = buffer.getvalue()
    return files


@cache
def archive(kind):
    return packed(kind, shipped())


@tried(150)
@given(kind=st.sampled_from(KINDS), harms=HARMS)
def test_a_damaged_archive_comes_out_whole_or_not_at_all(scratch, kind, harms):
    folder, content = emptied(scratch), harmed(archive(kind), *harms)
    (folder / f"raw{kind}").write_bytes(content)
    try:
        unpack(folder / f"raw{kind}", folder / "out")
    except DataError as error:
        check_sentence(error)
        return
    found = found_in(folder / "out")
    if kind == ".tar":  # which has no checksum of what its files hold, and none of long names
        assert len(found) == len(shipped())
    else:
        assert found == shipped()


@cache
def pictures():
    """One small picture in every format and in the odd corners of some."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (24, 20), np.uint8)
    colour, deep = (
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)),
        Image.fromarray(grey.astype(np.uint16) * 200),
    )
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    kinds = {
        "png": {}, "16.png": {}, "palette.png": {}, "jpg": {"exif": exif}, "progressive.jpg": {"progressive": True},
        "bmp": {}, "tif": {}, "lzw.tif": {"compression": "tiff_lzw"}, "16.tif": {"compression": "tiff_adobe_deflate"},
        "pages.tif": {"save_all": True, "append_images": [colour]}, "float.tif": {}, "webp": {"lossless": True},
        "lossy.webp": {}, "gif": {}, "pgm": {}, "16.pgm": {}, "ppm": {}, "jp2": {}, "la.png": {}, "rgba.webp": {},
    }  # fmt: skip
    modes = {"palette": colour.quantize(16), "16": deep, "la": colour.convert("LA"), "rgba": colour.convert("RGBA")}
    modes["float"] = Image.fromarray(grey.astype(np.float32) / 255)
    files = {}
    for name, how in kinds.items():
        buffer = io.BytesIO()
        picture = modes.get(name.split(".")[0], colour.convert("L") if name == "pgm" else colour)
        picture.save(buffer, Image.registered_extensions()[f".{name.split('.')[-1]}"], **how)
        files[name] = buffer.getvalue()
    return files


@tried(150)
@given(name=st.sampled_from(sorted(pictures())), harms=HARMS, as_mask=st.booleans())
def test_a_damaged_image_or_mask_is_read_or_left_out_by_name(scratch, name, harms, as_mask):
    folder, content = emptied(scratch), harmed(pictures()[name], *harms)
    (folder / "whole.png").write_bytes(pictures()["png"])
    (folder / name).write_bytes(content)
    path, mask = ("whole.png", folder / name) if as_mask else (name, None)
    good, rejected = examine([Sample(f"good/{path}", folder / path, "good", "good", mask=mask)])
    assert [image.sample.source for image in good] + [one.source for one in rejected] == [f"good/{path}"]
    assert all(len(one.reason.splitlines()) == 1 for one in rejected)
    try:
        images.load(folder / name)
    except DataError as error:
        check_sentence(error)


ODD = [
    None, True, -1, 0, 3, 1.0, 2.5, 10**30, -(2**63) - 1, 1e308, float("nan"), float("inf"), "", "1", "a", "x" * 300,
    "\ud800", "a\0b", "../1.png", "/etc/passwd", ".", "größe", "gro\u0308ße", "good", [], {}, [[]], [None], [1, 2, 3],
    [1e30] * 4, ["a"] * 4, [-5, -5, 1, 1], {"counts": [1], "size": [1, 1]}, [[[[[[]]]]]], {"id": 1}, "images/1.png",
]  # fmt: skip


def stated():
    """A sound COCO file of ten pictures."""
    polygon = [2, 2, 9, 2, 9, 9]
    return {
        "info": {"year": 2026},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 24, "height": 24} for i in range(10)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 4 // 2, "bbox": [2, 2, 7, 7], "segmentation": [polygon],
             "area": 49, "iscrowd": 0}
            for i in range(0, 10, 2)
        ],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "tear"}],
    }  # fmt: skip


def places(value):
    """Every (container, key) below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def mutated(value, changes):
    """A JSON value with entries replaced, dropped, doubled, nested or renamed, each at the `at`-th place, modulo."""
    for what, at, other in changes:
        found = list(places(value))
        if not found:
            break
        inside, key = found[at % len(found)]
        if what == "drop":
            del inside[key]
        elif what == "double" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[key]))
        elif what == "rename" and isinstance(inside, dict):
            inside[str(other)[:9]] = inside.pop(key)
        elif what == "nest":
            inside[key] = [inside[key]]
        else:
            inside[key] = copy.deepcopy(other)
    return value


CHANGE = st.tuples(
    st.sampled_from(["replace", "replace", "drop", "double", "rename", "nest"]),
    st.integers(0, 500),
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=9),
)


@pytest.fixture(scope="module")
def quick_builds():
    """Each of the many would wait for the disk, and draw a contact sheet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_inspect.files.swap._sync", lambda path: None)
        patch.setattr(sys.modules["hf_inspect.data.build"], "write_sheet", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory, quick_builds):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for i in range(10):
        raw.picture(rng).save(folder / f"{i}.png")
    return folder


@tried(30)
@given(changes=st.lists(CHANGE, min_size=1, max_size=4), harms=st.lists(HARM, max_size=1) | st.just([]))
def test_a_damaged_coco_file_is_built_or_refused_and_all_is_accounted_for(scratch, photos, changes, harms):
    folder = emptied(scratch)
    shutil.copytree(photos, folder / "raw")
    text = json.dumps(mutated(stated(), changes)).encode()
    (folder / "raw" / "coco.json").write_bytes(harmed(text, *harms[: len(changes) % 2]))
    try:
        manifest = build("coco", folder / "out", src=folder / "raw")
    except DataError as error:
        check_sentence(error)
        return
    accounted.check(manifest, folder / "raw")
    told = json.dumps([manifest["images"], manifest["rejected"], manifest["notes"], manifest["accounting"]])
    assert all(f"{i}.png" in told for i in range(10))

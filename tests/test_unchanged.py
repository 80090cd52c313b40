"""A folder is built anew where what it was made of changed, however well that is hidden, and left alone elsewhere."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_inspect import files
from hf_inspect.data import build
from hf_inspect.data.unchanged import NOTE
from hf_inspect.hub.kinds import all_files
from tests import raw
from tests.archived import found_in, packed


@pytest.fixture
def parts(tmp_path):
    """Class folders of BMP files, all of one size in bytes."""
    return raw.classes(tmp_path / "raw", {"good": 24, "dent": 12}, suffix=".bmp")


def built(tmp_path, name="folder", src=None, **more):
    """Whether a build wrote the folder anew, and how many images it read."""
    seen, manifest = [], tmp_path / "out" / "manifest.json"
    before = manifest.stat().st_ino if manifest.exists() else None
    src = src or tmp_path / "raw"
    build(name, tmp_path / "out", src=src, progress=lambda *step: seen.append(step[0]), **more)
    return manifest.stat().st_ino != before, seen.count("read and sign")


def noted(out, seconds):
    """Have the folder's note taken so long after its newest file was written: not all filesystems tell times apart."""
    at = files.read_json(out / NOTE)["newest_ns"] + int(seconds * 10**9)
    os.utime(out / NOTE, ns=(at, at))


def another(path, seed=9):
    """Another picture of the same size in bytes, in the same file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        raw.picture(np.random.default_rng(seed)).save(file, path.suffix[1:])
    assert path.stat().st_size == size


def sources_of(tmp_path):
    return {row["source"]: row["sha256"] for row in files.read_json(tmp_path / "out" / "manifest.json")["images"]}


@pytest.mark.parametrize("age", [0.5, 60])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_picture_of_equal_size_is_noticed(age, hidden, parts, tmp_path):
    built(tmp_path)
    noted(tmp_path / "out", age)
    path = parts / "good/003.bmp"
    times = path.stat()
    another(path)
    if hidden:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert built(tmp_path) == (True, 36)
    assert sources_of(tmp_path)["good/003.bmp"] == files.sha256(path)


def test_a_file_that_was_young_is_read_again_where_only_its_time_could_tell(parts, tmp_path, monkeypatch):
    """A file system may know no time of change, and write within one tick of its clock."""

    def without_change(path):
        found = os.stat(path)
        return [found.st_size, found.st_mtime_ns]

    monkeypatch.setattr("hf_inspect.data.unchanged._look", without_change)
    path = parts / "good/003.bmp"
    built(tmp_path)
    noted(tmp_path / "out", 0.5)
    time = path.stat().st_mtime_ns
    another(path)
    os.utime(path, ns=(time, time))
    assert built(tmp_path) == (True, 36)


def test_what_is_as_it_was_is_not_read_again(parts, tmp_path):
    assert built(tmp_path) == (True, 36)
    noted(tmp_path / "out", 0.5)
    assert built(tmp_path) == (False, 36)  # the files were young
    noted(tmp_path / "out", 60)
    assert built(tmp_path) == (False, 0)
    assert built(tmp_path, options={"seed": 1})[0]


def test_equal_contents_at_another_time_or_place_are_left_alone(parts, tmp_path):
    built(tmp_path)
    os.utime(parts / "good/003.bmp", ns=(10**18, 10**18))
    noted(tmp_path / "out", 60)
    assert built(tmp_path) == (False, 36)
    noted(tmp_path / "out", 60)  # the note is now of the new times
    assert built(tmp_path) == (False, 0)
    shutil.copytree(parts, tmp_path / "elsewhere")
    assert built(tmp_path, src=tmp_path / "elsewhere") == (False, 36)


def test_what_was_left_out_and_is_mended_is_taken(parts, tmp_path):
    path = parts / "good/003.bmp"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    built(tmp_path)
    assert "good/003.bmp" not in sources_of(tmp_path)
    path.write_bytes(whole)
    assert built(tmp_path) == (True, 36)
    assert "good/003.bmp" in sources_of(tmp_path)


def test_a_mask_of_equal_size_is_noticed(tmp_path):
    root = raw.ksdd2(tmp_path / "raw", {"train": (20, 10), "test": (10, 6)})
    for mask in (root / "train").glob("*_GT*.png"):  # as BMP files would be: equal sizes whatever they show
        picture = Image.open(mask)
        picture.save(mask, compress_level=0)
    built(tmp_path, "ksdd2_balanced", accept_license=True)
    path = next(p for p in sorted((root / "train").glob("*_GT.png")) if Image.open(p).getextrema()[1])
    size = path.stat().st_size
    pixels = np.array(Image.open(path))
    Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(path, compress_level=0)
    assert path.stat().st_size == size
    assert built(tmp_path, "ksdd2_balanced", accept_license=True)[0]


def test_a_json_of_equal_size_is_noticed(tmp_path):
    root, rng = tmp_path / "raw", np.random.default_rng(5)
    root.mkdir()
    for i in range(30):
        raw.picture(rng).save(root / f"{i}.png")
    stated = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(30)],
        "categories": [{"id": 1, "name": "dent"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(0, 30, 2)],
    }
    stated["annotations"].append({"id": 98, "image_id": 999, "category_id": 1, "bbox": [1, 1, 5, 5]})  # of no image
    path = root / "boxes.json"
    files.write_json(path, stated)
    built(tmp_path, "coco")
    times = path.stat()
    for old, new in (("dent", "tear"), (": 98", ": 97")):
        noted(tmp_path / "out", 60)
        assert built(tmp_path, "coco") == (False, 0)
        path.write_text(path.read_text().replace(old, new))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert built(tmp_path, "coco")[0]
    assert raw.read_back(tmp_path / "out")["train"].features["objects"]["category"].feature.names == ["tear"]


def test_an_archive_is_told_by_what_it_holds(parts, tmp_path):
    archive = tmp_path / "raw.zip"
    archive.write_bytes(packed("stored.zip", found_in(parts)))
    assert built(tmp_path, src=archive)[0]
    assert built(tmp_path, src=archive) == (False, 36)
    another(parts / "good/003.bmp")
    archive.write_bytes(packed("stored.zip", found_in(parts)))
    assert built(tmp_path, src=archive) == (True, 36)


def test_the_note_stays_here(parts, tmp_path):
    """It is of this machine: neither is it pushed, nor does the manifest depend on it."""
    built(tmp_path)
    assert (tmp_path / "out" / NOTE).is_file()
    assert {"manifest.json", "README.md"} <= set(all_files(tmp_path / "out"))
    assert NOTE not in all_files(tmp_path / "out")

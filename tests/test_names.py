"""Names of files: no Unicode, long, alike once they are flat, on several lines; and what a group rule sees of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_inspect import files
from hf_inspect.data import build, load_split, script_named
from hf_inspect.data.layout import write_folders
from hf_inspect.data.partition import Row
from hf_inspect.errors import DataError, sentence_of
from hf_inspect.schema import BINARY, Sample
from tests import raw

NO_UTF_8 = os.fsdecode(b"gr\xfc\xdf.png")


def command(*arguments):
    """What the command line makes of these: exit code, output, errors."""
    done = subprocess.run([sys.executable, "-m", "hf_inspect.cli", *map(os.fspath, arguments)], capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_name_that_is_no_utf_8_is_left_out_by_name(tmp_path):
    root = raw.classes(tmp_path / "raw", {"good": 24, "dent": 12})
    (root / "good/000.png").rename(root / "good" / NO_UTF_8)
    (root / "dent/001.png").rename(root / "dent" / "a\n\x1b[2Jb.png")
    folder = root / os.fsdecode(b"kr\xe4tzer")
    folder.mkdir()
    (root / "dent/000.png").rename(folder / "1.png")
    code, output, errors = command(
        "data", "build", "folder", "--src", root, "--out", tmp_path / "out", "--layout", "folders"
    )
    assert (code, errors) == (0, "")
    assert r"good/gr\udcfc\udcdf.png" in output
    assert command("data", "audit", tmp_path / "a\x1b[2Jb")[2].startswith(rf"hf-inspect: {tmp_path}/a\x1b[2Jb/manifest")
    manifest = files.read_json(tmp_path / "out/manifest.json")
    assert {one["source"]: one["reason"] for one in manifest["rejected"]} == dict.fromkeys(
        [f"good/{NO_UTF_8}", f"{folder.name}/1.png"], "its name, or its mask's, is no UTF-8; rename it."
    )
    assert len(manifest["images"]) == 34
    assert sum(len(load_split(tmp_path / "out", split)) for split in manifest["counts"]["default"]) == 34
    assert build("folder", tmp_path / "out", src=root, folders=True) == manifest


def test_paths_that_are_no_utf_8_are_read_and_written(tmp_path):
    root = raw.classes(tmp_path / os.fsdecode(b"r\xe4w"), {"good": 24, "dent": 12})
    manifest = build("folder", tmp_path / os.fsdecode(b"\xe4us"), src=root)
    assert len(manifest["images"]) == 36


@pytest.mark.parametrize("file_name", ["\ud800.png", "a\0b.png", "x" * 300 + ".png", "/".join(["d" * 99] * 60)])
def test_a_coco_file_may_name_what_no_file_is_called(file_name, tmp_path):
    root, rng = tmp_path / "raw", np.random.default_rng(0)
    root.mkdir()
    for i in range(30):
        raw.picture(rng).save(root / f"{i}.png")
    stated = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(30)] + [{"id": 30, "file_name": file_name}],
        "categories": [{"id": 1, "name": "dent"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(0, 32, 2)],
    }
    (root / "boxes.json").write_text(json.dumps(stated))
    manifest = build("coco", tmp_path / "out", src=root)
    assert len(manifest["images"]) == 30


def test_an_output_whose_name_is_too_long_is_a_sentence(tmp_path):
    root = raw.classes(tmp_path / "raw", {"good": 24, "dent": 12})
    for length in (230, 300):
        with pytest.raises(OSError, match="too long") as error:
            build("folder", tmp_path / ("x" * length), src=root)
        assert "a name in this path is too long for the disk" in sentence_of(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def written(tmp_path, sources):
    """What `write_folders` makes of images of these names below the raw folder: for each, the file it is copied to."""
    rows = []
    for i, source in enumerate(sources):
        path = tmp_path / "raw" / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(i).encode())
        rows.append(Row(Sample(source, path, "defect" if i % 3 else "good", ""), None, i, "test"))
    write_folders(tmp_path / "out", "parts", rows, BINARY)
    listed = [
        tmp_path / "out" / line
        for label in ("good", "defect")
        for line in (tmp_path / f"out/splits/parts_{label}.txt").read_text().split("\n")[:-1]
    ]
    assert len({path.name.casefold() for path in listed}) == len(sources)  # on any disk
    return {int(path.read_bytes()): path for path in listed}


def test_no_two_images_get_one_name_in_the_folders_layout(tmp_path):
    alike = [
        "scratch/deep_7.png", "scratch_deep/7.png", "scratch/deep/7.png", "scratch_deep_7.png", "Scratch/Deep_7.png",
        "1_a.png", "a.png", "1/a.png", "01/a.png",
    ]  # fmt: skip
    found = written(tmp_path, alike)
    assert {path.parent.name for path in found.values()} == {"good", "defect"}
    assert found[1].name == "2_scratch_deep_7.png"


def test_names_of_the_folders_layout_are_short_and_on_one_line(tmp_path):
    deep = "/".join(["d" * 99] * 9)
    odd = [f"{deep}/1.png", f"{deep}/2.png", "ü" * 120 + "/3.jpeg", "a\nb\r/\x1b4.png", "größe/5.tif"]
    found = written(tmp_path, odd)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(len(os.fsencode(path.name)) <= 220 and path.suffix for path in found.values())
    assert found[0].name.startswith("1_ddd")
    assert found[0].name.endswith("_1.png")
    assert found[3].name == "4_a_b___4.png"
    assert found[4].name == "5_größe_5.tif"


def keys(rule, *sources):
    script = script_named("folder")
    samples = [Sample(source, Path("/somewhere") / source, "good", "good") for source in sources]
    return script.keys(samples, script.checked({"group_rule": rule}))


def test_a_group_rule_that_holds_a_slash_sees_the_path_below_the_raw_folder():
    views = ("good/part_7/view_1.png", "good/part_7/view_2.png", "good/part_8/view_1.png")
    assert keys(r"(part_\d+)/", *views) == ["part_7", "part_7", "part_8"]
    assert keys(r"([^/]+)/view_\d", *views) == ["part_7", "part_7", "part_8"]
    assert keys(r"^good/(.+)/", *views) == ["part_7", "part_7", "part_8"]
    assert keys(r"^(view_\d)\.", *views) == ["view_1", "view_2", "view_1"]  # without one, the file's name, as ever
    with pytest.raises(DataError, match="matches none of 3"):
        keys("(somewhere)/", *views)
    with pytest.raises(DataError, match="matches none of 3"):
        keys(r"(part_\d+)", *views)


def test_views_in_a_part_s_folder_are_one_group(tmp_path):
    rng = np.random.default_rng(0)
    for part in range(48):
        folder = tmp_path / "raw" / ("good" if part % 2 else "dent") / f"part_{part}"
        folder.mkdir(parents=True)
        for view in range(2):
            raw.picture(rng).save(folder / f"view_{view}.png")
    manifest = build("folder", tmp_path / "out", src=tmp_path / "raw", options={"group_rule": "(part_.+)/"})
    of_part = {}
    for row in manifest["images"]:
        of_part.setdefault(row["source"].split("/")[1], set()).add((row["group"], row["split"]))
    assert len(of_part) == 48
    assert all(len(places) == 1 for places in of_part.values())
    assert manifest["groups"]["n"] == 48

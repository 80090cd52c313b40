"""`predict --maps`: a picture of where for every image, none lost, none taken for another's, none made twice."""

import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import Inspector, files
from hf_inspect.cli import app
from hf_inspect.errors import DataError
from hf_inspect.maps import Maps
from hf_inspect.predict import run
from tests.conftest import png
from tests.mapped import HEAT, mapping_cascade, spotted
from tests.scripted import brightness_cascade


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return mapping_cascade(tmp_path_factory.mktemp("mapped") / "cascade")


@pytest.fixture
def parts(tmp_path):
    """Images of one name in two folders, one of them with a spot, and one that is broken."""
    folder = tmp_path / "parts"
    for place, bright in (("left", True), ("right", False)):
        (folder / place).mkdir(parents=True)
        (folder / place / "part 1.png").write_bytes(png(spotted(bright)))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def read(out):
    """The last row of each path."""
    return {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}


def test_each_image_has_a_picture_of_its_own_that_its_row_names(cascade, parts, tmp_path):
    out, maps = tmp_path / "out.jsonl", tmp_path / "maps"
    given = ["predict", str(cascade), str(parts), "--out", str(out), "--maps", str(maps)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert f"pictures of where lie in {maps}" in done.output
    rows = read(out)
    assert {Path(name).parent.name: row["label"] for name, row in rows.items()} == {
        "left": "defect", "right": "undecided", "parts": "unreadable",
    }  # fmt: skip
    pictures = {Path(name).parent.name: row.get("map") for name, row in rows.items()}
    assert pictures.pop("parts") is None
    assert sorted(map(str, maps.iterdir())) == sorted(pictures.values())
    assert all(Path(name).name.startswith("part_1-") for name in pictures.values())
    shown = {name: np.asarray(Image.open(path)).astype(int) for name, path in pictures.items()}
    assert (shown["right"] == spotted(False)).all(), "nothing stands out, so nothing is drawn"
    changed = (shown["left"] != spotted()).any(2)
    assert changed[8:16, 10:22].all()
    assert not changed[28:, 36:].any()
    red, green, blue = shown["left"][12, 16]
    assert red > 200
    assert max(green, blue) < 100


def test_what_is_there_is_not_made_again_and_what_is_missing_is(cascade, parts, tmp_path):
    out, maps = tmp_path / "out.jsonl", tmp_path / "maps"
    run(cascade, [parts], out)
    assert not any("map" in row for row in read(out).values())
    run(cascade, [parts], out, maps=maps)  # rows of a run without pictures are not enough
    made = {path: path.stat().st_mtime_ns for path in maps.iterdir()}
    assert len(made) == 2
    before = out.read_bytes()
    run(cascade, [parts], out, maps=maps)
    assert {path: path.stat().st_mtime_ns for path in maps.iterdir()} == made
    lost, kept = sorted(made)
    whole = lost.read_bytes()
    lost.unlink()
    run(cascade, [parts], out, maps=maps)
    assert (lost.read_bytes(), kept.stat().st_mtime_ns) == (whole, made[kept])
    assert out.read_bytes() == before
    run(cascade, [parts], out, maps=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2
    named = [row["map"] for row in read(out).values() if "map" in row]
    assert all(Path(name).parent == tmp_path / "elsewhere" for name in named)


def test_a_run_that_is_killed_between_picture_and_row_goes_on(cascade, parts, tmp_path, monkeypatch):
    out, maps, write = tmp_path / "out.jsonl", tmp_path / "maps", files.write_bytes

    def dying(path, content):
        write(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hf_inspect.maps.files.write_bytes", dying)
        with pytest.raises(KeyboardInterrupt):
            run(cascade, [parts], out, maps=maps)
    run(cascade, [parts], out, maps=maps)
    named = {row["map"] for row in read(out).values() if "map" in row}
    assert named == set(map(str, maps.iterdir()))
    assert len(named) == 2


def test_another_image_under_the_same_name_has_another_picture(cascade, parts, tmp_path):
    out, maps, part = tmp_path / "out.jsonl", tmp_path / "maps", parts / "left" / "part 1.png"
    run(cascade, [part], out, maps=maps)
    part.write_bytes(png(spotted(bright=False)))
    run(cascade, [part], out, maps=maps)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({row["map"] for row in rows}) == 2
    assert set(map(str, maps.iterdir())) == {row["map"] for row in rows}


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: b"/" not in b and b"\0" not in b), unique=True))
def test_no_two_paths_share_a_picture_and_all_names_can_be_written(names):
    maps = Maps(Path("maps"), None)
    paths = [os.fsdecode(folder + name) for name in names for folder in (b"a/", b"b/")]
    places = [maps.place(path, "0" * 64) for path in paths]
    assert len(set(places)) == len(paths)
    assert all(place.parent == Path("maps") and place.name.isascii() and len(place.name) < 100 for place in places)


def test_a_model_without_maps_and_a_folder_that_will_not_do_are_said(cascade, parts, tmp_path):
    plain = brightness_cascade(tmp_path / "plain")
    with pytest.raises(DataError, match="says whether, and not where"):
        run(plain, [parts], maps=tmp_path / "maps")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file; give --maps a folder"):
        run(cascade, [parts], maps=tmp_path / "file")
    with pytest.raises(DataError, match="whose images are inspected"):
        run(cascade, [parts], maps=parts / "maps")
    assert not (parts / "maps").exists()
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    maps = Maps.of(blocked, Inspector.from_pretrained(cascade))
    verdict = maps.inspector(png(spotted()))
    (blocked / maps.place("x", "0").name).mkdir()
    with pytest.raises(DataError, match=r"cannot be written .* give another --maps"):
        maps.write("x", "0", png(spotted()), verdict)


def test_how_maps_are_drawn_is_the_cascade_s(cascade, tmp_path):
    inspector = Inspector.from_pretrained(cascade)
    assert inspector.heat == HEAT
    verdict = inspector(png(spotted()))
    assert inspector.shown(BytesIO(png(spotted())), verdict).shape == (48, 64, 3)
    assert inspector.shown(spotted(), verdict, side=32).shape == (24, 32, 3)
    assert inspector.shown(spotted(), inspector(b"no image")) is None
    other = mapping_cascade(tmp_path / "other")
    stated = files.read_json(other / "cascade.json")
    files.write_json(other / "cascade.json", stated | {"maps": {"low": "much"}})
    with pytest.raises(DataError, match="its maps are drawn from"):
        Inspector.from_pretrained(other)
    files.write_json(other / "cascade.json", {key: stated[key] for key in stated if key != "maps"})
    with pytest.raises(DataError, match="does not say how its maps are drawn"):
        Maps.of(tmp_path / "maps", Inspector.from_pretrained(other))

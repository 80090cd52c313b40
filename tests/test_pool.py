"""A pool of exemplars: what it covers, that it is the same every time, and what of a damaged one is refused."""

import json
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import cli, data, files
from hf_inspect.data import covering
from hf_inspect.data.covering import PLACES, Looked, most_telling
from hf_inspect.data.pool import HEAD, POOL
from hf_inspect.errors import DataError, LeakageError, MissingExtraError
from hf_inspect.metrics.findings import Thing
from tests import finders

SIDE = 120
NAMES = ("bolt", "nut", "rust")


def looked(number, things, group=None, thumb=None):
    made = np.random.default_rng(number).integers(0, 255, 256).astype(np.uint8).tobytes()
    return Looked(number, number if group is None else group, tuple(things), (100, 100), thumb or made)


def thing(name, x=10.0, y=10.0, side=10.0):
    return Thing(name, (x, y, x + side, y + side))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sixty images of common things, and some of a rare class, of many things, of a large one, of none, of a crowd."""
    folder, rng, annotations = tmp_path_factory.mktemp("pool"), np.random.default_rng(0), []
    raw = folder / "raw"
    raw.mkdir()
    for number in range(1, 61):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(raw / f"{number:03}.png")
        boxes = [(1 + int(rng.integers(2)), [int(rng.integers(60)), int(rng.integers(60)), 9, 9]) for _ in range(2)]
        if number % 10 == 7:
            boxes = [(3, [90, 90, 20, 20])]
        if number % 10 == 8:
            boxes = [(1, [8 * i, 8, 7, 7]) for i in range(14)]
        if number % 10 == 9:
            boxes = [(2, [5, 5, 100, 100])]
        if number % 10 == 0:
            boxes = []
        annotations += [
            {"id": len(annotations) + i, "image_id": number, "category_id": kind, "bbox": box, "area": 9,
             "iscrowd": int(number % 20 == 11)}
            for i, (kind, box) in enumerate(boxes, 1)
        ]  # fmt: skip
    listed = [{"id": i, "file_name": f"{i:03}.png", "width": SIDE, "height": SIDE} for i in range(1, 61)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (raw / "annotations.json").write_text(json.dumps(content))
    data.build("coco", folder / "data", src=raw, options={"license": "cc0-1.0", "shares": "70/10/10/10"})
    return folder / "data"


@pytest.fixture(scope="module")
def pool(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("chosen") / "pool"
    return out, data.write_pool(built, out, size=10)


def aspects(built, kept):
    """Which aspects the images of train have, counted here from the rows."""
    found = Counter()
    for row in data.load_split(built, "train"):
        things = row["objects"]["bbox"]
        if not kept(row) or any(row["objects"]["iscrowd"]):
            continue
        n = len(things)
        found["nothing" if n == 0 else "sparse" if n <= 3 else "medium" if n <= 10 else "dense"] += 1
        found.update({NAMES[one] for one in row["objects"]["category"]})
        for x0, y0, x1, y1 in things:
            share = (x1 - x0) * (y1 - y0) / SIDE**2
            found["small" if share < 0.01 else "medium size" if share < 0.1 else "large"] += 1
            found[int((y0 + y1) / 2 / (SIDE / 3)), int((x0 + x1) / 2 / (SIDE / 3))] += 1
    return found


def test_every_class_density_place_and_size_of_the_split_is_in_the_pool(built, pool):
    out, chosen = pool
    read = data.read_pool(out)
    sources = {one.source for one in read.exemplars}
    there, covered = aspects(built, lambda row: True), aspects(built, lambda row: row["image"]["path"] in sources)
    assert len(read.exemplars) == len(sources) == 10
    assert {"rust", "dense", "large", "nothing"} <= set(there)
    assert set(covered) == set(there)
    assert chosen.lacking == []
    assert "Nothing is lacking." in chosen.table()
    crowds = {row["image"]["path"] for row in data.load_split(built, "train") if any(row["objects"]["iscrowd"])}
    assert crowds
    assert not crowds & sources
    assert chosen.left_out == {"a crowd in them is marked as one, and not thing by thing": len(crowds)}


def test_a_pool_too_small_says_what_it_lacks_and_takes_the_most_telling_first(built, pool, tmp_path):
    small = data.write_pool(built, tmp_path / "p", size=2)
    assert [one.sha256 for one in data.read_pool(tmp_path / "p").exemplars] == [
        one.sha256 for one in data.read_pool(pool[0]).exemplars[:2]
    ]
    said = small.table()
    assert small.lacking
    assert f"LACKING: {small.lacking[0][0]} {small.lacking[0][1]}" in said
    assert [aspect for aspect in small.there if not small.covered[aspect]] == small.lacking


def test_it_is_the_same_every_time_and_reads_back_as_it_was(built, pool, tmp_path):
    data.write_pool(built, tmp_path / "p", size=10)
    for name in (POOL, HEAD, data.TRAINED_ON):
        assert (tmp_path / "p" / name).read_bytes() == (pool[0] / name).read_bytes()
    by_folder, by_file = data.read_pool(pool[0]), data.read_pool(pool[0] / POOL)
    assert by_folder == by_file
    assert by_folder.task == data.read_objects(built)
    assert by_folder.fingerprint == data.read_head(built)["fingerprint"]
    rows = {row["image"]["path"]: row for row in data.load_split(built, "train")}
    for one in by_folder.exemplars:
        row = rows[one.source]
        assert one.group == row["group"]
        assert one.size == (row["height"], row["width"])
        assert [(t.name, list(t.box)) for t in one.things] == [
            (NAMES[kind], box) for kind, box in zip(row["objects"]["category"], row["objects"]["bbox"], strict=True)
        ]
        assert one.file.read_bytes() == row["image"]["bytes"]
        assert one.rgb.shape == (SIDE, SIDE, 3)


def test_nothing_is_evaluated_on_an_exemplar(built, pool):
    history = data.read_pool(pool[0]).history
    with pytest.raises(LeakageError, match=r"10 of \d+ images are, or nearly repeat, images that the guided model"):
        data.refuse_seen(history, built, "train", "the guided model")
    data.refuse_seen(history, built, "test", "the guided model")


def test_one_exemplar_of_a_group_and_the_one_that_shows_most(tmp_path):
    one_group = [looked(i, [thing("a")], group=1) for i in range(5)] + [looked(5, [thing("a"), thing("b")], group=1)]
    others = [looked(10 + i, [thing("a", x=20.0 * i)]) for i in range(3)]
    chosen = most_telling([*one_group, *others], 4, 0)
    assert sorted(one.group for one in chosen) == [1, 10, 11, 12]
    assert [one.number for one in chosen if one.group == 1] == [5]
    with pytest.raises(DataError, match=r"A pool of 5 was asked for, and there are images of 4 groups.*--size 4"):
        most_telling([*one_group, *others], 5, 0)


def test_where_all_is_covered_an_image_like_many_is_next():
    alike = bytes(range(256))
    many = [looked(i, [thing("a")], thumb=alike) for i in range(1, 9)]
    odd = looked(0, [thing("a")], thumb=alike[::-1])
    assert most_telling([odd, *many], 1, 3)[0] in many
    assert odd in most_telling([odd, *many], 2, 3)  # the others are covered


def test_what_is_covered_outweighs_all_likeness():
    dark, light = bytes(range(256)), bytes(range(255, -1, -1))
    two_looks = [looked(i, [thing("a")], thumb=(dark, light)[i % 2]) for i in range(40)]
    rare = looked(40, [thing("b")], thumb=dark)
    for seed in range(3):
        assert rare in most_telling([*two_looks, rare], 2, seed)
        assert len({one.thumb for one in most_telling([*two_looks, rare], 3, seed)}) == 2  # then come looks


def test_of_more_images_than_are_compared_the_rare_ones_stay(monkeypatch):
    monkeypatch.setattr(covering, "MOST", 10)
    thumb = bytes(range(256))
    common = [looked(i, [thing("a")], thumb=thumb) for i in range(400)]
    rare = looked(400, [thing("b", x=80.0, y=80.0, side=15.0)], thumb=thumb)
    for seed in range(3):
        assert rare in most_telling([*common, rare], 2, seed)


@given(
    st.floats(0, 99), st.floats(0, 99), st.floats(0.5, 1), st.floats(0.5, 1),
)  # fmt: skip
def test_a_box_has_one_place_and_one_size(x, y, wide, high):
    box = (x, y, x + wide, y + high)
    found = looked(0, [Thing("a", box)]).aspects
    assert sorted(kind for kind, _ in found) == ["class", "density", "place", "size"]
    [place] = [name for kind, name in found if kind == "place"]
    assert place in PLACES
    assert place.startswith(("upper", "middle", "lower")[min(int((y + high / 2) / (100 / 3)), 2)])


def test_the_command_writes_the_pool_and_its_sheet(built, tmp_path, monkeypatch, capsys):
    out, sheet = tmp_path / "pool", tmp_path / "sheet.png"
    arguments = ["data", "pool", built, "--out", out, "--size", 6, "--seed", 1, "--split", "train", "--sheet", sheet]
    monkeypatch.setattr(sys, "argv", ["hf-inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert f"{out}: 6 of" in printed
    assert "class rust" in printed
    assert files.foreign(out) == []
    assert len(data.read_pool(out).exemplars) == 6
    with Image.open(sheet) as picture:
        assert picture.width > 5 * 256


def lines_of(folder):
    return [json.loads(line) for line in (folder / POOL).read_text().splitlines()]


def swapped(values, at, **changes):
    return [one | changes if i == at else one for i, one in enumerate(values)]


DAMAGES = {
    "torn": (lambda v: [json.dumps(v[0]), '{"image": "ima'], r"pool\.jsonl, line 2 is not JSON"),
    "a list": (lambda v: ["[1, 2]"], "line 1 is no exemplar, which has image, sha256"),
    "a key more": (lambda v: swapped(v, 0, more=1), "line 1 is no exemplar"),
    "no group": (lambda v: swapped(v, 1, group="1"), "line 2: source .* and group '1'"),
    "elsewhere": (lambda v: swapped(v, 0, image="../secret.png"), "does not lie in images/"),
    "below": (lambda v: swapped(v, 0, image="images/../images/a.png"), "does not lie in images/"),
    "missing": (lambda v: swapped(v, 0, image="images/none.png"), "none.png does not exist"),
    "other sha": (lambda v: swapped(v, 0, sha256="0" * 64), "is not the image that was chosen"),
    "other size": (lambda v: swapped(v, 0, width=7), "has 7 x 120 pixels, and it has 120 x 120"),
    "other class": (
        lambda v: swapped(v, 0, objects=[{"label": "gum", "box": [0, 0, 5, 5]}]),
        "object 1 is a 'gum'; there are bolt, nut, rust",
    ),
    "outside": (lambda v: swapped(v, 0, objects=[{"label": "nut", "box": [0, 0, 121, 5]}]), "inside 120 x 120 pixels"),
    "no area": (lambda v: swapped(v, 0, objects=[{"label": "nut", "box": [5, 5, 5, 9]}]), "with area inside"),
    "three numbers": (lambda v: swapped(v, 0, objects=[{"label": "nut", "box": [5, 5, 9]}]), "object 1 has the box"),
    "no numbers": (lambda v: swapped(v, 0, objects=[{"label": "nut", "box": "abcd"}]), "object 1 has the box"),
    "said a list": (
        lambda v: swapped(v, 0, objects=[{"label": "nut", "box": [5, 5, 9, 9], "description": []}]), "and a text",
    ),
    "no box": (lambda v: swapped(v, 0, objects=[{"label": "nut"}]), "label, box and maybe description"),
    "twice": (lambda v: [v[0], v[0]], "several exemplars of one image"),
    "one group": (lambda v: swapped(v[:2], 1, group=v[0]["group"]), "several exemplars of one group"),
    "empty": (lambda v: [], "holds no exemplar"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_refused_in_a_sentence(pool, tmp_path, damage):
    change, said = DAMAGES[damage]
    folder = shutil.copytree(pool[0], tmp_path / "p")
    values = change(lines_of(folder))
    (folder / POOL).write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    with pytest.raises(DataError, match=said):
        data.read_pool(folder)


def test_lines_may_be_left_out_and_descriptions_added(pool, tmp_path):
    folder = shutil.copytree(pool[0], tmp_path / "p")
    values = lines_of(folder)[1:4]
    values[0]["objects"] = [{"label": "nut", "box": [5, 5, 9, 9], "description": "loose by a turn"}]
    (folder / POOL).write_text("\n\n".join(map(json.dumps, values)))
    read = data.read_pool(folder)
    assert read.exemplars[0].things == (Thing("nut", (5, 5, 9, 9), description="loose by a turn"),)
    assert len(read.exemplars) == 3


def test_images_and_records_that_are_not_the_pool_s_are_refused(pool, tmp_path):
    folder = shutil.copytree(pool[0], tmp_path / "p")
    first = lines_of(folder)[0]
    kept = (folder / first["image"]).read_bytes()
    Image.new("RGB", (SIDE, SIDE)).save(folder / first["image"])
    with pytest.raises(DataError, match="is not the image that was chosen"):
        data.read_pool(folder)
    other = (folder / first["image"]).read_bytes()
    sha256 = files.sha256(folder / first["image"])
    (folder / "images" / f"{sha256}.png").write_bytes(other)
    (folder / first["image"]).write_bytes(kept)
    lines = swapped(lines_of(folder), 0, image=f"images/{sha256}.png", sha256=sha256)
    (folder / POOL).write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(DataError, match=r"trained_on\.json has no record of"):  # a line of somebody else's
        data.read_pool(folder)
    (folder / data.TRAINED_ON).unlink()
    with pytest.raises(DataError, match="which keeps evaluations off its images"):
        data.read_pool(folder)
    files.write_json(folder / HEAD, {"format": 0})
    with pytest.raises(DataError, match="is of no pool of this version"):
        data.read_pool(folder)
    with pytest.raises(DataError, match=r"pool\.jsonl is missing; give what 'hf-inspect data pool' wrote"):
        data.read_pool(tmp_path)


def test_what_cannot_be_chosen_from_is_refused(built, tmp_path, monkeypatch):
    for size in (0, -3):
        with pytest.raises(DataError, match=f"A pool of {size} exemplars was asked for; --size is 1 or more"):
            data.write_pool(built, tmp_path / "p", size=size)
    with pytest.raises(DataError, match=r"A pool of 90 was asked for, and there are images of \d+ groups"):
        data.write_pool(built, tmp_path / "p", size=90)
    with pytest.raises(DataError, match="there is no split 'lunch'"):
        data.write_pool(built, tmp_path / "p", split="lunch")
    with pytest.raises(DataError, match="overlap"):
        data.write_pool(built, built / "pool", size=2)
    monkeypatch.setitem(sys.modules, "submodlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[pool\]'"):
        data.write_pool(built, tmp_path / "p", size=2)
    assert not (tmp_path / "p").exists()


def test_data_without_boxes_are_refused(tmp_path):
    plain = finders.built(tmp_path, 24, good=0.95)
    splits = [
        split for split in data.SPLITS if not any(row["objects"]["bbox"] for row in data.load_split(plain, split))
    ]
    assert splits
    with pytest.raises(DataError, match=f"no image of default/{splits[0]} that an exemplar may be has a box"):
        data.write_pool(plain, tmp_path / "p", size=1, split=splits[0])
    for name in ("good", "bad"):
        for number in range(8):
            rng = np.random.default_rng(number + 100 * (name == "bad"))
            path = tmp_path / "parts" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    data.build("folder", tmp_path / "folder", src=tmp_path / "parts")
    with pytest.raises(DataError, match="it has no boxes"):
        data.write_pool(tmp_path / "folder", tmp_path / "p", size=2)

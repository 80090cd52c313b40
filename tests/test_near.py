"""Parts before a fixed camera: told from copies by their grain or by a group rule, and next week's shots measured."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import files
from hf_inspect.cli import app
from hf_inspect.data import Rules, audit, build, read_history, record_history, refuse_seen, sign, write_history
from hf_inspect.data.examine import Examined
from hf_inspect.data.joining import FOUND, join
from hf_inspect.data.near import MAX_GRAIN_DISTANCE, grouped
from hf_inspect.data.rules import evidence
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.schema import Sample, TaskSpec
from tests.conftest import jpeg, picture, png
from tests.fixed import write_product
from tests.raw import classes

GOOD, SCRATCHED, NEXT = 80, 40, 40
STRICT, OFF = Rules(near="strict"), Rules(near="off")
PAIR = r"good/\d+\.png and \S+\.png \((\d+) bits of the hash differ, (\d+) of the grain\)"


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """80 good and 40 scratched parts of one product, and 40 of next week."""
    root = tmp_path_factory.mktemp("product")
    write_product(root / "raw", GOOD, SCRATCHED)
    write_product(root / "next", NEXT // 2, NEXT // 2, first=1000)
    return root


@pytest.fixture(scope="module")
def strict(product):
    build("folder", product / "strict", src=product / "raw", rules=STRICT)
    return product / "strict"


def test_a_product_before_a_fixed_camera_is_refused_with_pairs_and_both_ways_out(product):
    with pytest.raises(DataError) as refused:
        build("folder", product / "normal", src=product / "raw")
    assert not (product / "normal").exists()
    said = str(refused.value)
    assert re.search(r"joins \d+ of 120 images", said)
    assert len(re.findall(PAIR, said)) == 3
    assert all(int(grain) > MAX_GRAIN_DISTANCE for _, grain in re.findall(PAIR, said))
    assert "--near strict" in said
    assert "--group-rule" in said


def test_by_grain_it_is_built_and_the_choice_stands_on_manifest_and_card(strict):
    manifest = build("folder", strict, src=strict.parent / "raw", rules=STRICT)
    assert manifest["builder"]["rules"]["near"] == "strict"
    assert manifest["groups"]["n"] == GOOD + SCRATCHED
    card = (strict / "README.md").read_text()
    assert "`--near strict`" in card
    assert f"at most {MAX_GRAIN_DISTANCE} of 256 bits of grain" in card
    assert "--near strict --out DIR" in card


def test_next_week_s_shots_are_evaluated_and_a_copy_of_a_training_photo_is_refused(product, strict, tmp_path):
    history = record_history(strict, {"train": None})
    assert {len(image) for image in history.signatures} == {4}
    write_history(tmp_path, history)
    assert read_history(tmp_path, "it") == history
    refuse_seen(history, strict, "test", "it")
    shares = {"shares": "0/0/0/100"}
    build("folder", tmp_path / "next", src=product / "next", options=shares, rules=STRICT)
    refuse_seen(history, tmp_path / "next", "test", "it")
    (tmp_path / "raw" / "good").mkdir(parents=True)
    trained = [image[0] for image in history.signatures]
    copied = [p for p in sorted((product / "raw").rglob("*.png")) if sign(p.read_bytes()).sha256 in trained][:3]
    clothes = (lambda a: jpeg(a, 75), lambda a: png(a[:, ::-1]), lambda a: png(a // 2))
    for path, changed in zip(copied, clothes, strict=True):
        with Image.open(path) as image:
            (tmp_path / "raw" / "good" / path.name).write_bytes(changed(np.asarray(image)))
    for path in sorted((product / "next" / "good").iterdir())[:17]:
        (tmp_path / "raw" / "good" / path.name).write_bytes(path.read_bytes())
    build("folder", tmp_path / "copies", src=tmp_path / "raw", options=shares, rules=STRICT)
    with pytest.raises(LeakageError, match=r"^3 of 20 images"):
        refuse_seen(history, tmp_path / "copies", "test", "it")


def test_a_group_rule_replaces_the_guess_and_says_what_it_keeps_apart(product, tmp_path):
    """Every part is a key of its own: none is joined, and the own test split is no leak."""
    rule = {"group_rule": r"(\d+)"}
    manifest = build("folder", tmp_path / "data", src=product / "raw", options=rule)
    assert manifest["groups"]["n"] == GOOD + SCRATCHED
    (note,) = manifest["notes"]
    assert re.match(
        r"[\d,]+ pairs of images that the group rule gives two keys look the same \(\w+/\d+\.png and ", note
    )
    card = (tmp_path / "data" / "README.md").read_text()
    assert note in card
    assert r"group rule `(\d+)`" in card
    assert evidence(manifest["builder"]) == "strict"
    history = record_history(tmp_path / "data", {"train": None})
    assert {len(image) for image in history.signatures} == {4}
    refuse_seen(history, tmp_path / "data", "test", "it")


def test_a_key_joins_and_parts_what_looks_alike_and_equal_bytes_are_one_whatever_it_says():
    one, again, other, free = (sign(content) for content in (
        png(picture(1)), png(picture(1) // 2), png(picture(2)), png(picture(1) // 2 + 60)))  # fmt: skip
    assert grouped([one, again, other]).ids.tolist() == [0, 0, 1]
    found = grouped([one, again, other], ["a", "b", "b"])
    assert found.ids.tolist() == [0, 1, 1]
    assert found.apart.tolist() == [[0, 1]]
    assert grouped([one, one, other], ["a", "b", "c"]).ids.tolist() == [0, 0, 1]
    assert grouped([one, again, free], ["a", "b", None]).ids.tolist() == [0, 0, 0]
    assert grouped([one, again, one], near="off").ids.tolist() == [0, 1, 0]


def test_by_equal_bytes_alone_nothing_else_is_joined_recorded_or_refused(product, tmp_path):
    manifest = build("folder", tmp_path / "data", src=product / "raw", rules=OFF)
    assert manifest["groups"]["n"] == GOOD + SCRATCHED
    history = record_history(tmp_path / "data", {"train": None})
    assert {len(image) for image in history.signatures} == {1}
    write_history(tmp_path, history)
    assert read_history(tmp_path, "it") == history
    refuse_seen(history, tmp_path / "data", "test", "it")
    with pytest.raises(LeakageError):
        refuse_seen(history, tmp_path / "data", "train", "it")


@pytest.mark.parametrize(("mixed", "told"), [(4, False), (5, True), (30, True)])
def test_many_groups_of_good_parts_and_defects_are_told_with_the_way_out(mixed, told):
    """Of groups of two images, so many hold a good part and a scratched one, and three hold good ones."""
    images = []
    for number in range(mixed + 3):
        one = sign(png(picture(number)))
        for name in ("good", "scratched" if number < mixed else "good"):
            sample = Sample(f"{name}/{number}.png", Path(f"{number}.png"), name, name)
            images.append(Examined(sample, replace(one, sha256=f"{len(images):064x}"), 96, 96))
    task = TaskSpec.of(["good", "scratched"], ["good"])
    found = join(images, [None] * len(images), "normal", task)
    assert len(set(found.groups)) == mixed + 3
    start = f"{mixed} of the {mixed + 3} groups of images that look the same hold good parts and defects"
    assert [note.startswith(start) and "--near strict" in note for note in found.notes] == [True] * told
    assert join(images, [None] * len(images), "off", task).notes == []


def test_sets_of_two_rules_are_compared_by_the_stricter(product, strict, tmp_path):
    (tmp_path / "raw" / "good").mkdir(parents=True)
    with Image.open(product / "raw" / "good" / "0041.png") as image:
        copied = np.asarray(image)
    (tmp_path / "raw" / "good" / "copy.png").write_bytes(png(np.ascontiguousarray(np.rot90(copied))))
    (tmp_path / "raw" / "good" / "twin.png").write_bytes((product / "next" / "good" / "1020.png").read_bytes())
    build("folder", tmp_path / "few", src=classes(tmp_path / "raw", {"dent": 40}), options={"shares": "0/0/0/100"})
    found = audit([strict, tmp_path / "few"])
    assert [(pair.source_a, pair.source_b, pair.exact) for pair in found.crossing] == [
        ("good/0041.png", "good/copy.png", False)
    ]
    assert {overlap.rule for overlap in found.overlaps} == {"strict"}
    assert re.search(r"--near\n.* 0 +1  strict  crosses", found.table())


def test_the_command_takes_the_rule_and_refuses_another(tmp_path):
    src = classes(tmp_path / "raw", {"good": 4, "dent": 4})
    asked = ["data", "build", "folder", "--src", str(src), "--out", str(tmp_path / "data"), "--near"]
    assert CliRunner().invoke(app, [*asked, "off"]).exit_code == 0
    refused = CliRunner().invoke(app, [*asked, "loose"]).exception
    assert str(refused) == "--near loose is not known; use one of normal, strict, off."


ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "dataset_scripts" / "duplicates.json"


def printed_table() -> dict[str, list[str]]:
    """The README's table of recall: 12 cells by the name of a row."""
    text = (ROOT / "dataset_scripts/README.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in lines if len(row) == 13 and row[0] != "copies (%)"}


def measured_sets() -> list[list[dict]]:
    """What the benchmark wrote of cells, photos, parts before a fixed camera at four levels of noise, and surfaces."""
    written = {one["set"]: one for one in files.read_json(MEASURED)["sets"]}
    parts = [f"fixed camera, noise {noise}" for noise in (1, 3, 6, 12)]
    assert set(written) == {"ELPV", "photos", *parts, "textures of noise"}
    names = (["ELPV"], ["photos"], parts, ["textures of noise"])
    return [[written[name] for name in some] for some in names]


def test_the_printed_table_is_what_the_benchmark_wrote():
    rules, sets, told = files.read_json(MEASURED)["rules"], measured_sets(), printed_table()
    kinds = list(sets[0][0]["found"])
    rows = {name: [name] if name in kinds else name.split(", ") for name in told if name[0] != "*"}
    assert sorted(kind for row in rows.values() for kind in row) == sorted(kinds)
    for name, cells in told.items():
        pairs = {
            "*pairs of originals joined*": "originals_joined",
            "*copies near another original*": "copies_near_another",
        }
        for kind in rows.get(name, [name]):
            measured = []
            for some in sets:
                for rule in rules:
                    if kind in pairs:
                        measured.append(f"{sum(one[pairs[kind]][rule] for one in some):,}")
                    else:
                        found = sum(one["found"][kind][rule] for one in some)
                        measured.append(f"{round(100 * found / sum(one['copied'] for one in some), 1):g}")
            assert cells == measured, kind


def test_how_many_were_copied_is_what_the_benchmark_wrote():
    (cells,), (photos,), parts, (surfaces,) = measured_sets()
    text = " ".join((ROOT / "dataset_scripts/README.md").read_text().split())
    assert f"Of {cells['images']:,} ELPV cells {cells['copied']} were copied" in text
    assert f"of {photos['images']} photos {photos['copied']}" in text
    assert {(one["images"], one["copied"]) for one in parts} == {(120, 20)}
    assert "of 120 parts before a fixed camera 20 at each of four levels of sensor noise (1, 3, 6 and 12" in text
    assert f"of {surfaces['images']} even surfaces" in text
    assert f"in their noise alone {surfaces['copied']}" in text


def test_the_card_says_what_the_measured_table_says():
    """Of `normal`, cells, photos and parts: the worst of what is found, the best of what moves; of `strict`, JPEG."""
    found = {name: list(map(float, cells)) for name, cells in printed_table().items() if name[0] != "*"}
    normal = {name: [values[at] for at in (1, 4, 7)] for name, values in found.items()}
    moved = normal.pop("4 pixels off")
    assert normal.pop("2.5 % cropped off each side, 3 degrees") == [0, 0, 0]
    assert f"{min(map(min, normal.values()))} % and more are found" in FOUND
    assert f"moved by 4 pixels {min(moved):g} to {max(moved)} %" in FOUND
    assert f"{found['JPEG 75'][2]} % of the cells' copies as JPEG 75" in FOUND


def test_images_none_of_which_look_alike_are_grouped_without_scipy_s_graphs():
    """Whose import is a fixed cost of a small build."""
    code = (
        "import sys; from hf_inspect.data import group, sign; from tests.conftest import picture, png; "
        "assert group([sign(png(picture(1))), sign(png(picture(2)))]).tolist() == [0, 1]; "
        "print('scipy.sparse.csgraph' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[-1:] == ["False"], done.stderr[-2000:]

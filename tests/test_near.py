"""Parts before a fixed camera: told from copies by their grain or by a group rule, and next week's shots measured."""

import re

import numpy as np
import pytest
from PIL import Image

from hf_inspect.data import Rules, build, read_history, record_history, refuse_seen, sign, write_history
from hf_inspect.data.near import MAX_GRAIN_DISTANCE
from hf_inspect.errors import DataError, LeakageError
from tests.conftest import jpeg, png
from tests.fixed import write_product

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

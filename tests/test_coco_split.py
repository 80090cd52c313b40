"""A COCO file split: parts add up to the whole, no group is in two, classes are in proportion, order plays no part."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data.coco import inspect, parse_split, parts_of, repair, split, validate
from hf_inspect.data.raw.document import parsed
from hf_inspect.errors import DataError
from tests import cocos

SHARES = parse_split("train:0.7,val:0.15,test:0.15")
RULE = r"(.+)\.rf\."


def photos(n=100, copies=3, seed=0):
    """A file of n photos in some copies each, Roboflow's way, of three classes of which one is rare."""
    rng = np.random.default_rng(seed)
    entries, annotations = [], []
    for photo in range(n):
        kinds = [kind for kind, share in ((1, 0.6), (2, 0.3), (3, 0.1)) if rng.random() < share]
        for copy in range(int(rng.integers(1, copies + 1))):
            number = len(entries) + 1
            entries.append({"id": number, "file_name": f"{photo:03}_jpg.rf.{copy}.jpg", "width": 40, "height": 30})
            annotations += [
                {"id": len(annotations) + i, "image_id": number, "category_id": kind, "bbox": [1, 1, 5, 5]}
                for i, kind in enumerate(kinds, 1)
            ]
    named = [{"id": i, "name": name} for i, name in enumerate(("parts", "dent", "hole", "rust"))]
    return {"info": {"year": 2026}, "images": entries, "annotations": annotations, "categories": named}


def parts(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def as_text(values):
    return sorted(json.dumps(one, sort_keys=True) for one in values)


def check(whole, found, rule=None):
    """Parts add up exactly, keep all else, and share no photo."""
    for name in ("images", "annotations"):
        assert as_text(one for part in found.values() for one in part[name]) == as_text(whole[name])
    for part in found.values():
        assert {key: one for key, one in part.items() if key not in ("images", "annotations")} == {
            key: one for key, one in whole.items() if key not in ("images", "annotations")
        }
        own = {one["id"] for one in part["images"]}
        assert {one["image_id"] for one in part["annotations"]} <= own
    if rule:
        keys = [{one["file_name"].split(".rf.")[0] for one in part["images"]} for part in found.values()]
        assert sum(map(len, keys)) == len(set.union(*keys))


def test_parts_add_up_and_share_no_photo(tmp_path):
    content = photos()
    made = split(cocos.written(tmp_path, content), SHARES, tmp_path / "out", RULE)
    found = parts(tmp_path / "out")
    assert set(found) == {"train", "val", "test"}
    check(content, found, RULE)
    assert sum(made.groups.values()) == 100
    assert made.classes["train"].keys() == {"dent", "hole", "rust"}
    assert {len(line) for line in made.table().splitlines()} == {len(made.table().splitlines()[0])}


def test_each_class_is_in_proportion_among_the_groups(tmp_path):
    content = photos(n=300)
    found = {}
    split(cocos.written(tmp_path, content), SHARES, tmp_path / "out", RULE)
    for name, part in parts(tmp_path / "out").items():
        of = {one["id"]: one["file_name"].split(".rf.")[0] for one in part["images"]}
        found[name] = Counter(kind for kind, _ in {(a["category_id"], of[a["image_id"]]) for a in part["annotations"]})
    for kind in (1, 2, 3):
        n = sum(one[kind] for one in found.values())
        for name, share in SHARES.items():
            assert abs(found[name][kind] - share * n) <= max(2, 0.05 * n), (kind, name, found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_file_plays_no_part_and_the_seed_does(seed, n, random):
    content = photos(n, seed=seed)
    other = {**content, "images": random.sample(content["images"], len(content["images"]))}
    other["annotations"] = random.sample(content["annotations"], len(content["annotations"]))
    shares = {"train": 0.5, "test": 0.5}
    made, again = (split_by_photo(one, shares, 1) for one in (content, other))
    assert made == again
    check(content, parts_by_photo(content, shares, 1), RULE)


def parts_by_photo(content, shares, seed):
    document = parsed(json.dumps(content).encode(), "x.json")
    names = [one["file_name"].split(".rf.")[0] for one in content["images"]]
    return parts_of(document, [list(dict.fromkeys(names)).index(name) for name in names], shares, seed).parts


def split_by_photo(content, shares, seed):
    return {name: {one["id"] for one in part["images"]} for name, part in parts_by_photo(content, shares, seed).items()}


def test_another_seed_is_another_split():
    content = photos()
    first, again, other = (split_by_photo(content, SHARES, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_rule_with_a_slash_is_looked_for_in_the_path(tmp_path):
    content = photos(n=40)
    for number, entry in enumerate(content["images"]):
        entry["file_name"] = f"part{number // 4:02}\\view{number % 4}.jpg"
    split(cocos.written(tmp_path, content), {"a": 0.5, "b": 0.5}, tmp_path / "out", r"(part\d+)/view")
    found = parts(tmp_path / "out")
    keys = [{one["file_name"][:6] for one in part["images"]} for part in found.values()]
    assert keys[0] & keys[1] == set()
    with pytest.raises(DataError, match="matches none of"):
        split(tmp_path / "x.json", SHARES, tmp_path / "out", r"(.+)\.rf\.")
    assert parts(tmp_path / "out") == found


def test_copies_that_only_the_images_show_are_in_one_part(tmp_path):
    from tests import raw

    content = photos(n=12, copies=1)
    names = [entry["file_name"] for entry in content["images"]]
    raw.pictures(tmp_path / "images", names)
    for a, b in zip(names[::2], names[1::2], strict=True):
        shutil.copy(tmp_path / "images" / a, tmp_path / "images" / b)
    path = cocos.written(tmp_path, content)
    made = split(path, {"a": 0.5, "b": 0.5}, tmp_path / "out", images=tmp_path / "images")
    assert sum(made.groups.values()) == 6
    for part in parts(tmp_path / "out").values():
        numbers = Counter(int(entry["file_name"][:3]) // 2 for entry in part["images"])
        assert set(numbers.values()) == {2}
    (tmp_path / "images" / names[0]).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000_jpg\.rf\.0\.jpg: .* Split without --images, or mend it"):
        split(path, SHARES, tmp_path / "out", images=tmp_path / "images")
    content["images"][0]["file_name"] = "../x.jpg"
    with pytest.raises(DataError, match=r"\.\./x\.jpg is not in .*; give the folder that holds all images"):
        split(cocos.written(tmp_path, content), SHARES, tmp_path / "out", images=tmp_path / "images")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:0.7,val:0.2", "the shares sum to 0.9; they must sum to 1"),
        ("train:0.7,train:0.3", "'train:0.3' is no name with a share above 0"),
        ("train:1,test:0", "'test:0' is no name with a share"),
        ("../x:1", "'../x:1' is no name"),
        ("train", "'train' is no name"),
        ("train:nan", "'train:nan' is no name"),
        ("", "'' is no name"),
        ("a:-1,b:2", "'a:-1' is no name"),
    ],
)
def test_names_and_shares_that_are_none_are_refused(text, sentence):
    with pytest.raises(DataError, match=sentence):
        parse_split(text)


def test_shares_of_thirds_sum_to_1():
    assert parse_split("a:0.3333333,b:0.3333333, c:.3333334") == {"a": 0.3333333, "b": 0.3333333, "c": 0.3333334}


UNSOUND = {
    "image number 2 has no file_name, or no id of its own": lambda one: one["images"][1].update(id=1),
    "image number 1 has no file_name": lambda one: one["images"][0].pop("file_name"),
    "annotation number 1 is of no image that is listed": lambda one: one["annotations"][0].update(image_id=9999),
    "it lists no image": lambda one: one.update(images=[], annotations=[]),
    "it holds NaN or Infinity": lambda one: one["annotations"][0].update(bbox=[float("nan")] * 4),
}


@pytest.mark.parametrize("sentence", UNSOUND)
def test_what_does_not_hold_together_is_sent_to_validate(tmp_path, sentence):
    content = photos(n=20)
    UNSOUND[sentence](content)
    with pytest.raises(DataError, match=sentence) as error:
        split(cocos.written(tmp_path, content), SHARES, tmp_path / "out")
    assert "hf-inspect data validate x.json --images DIR --repair fixed.json" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_too_few_groups_are_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"has 2 groups of images, too few for --split: .* would be empty"):
        split(cocos.written(tmp_path, photos(n=2)), SHARES, tmp_path / "out", RULE)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_and_says_what_it_wrote(tmp_path):
    path = cocos.written(tmp_path, photos())
    words = ["data", "split", str(path), "--split", "train:0.7,val:0.15,test:0.15", "--group-by", RULE, "--seed", "42"]
    words += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()] == ["images", "train", "val", "test", "all"]
    first = {name: content for name, content in parts(tmp_path / "out").items()}
    assert CliRunner().invoke(app, words).exit_code == 0
    assert parts(tmp_path / "out") == first


def test_the_wagon_photos_are_repaired_and_split(tmp_path, real_images):
    wagon = real_images / "wagon"
    assert inspect(wagon / "annotations.json").student == "segmentation"
    found = validate(wagon / "annotations.json", wagon / "images")
    assert Counter(one.rule for one in found.findings) == {"area-off": 1130, "category-unused": 1}
    made = repair(found, wagon / "images", tmp_path / "fixed.json")
    assert len(made.changes) == 1130
    split(tmp_path / "fixed.json", SHARES, tmp_path / "out", RULE)
    check(json.loads((tmp_path / "fixed.json").read_text()), parts(tmp_path / "out"), RULE)

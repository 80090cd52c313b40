"""What a model and its ancestors saw, on a small data set, and the refusal of all of it and of near copies."""

import shutil

import pytest
from PIL import Image

from hf_inspect import files
from hf_inspect.data import build, class_ids, load_split, read_history, read_manifest, record_history, write_history
from hf_inspect.data.leakage import TRAINED_ON, refuse_seen
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.images import load
from hf_inspect.schema import History, Source, TaskSpec
from tests.raw import built_parts, classes

PAST = History((Source("before", "f" * 64, "cc-by-nc-4.0", 1),), (("0" * 64, "1" * 64, "2" * 16),), ("someone",))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """300 parts: 165 to train on, so that they are read in several batches."""
    return built_parts(tmp_path_factory.mktemp("parts"), good=150, dent=150)


def shown(data, split):
    return [row["sha256"] for row in read_manifest(data)["images"] if row["split"] == split]


def test_a_history_holds_every_image_of_the_splits_in_order_then_the_parents_(data):
    found = record_history(data, {"train": None, "validation": None}, [PAST, History(unknown=("other",))])
    own = Source("folder", read_manifest(data)["fingerprint"], "cc0-1.0", 165 + 30)
    assert found.sources == (own, *PAST.sources)
    assert [sha256 for sha256, _, _ in found.signatures] == [
        *shown(data, "train"), *shown(data, "validation"), "0" * 64
    ]  # fmt: skip
    assert found.unknown == ("someone", "other")
    assert found.licences == ("cc0-1.0", "cc-by-nc-4.0")


def test_a_history_holds_the_rows_given_alone(data):
    rows = load_split(data, "train").shuffle(seed=0).select(range(70))
    found = record_history(data, {"train": rows.with_transform(lambda batch: {"x": batch["label"]})})
    assert found.sources[0].images == len(found.signatures) == 70
    assert {sha256 for sha256, _, _ in found.signatures} < set(shown(data, "train"))


def test_a_record_comes_back_and_a_missing_one_is_unknown(data, tmp_path):
    history = record_history(data, {"test": None}, [PAST])
    write_history(tmp_path, history)
    assert read_history(tmp_path, "it") == history
    head, *images = (tmp_path / TRAINED_ON).read_text().split('"images": [')
    assert len(images) == 1
    assert sum(line.startswith('["') for line in images[0].splitlines()) == len(history.signatures)
    assert "cc-by-nc-4.0" in head
    assert read_history(tmp_path / "nowhere", "it") == History(unknown=("it",))
    files.write_json(tmp_path / TRAINED_ON, history.to_dict() | {"images": [["0" * 63, "0" * 64, "0" * 16]]})
    with pytest.raises(DataError, match=r"record of .*trained_on\.json is broken"):
        read_history(tmp_path, "it")


def test_what_was_seen_is_refused_with_counts_and_three_names(data):
    history = record_history(data, {"train": None})
    refuse_seen(history, data, "test", "the edge")
    refuse_seen(History(), data, "train", "the edge")
    refuse_seen(PAST, data, "train", "the edge")
    first = [row["path"] for row in load_split(data, "train")["image"][:3]]
    with pytest.raises(LeakageError) as refused:
        refuse_seen(history, data, "train", "the edge")
    assert str(refused.value) == (
        f"165 of 165 images are, or nearly repeat, images that the edge or an ancestor of it was trained on "
        f"({', '.join(first)}, ...); evaluate on a split it has not seen."
    )


def test_each_of_a_few_is_named_wherever_it_stands(data):
    rows = load_split(data, "train")
    at = [3, 64, 164]  # in three batches
    seen = record_history(data, {"train": rows.select(at)})
    named = ", ".join(rows[i]["image"]["path"] for i in at)
    with pytest.raises(LeakageError, match=rf"^3 of 165 images .* \({named}\); evaluate"):
        refuse_seen(seen, data, "train", "the edge")


def test_near_copies_are_refused_as_the_images_themselves(data, tmp_path):
    history = record_history(data, {"train": None})
    rows = load_split(data, "train")
    (tmp_path / "raw" / "good").mkdir(parents=True)
    for i, row in enumerate(rows.select(range(20))):
        brighter = load(row["image"]["bytes"]).rgb // 2 + 100
        Image.fromarray(brighter).save(tmp_path / "raw" / "good" / f"{i}.bmp")
    build("folder", tmp_path / "data", src=tmp_path / "raw", options={"shares": "0/0/0/100"})
    with pytest.raises(
        LeakageError, match=r"^20 of 20 images .* not seen, or, if these .* built with --near strict\.$"
    ):
        refuse_seen(history, tmp_path / "data", "test", "the edge")


def test_near_copies_are_one_group_when_a_data_set_is_built(tmp_path):
    """20 pictures, and each of them brighter in another format."""
    for path in sorted(classes(tmp_path / "raw", {"good": 20}).rglob("*.png")):
        Image.fromarray(load(path).rgb // 2 + 100).save(path.with_suffix(".bmp"))
    manifest = build("folder", tmp_path / "data", src=tmp_path / "raw", options={"shares": "50/0/0/50"})
    places = {}
    for row in manifest["images"]:
        places.setdefault(row["source"].partition(".")[0], []).append((row["group"], row["split"]))
    assert all(one == other for one, other in places.values())
    assert manifest["groups"] == {"n": 20, "largest": 2, "largest_share": 0.05}
    assert {split: sum(counts.values()) for split, counts in manifest["counts"]["default"].items()} == {
        "train": 20, "test": 20
    }  # fmt: skip


@pytest.mark.parametrize("copies", [2, 3])
def test_a_group_above_five_percent_stops_the_build(tmp_path, copies):
    """Of 40 pictures, two that are alike may be built; of three, a split would get all."""
    classes(tmp_path / "raw", {"good": 41 - copies})
    for i in range(1, copies):
        shutil.copyfile(tmp_path / "raw" / "good" / "000.png", tmp_path / "raw" / "good" / f"again{i}.png")
    if copies == 2:
        assert build("folder", tmp_path / "data", src=tmp_path / "raw")["groups"]["largest"] == 2
    else:
        with pytest.raises(DataError, match="joins 3 of 40"):
            build("folder", tmp_path / "data", src=tmp_path / "raw")
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("turned", [False, True])
def test_class_ids_are_by_name_whatever_the_task_s_order(data, turned):
    rows = load_split(data, "train")
    task = TaskSpec.of(["good", "dent"] if turned else ["dent", "good"], ["good"])
    names = rows.features["class_name"].names
    assert [task.classes[i] for i in class_ids(rows, task)] == [names[i] for i in rows["class_name"]]

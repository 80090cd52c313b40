import io
import json
import shutil
import sys
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import demo, files
from hf_inspect.data import (
    TRAINED_ON,
    absences,
    build,
    class_column,
    class_ids,
    count,
    duplicates,
    group,
    load_split,
    packaged_folder,
    place_of,
    read_history,
    read_manifest,
    read_task,
    record_history,
    refuse_seen,
    sign,
    stratified_group_split,
    stream,
    write_history,
)  # fmt: skip
from hf_inspect.data.build import script_named
from hf_inspect.data.examine import Examined, examine
from hf_inspect.data.hashing import Signature, check_bits, thumbs_of
from hf_inspect.data.load import read_head
from hf_inspect.data.near import MAX_CHECK_DISTANCE, known_records
from hf_inspect.data.partition import Row, absent, check_largest, partition
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.schema import BINARY, History, Sample, Source, TaskSpec
from tests import raw
from tests.conftest import jpeg, picture, png

SHARES = {"train": 0.55, "validation": 0.10, "calibration": 0.15, "test": 0.20}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=120),
    seed=st.integers(0, 1000),
    kinds=st.integers(1, 40),
)
def test_no_group_is_split_and_shares_are_met(sizes, seed, kinds):
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    strata = [str(g % kinds) for g in groups]
    split = stratified_group_split(strata, groups, SHARES, seed)
    assert set(split) == set(groups)
    assert split == stratified_group_split(strata, groups, SHARES, seed)
    for name, share in SHARES.items():
        assert abs(sum(one == name for one in split.values()) - share * len(sizes)) < 1
        for kind in range(kinds):
            own = [split[g] == name for g in split if g % kinds == kind]
            assert abs(sum(own) - share * len(own)) < 2


def test_images_are_shared_out_as_groups_are():
    """Groups of one to ten images: large ones are dealt among themselves, so a split's images are its share too."""
    groups = np.repeat(np.arange(600), np.random.default_rng(0).integers(1, 11, 600)).tolist()
    split = stratified_group_split([str(g % 3) for g in groups], groups, SHARES, 5)
    for name, share in SHARES.items():
        assert np.mean([split[g] == name for g in groups]) == pytest.approx(share, abs=0.01)


def test_every_group_is_as_likely_to_calibrate_on_as_the_share_says():
    """Of rare kinds and common ones, of one image and of many: nothing is rounded away. Over 400 seeds."""
    strata = ["common"] * 100 + [f"kind {i // 2}" for i in range(60)] + ["common"] * 40
    groups = [*range(160), *[160 + i // 8 for i in range(40)]]  # the last five are of eight images
    went = {name: np.zeros(165) for name in SHARES}
    for seed in range(400):
        for g, name in stratified_group_split(strata, groups, SHARES, seed).items():
            went[name][g] += 1
    for name, share in SHARES.items():
        deviation = np.sqrt(share * (1 - share) / 400)
        for kind in (slice(0, 100), slice(100, 160), slice(160, 165)):
            assert went[name][kind].mean() / 400 == pytest.approx(share, abs=0.015), (name, kind)
        assert np.abs(went[name] / 400 - share).max() < 4.5 * deviation


def test_the_one_large_group_goes_to_any_split():
    groups = [0] * 4 + list(range(1, 60))
    went = Counter(stratified_group_split(["one"] * 63, groups, SHARES, seed)[0] for seed in range(400))
    for name, share in SHARES.items():
        assert went[name] / 400 == pytest.approx(share, abs=4.5 * np.sqrt(share * (1 - share) / 400))


def test_the_split_depends_on_the_images_not_on_their_order_or_names(tmp_path):
    examined, _ = examine(samples(tmp_path, [picture(i) for i in range(60)]))
    of_content = {one.signature.sha256: i // 2 for i, one in enumerate(examined)}
    found = []
    for order in (range(60), np.random.default_rng(1).permutation(60)):
        mixed = [
            replace(examined[i], sample=replace(examined[i].sample, source=f"{n}.png")) for n, i in enumerate(order)
        ]
        names = [100 + of_content[one.signature.sha256] * (1 if order is range(60) else -1) for one in mixed]
        rows = partition(mixed, names, SHARES, 3)
        found.append({row.signature.sha256: row.split for row in rows})
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 4


def test_kinds_that_calibration_or_test_lack_are_named():
    def row(stratum, split, class_name="defect", config="default"):
        return Row(Sample(f"{stratum}.png", Path(), class_name, stratum), None, 0, split, config)

    rows = [row("good", split, "good") for split in SHARES] + [row("dent", "train"), row("bent", "test")]
    assert absent(rows) == {"calibration": ["bent", "defect", "dent"], "test": ["dent"]}
    assert absent([one for one in rows if one.split != "calibration"]) == {"test": ["dent"]}
    assert absent([*rows, row("dent", "test", config="other")])["test"] == []
    said = absences(absent(rows))
    assert said[0].startswith("calibration has no image of bent, defect, dent: what is promised")
    many = absences({"test": [f"kind {i:02d}" for i in range(25)]}, str.upper)
    named = ", ".join(f"KIND {i:02d}" for i in range(10))
    assert many == [f"test has no image of {named} and 15 more kinds: no figure measured on it is of them."]


def samples(tmp_path, arrays):
    for i, array in enumerate(arrays):
        (tmp_path / f"{i}.png").write_bytes(png(array))
    return [Sample(f"{i}.png", tmp_path / f"{i}.png", "good", "good") for i in range(len(arrays))]


def test_a_group_above_five_percent_stops_the_build(tmp_path):
    arrays = [picture(9)] * 3 + [picture(100 + i) for i in range(37)]
    examined, _ = examine(samples(tmp_path, arrays))
    with pytest.raises(DataError, match="joins 3 of 40"):
        check_largest(examined, group([image.signature for image in examined]).tolist())
    with pytest.raises(DataError, match="joins 3 of 40"):
        partition(examined, group([image.signature for image in examined]).tolist(), SHARES, 0)


def test_partition_needs_images_and_whole_shares(tmp_path):
    with pytest.raises(DataError, match="0 images"):
        partition([], [], SHARES, 0)
    with pytest.raises(DataError, match="sum to 1"):
        partition(examine(samples(tmp_path, [picture(1)]))[0], [0], {"train": 0.5}, 0)


def test_unknown_data_set_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="elpv"):
        build("nothing", tmp_path / "x")


def test_elpv_reads_back_whole_with_plain_load_dataset(elpv):
    manifest = read_manifest(elpv)
    whole = raw.read_back(elpv)
    assert {split: len(rows) for split, rows in whole.items()} == {
        split: sum(counts.values()) for split, counts in manifest["counts"]["default"].items()
    }
    assert sum(map(len, whole.values())) == len(manifest["images"]) == 2624
    taken = {"annotation files": 1, "images": 2624}
    assert manifest["accounting"] == {"files": {"there": 2625, "taken": taken, "left_out": {}}}
    first = whole["test"][0]
    assert first["image"].size == (300, 300)
    assert set(first) == {"image", "label", "probability", "cell_type", "group"}
    assert whole["test"].features["label"].names == ["good", "defect"]


def test_elpv_bytes_are_the_package_s_own(elpv):
    source = packaged_folder("elpv-dataset", "1.0.0.post1", "elpv_dataset") / "data"
    known = {row["sha256"]: row for row in read_manifest(elpv)["images"]}
    for row in load_split(elpv, "calibration"):
        content = row["image"]["bytes"]
        stated = known[sign(content).sha256]
        assert content == (source / stated["source"]).read_bytes()
        assert stated["split"] == "calibration"
        assert (row["probability"] >= 0.5) == bool(row["label"]) == (stated["class"] == "defect")


def test_elpv_s_published_split_is_that_of_the_shipped_models_and_others_are_dealt_anew(elpv):
    """What was in test when they were trained stays there: seed 0 is read, and was dealt by another rule."""
    shipped, built = files.read_json(demo.assets() / "manifest.json"), read_manifest(elpv)
    assert built["fingerprint"] == shipped["fingerprint"]
    assert {row["source"]: row["split"] for row in built["images"]} == {
        row["source"]: row["split"] for row in shipped["images"]
    }
    assert built["absent"] == {"calibration": [], "test": []}
    samples = [Sample(row["source"], Path(row["source"]), row["class"], row["class"]) for row in built["images"]]
    examined = [
        Examined(sample, Signature(row["sha256"], "", b"", b"", b""), 300, 300)
        for sample, row in zip(samples, built["images"], strict=True)
    ]
    groups, elpv_script = [row["group"] for row in built["images"]], script_named("elpv")
    placed = {seed: elpv_script.place(examined, groups, elpv_script.checked({"seed": seed})).rows for seed in (0, 1)}
    assert [row.split for row in placed[0]] == [row["split"] for row in built["images"]]
    assert [row.split for row in placed[1]] == [row.split for row in partition(examined, groups, SHARES, 1)]
    several = {g for g in groups if groups.count(g) > 1}
    assert {row.split for row in placed[0] if row.group in several} == {"train"}
    assert {row.split for row in placed[1] if row.group in several} == set(SHARES)


def test_elpv_splits_share_no_group_and_keep_the_proportions(elpv):
    manifest = read_manifest(elpv)
    of_group = defaultdict(set)
    for row in manifest["images"]:
        of_group[row["group"]].add(row["split"])
    assert all(len(splits) == 1 for splits in of_group.values())
    for split, share in SHARES.items():
        counts = manifest["counts"]["default"][split]
        assert sum(counts.values()) == pytest.approx(share * 2624, abs=6)
        assert counts["defect"] / sum(counts.values()) == pytest.approx(821 / 2624, abs=0.005)
    assert manifest["groups"]["largest_share"] < 0.05


def test_elpv_card_says_what_it_cannot_know(elpv):
    card = (elpv / "README.md").read_text()
    assert "cells of one module may lie in different splits" in card
    assert read_manifest(elpv)["fingerprint"] in card
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")


def test_a_build_is_a_function_of_its_arguments(elpv, tmp_path):
    again = build("elpv", tmp_path / "again")
    other = build("elpv", tmp_path / "other", options={"seed": 1})
    assert again == read_manifest(elpv)
    assert other["fingerprint"] != again["fingerprint"]
    shards = sorted(p.relative_to(elpv) for p in elpv.rglob("*.parquet"))
    assert len(shards) == 4
    for shard in shards:
        assert files.sha256(elpv / shard) == files.sha256(tmp_path / "again" / shard)


def test_a_second_build_does_nothing(elpv):
    before = {p: p.stat().st_mtime_ns for p in elpv.rglob("*")}
    build("elpv", elpv)
    assert before == {p: p.stat().st_mtime_ns for p in elpv.rglob("*")}


def test_a_split_is_named_with_its_config_where_several_have_it():
    some = {"good": 1, "defect": 1}
    manifest = {"counts": {"sft": {"train": some, "validation": some}, "holdout": {"test": some}}}
    assert place_of(manifest, "test") == ("holdout", "test")
    assert place_of(manifest, "sft/train") == ("sft", "train")
    with pytest.raises(DataError, match=r"no split 'holdout/train'; there is sft/train, sft/validation, holdout/test"):
        place_of(manifest, "holdout/train")
    manifest["counts"]["original"] = {"test": some}
    with pytest.raises(DataError, match="name one: holdout/test, original/test"):
        place_of(manifest, "test")


def test_missing_rows_are_noticed(elpv, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(elpv, broken)
    manifest = read_manifest(broken)
    manifest["counts"]["default"]["test"]["good"] += 1
    files.write_json(broken / "manifest.json", manifest)
    with pytest.raises(DataError, match="build it again"):
        load_split(broken, "test")
    with pytest.raises(DataError, match="there is no split 'holdout'; there is train, validation, calibration, test"):
        load_split(broken, "holdout")


PARTS = {"ok": 30, "dent, deep": 20, "crack": 20}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A built set of three classes, one of them good."""
    return raw.built_parts(tmp_path_factory.mktemp("parts"), "ok", **PARTS)


def test_a_set_without_classes_of_its_own_is_binary(elpv):
    assert read_task(elpv) == BINARY
    assert class_column(BINARY) == "label"
    rows = load_split(elpv, "validation")
    assert class_ids(rows, BINARY) == rows["label"]


def test_class_ids_are_by_name_whatever_the_order_of_column_and_task(parts, elpv):
    task = read_task(parts)
    assert task == TaskSpec(("crack", "dent, deep", "ok"), ("defect", "defect", "good"))
    rows = load_split(parts, "train")
    names = rows.features["class_name"].names
    for classes in (task.classes, ("ok", "crack", "dent, deep"), ("dent, deep", "ok", "crack")):
        turned = TaskSpec.of(classes, ["ok"])
        ids = class_ids(rows, turned)
        assert [turned.classes[i] for i in ids] == [names[i] for i in rows["class_name"]]
        assert turned.is_defect[ids].astype(int).tolist() == rows["label"]
    backwards = TaskSpec.of(("defect", "good"), ["good"])
    assert class_ids(load_split(elpv, "validation"), backwards) == [
        1 - label for label in load_split(elpv, "validation")["label"]
    ]


def test_class_ids_need_the_column_and_its_classes(parts, elpv):
    with pytest.raises(DataError, match="no column 'class_name' of classes"):
        class_ids(load_split(elpv, "test"), read_task(parts))
    with pytest.raises(DataError, match="'crack' is no class of"):
        class_ids(load_split(parts, "test"), TaskSpec.of(["ok", "dent, deep", "chip"], ["ok"]))


def test_the_task_is_part_of_the_fingerprint(tmp_path):
    folder = raw.classes(tmp_path / "raw", {"ok": 12, "worn": 12})
    one, other = (
        build("folder", tmp_path / good, src=folder, options={"good": good})["fingerprint"] for good in ("ok", "worn")
    )
    assert one != other


def test_a_set_built_before_it_said_what_splits_lack_is_built_again(tmp_path):
    data = raw.built_parts(tmp_path, "ok", ok=12, worn=12)
    whole = read_manifest(data)
    files.write_json(data / "manifest.json", {key: value for key, value in whole.items() if key != "absent"})
    assert build("folder", data, src=tmp_path / "raw", options=whole["builder"]["options"]) == whole


def test_a_set_built_before_tasks_were_stated_is_refused_and_built_again(tmp_path):
    data = raw.built_parts(tmp_path, "ok", ok=12, worn=12)
    whole = read_manifest(data)
    files.write_json(data / "manifest.json", {key: value for key, value in whole.items() if key != "task"})
    with pytest.raises(DataError, match=r"manifest\.json does not say .* older version: make it again"):
        read_task(data)
    assert build("folder", data, src=tmp_path / "raw", options=whole["builder"]["options"]) == whole
    assert read_task(data).good == ("ok",)


def test_a_stream_holds_the_rows_of_the_split_in_order_and_by_name(parts, elpv):
    for data, column in ((parts, "class_name"), (elpv, "label")):
        rows = load_split(data, "train")
        streamed = [row for some in stream(data, "train", ["image", column, "group"], batch=7) for row in some]
        assert count(data, "train") == len(streamed) == len(rows)
        assert [row["image"] for row in streamed] == rows["image"][:]
        assert [row[column] for row in streamed] == [rows.features[column].names[i] for i in rows[column]]
        assert [row["group"] for row in streamed] == rows["group"][:]


@pytest.mark.parametrize("start", [0, 1, 63, 64, 99, 100, 101, 250, 1443, 1444, 9999])
def test_a_stream_goes_on_from_any_row(elpv, start):
    whole = [row["image"]["path"] for some in stream(elpv, "train", ["image"], 500) for row in some]
    batches = list(stream(elpv, "train", ["image"], 50, start))
    assert [row["image"]["path"] for some in batches for row in some] == whole[start:]
    assert all(batches)


def test_a_stream_goes_on_in_whichever_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["hf_inspect.data.build"], "MAX_SHARD_SIZE", "4KB")
    monkeypatch.setattr(sys.modules["hf_inspect.data.build"], "MAX_ROW_GROUP", (4, 10_000_000))
    data = raw.built_parts(tmp_path, good=30, dent=20)
    assert len(list((data / "data").glob("*-train*"))) > 3
    whole = [row["image"]["path"] for some in stream(data, "train", ["image"]) for row in some]
    for start in range(len(whole) + 1):
        rest = [row["image"]["path"] for some in stream(data, "train", ["image"], 3, start) for row in some]
        assert rest == whole[start:]


def test_a_stream_of_what_is_not_there_is_a_sentence(elpv, tmp_path):
    with pytest.raises(DataError, match=r"has no column 'class_name'; it has image, label, probability"):
        list(stream(elpv, "test", ["class_name"]))
    with pytest.raises(DataError, match="there is no split 'holdout'"):
        list(stream(elpv, "holdout", ["image"]))
    shutil.copytree(elpv, tmp_path / "broken")
    head = read_head(elpv)
    head["counts"]["default"]["test"]["good"] += 1
    files.write_table(tmp_path / "broken/manifest.json", head, "images", [])
    with pytest.raises(DataError, match=r"test holds 525 rows, its manifest .*; build it again"):
        list(stream(tmp_path / "broken", "test", ["image"]))


def test_a_manifest_s_head_is_all_but_its_images_however_it_is_laid_out(parts, tmp_path):
    whole = read_manifest(parts)
    head = {key: value for key, value in whole.items() if key != "images"}
    assert read_head(parts) == head
    for indent in (None, 1, 4):
        (tmp_path / "manifest.json").write_text(json.dumps(whole, indent=indent))
        assert read_head(tmp_path) == head
    (tmp_path / "manifest.json").write_text('{"images": [')
    with pytest.raises(DataError, match="is not JSON"):
        read_head(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        read_head(tmp_path / "nowhere")


def test_a_history_holds_what_was_trained_on_and_no_picture(elpv, tmp_path):
    rows = load_split(elpv, "validation")
    history = record_history(elpv, {"calibration": None, "validation": rows.shuffle(seed=0).select(range(50))})
    manifest = read_manifest(elpv)
    assert history.sources == (Source("elpv", manifest["fingerprint"], "CC-BY-NC-SA-4.0", 393 + 50),)
    assert history.unknown == ()
    stated = [row["sha256"] for row in manifest["images"] if row["split"] == "calibration"]
    assert [sha256 for sha256, _, _ in history.signatures[:393]] == stated
    chosen = {sign(row["bytes"]).sha256 for row in rows.shuffle(seed=0).select(range(50))["image"]}
    assert {sha256 for sha256, _, _ in history.signatures[393:]} == chosen
    write_history(tmp_path, history)
    assert read_history(tmp_path, "it") == history
    text = (tmp_path / TRAINED_ON).read_text()
    assert sum(line.startswith('["') for line in text.splitlines()) == 443  # an image a line
    assert max(len(part) for one in history.signatures for part in one) == 64  # 256 bits; a thumbnail has 2,048


def test_a_history_of_rows_does_not_depend_on_what_a_trainer_does_with_them(elpv):
    rows = load_split(elpv, "validation").select(range(3, 40))
    plain = record_history(elpv, {"validation": rows})
    changed = rows.add_column("answer", [0] * len(rows)).with_transform(lambda batch: {"x": batch["label"]})
    assert record_history(elpv, {"validation": changed}) == plain


def test_histories_of_parents_are_united(parts, elpv):
    first = record_history(elpv, {"validation": None})
    second = record_history(parts, {"train": None}, [first, History(unknown=("somebody/base",))])
    assert [source.name for source in second.sources] == ["folder", "elpv"]
    assert second.licences == ("cc0-1.0", "CC-BY-NC-SA-4.0")
    assert set(first.signatures) < set(second.signatures)
    assert second.unknown == ("somebody/base",)
    with pytest.raises(LeakageError):
        refuse_seen(second, elpv, "validation", "the adapter")
    refuse_seen(second, elpv, "test", "the adapter")


def test_a_model_without_a_record_is_of_unknown_history(tmp_path):
    assert read_history(tmp_path, "org/model") == History(unknown=("org/model",))


def test_seen_images_and_their_near_copies_are_refused(elpv, tmp_path):
    history = record_history(elpv, {"train": None, "validation": None})
    refuse_seen(history, elpv, "test", "the edge")
    refuse_seen(history, elpv, "calibration", "the edge")
    three = r"\(cell\d+\.png, cell\d+\.png, cell\d+\.png, \.\.\.\)"
    with pytest.raises(LeakageError, match=rf"262 of 262 images .* the edge or an ancestor of it .*{three}"):
        refuse_seen(history, elpv, "validation", "the edge")
    copied = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in load_split(elpv, "validation")["image"][4:6]]
    (tmp_path / "raw/good").mkdir(parents=True)
    for i in range(40):
        (tmp_path / f"raw/good/new{i}.png").write_bytes(png(picture(i)))
    for i, pixels in enumerate(copied):
        (tmp_path / f"raw/good/copy{i}.jpg").write_bytes(jpeg(pixels, 80))
    build("folder", tmp_path / "data", src=tmp_path / "raw", options={"shares": "0/0/0/100"})
    with pytest.raises(LeakageError, match=r"2 of 42 images .*\(copy0\.jpg, copy1\.jpg\)"):
        refuse_seen(history, tmp_path / "data", "test", "the edge")
    refuse_seen(History(unknown=("somebody",)), tmp_path / "data", "test", "the edge")


def test_what_is_refused_as_seen_was_one_group_when_it_was_built(elpv):
    """An honest split is never refused: whatever check bits join, grouping joined."""
    signed = [sign(row["image"]["bytes"]) for some in stream(elpv, "validation", ["image"]) for row in some]
    faked = [replace(one, phash=signed[0].phash) for one in signed]  # near hashes all, confirmed by bits or pixels
    pairs = {tuple(pair) for pair in duplicates(faked).tolist()}
    known = known_records([one.record() for one in faked])
    for i, one in enumerate(faked):
        alike = np.bitwise_count(check_bits(thumbs_of([one])) ^ known.looks.checks) <= MAX_CHECK_DISTANCE
        assert {(min(i, j), max(i, j)) for j in np.flatnonzero(alike).tolist() if j != i} <= pairs
    assert len(pairs) > 100


@pytest.mark.parametrize("images", [[["0" * 63, "0" * 64, "0" * 16]], [["0" * 64, "0" * 62, "0" * 16]],
                                    [["0" * 64, "0" * 64, "0" * 15]], [["0" * 64, "x" * 64, "0" * 16]],
                                    [["0" * 64, "0" * 64]], [["0" * 64, "0" * 64, 5]]])  # fmt: skip
def test_a_broken_record_is_no_clean_record(parts, tmp_path, images):
    write_history(tmp_path, record_history(parts, {"test": None}))
    record = files.read_json(tmp_path / TRAINED_ON)
    files.write_json(tmp_path / TRAINED_ON, record | {"images": images})
    with pytest.raises(DataError, match=r"trained_on\.json is .*again"):
        read_history(tmp_path, "it")


def test_a_record_of_an_older_version_is_not_unknown(tmp_path):
    old = {"fingerprint": "f", "licence": "cc0-1.0", "thumbs": "abc", "images": [["0" * 64, "0" * 64]]}
    files.write_json(tmp_path / TRAINED_ON, old)
    with pytest.raises(DataError, match=r"trained_on\.json is .*train the model again, or export it again"):
        read_history(tmp_path, "it")


def test_memory_does_not_grow_with_the_images(tmp_path):
    """What is held while 200 and 2,000 images are signed and compared: their records, not their files."""
    data = raw.built_parts(tmp_path, good=40, dent=40)
    peaks = []
    for times in (5, 45):
        many = repeated(data, tmp_path / f"many{times}", times)
        tracemalloc.start()
        with pytest.raises(LeakageError):
            refuse_seen(record_history(many, {"train": None}), many, "train", "it")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_800 * 900  # bytes of a record, packed and not, and of a name; a file has 1,500


def repeated(data, out, times):
    """The data set with each row of train so many times."""
    import pyarrow.parquet as pq

    shutil.copytree(data, out)
    (path,) = (out / "data").glob("*-train*")
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)
    manifest = read_manifest(data)
    counts = {name: n * times for name, n in manifest["counts"]["default"]["train"].items()}
    manifest["counts"]["default"]["train"] = counts
    files.write_json(out / "manifest.json", manifest)
    return out

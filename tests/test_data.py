import io
import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import files
from hf_inspect.data import build, group, load_split, packaged_folder, place_of, read_manifest, sign, trained_on
from hf_inspect.data.examine import examine
from hf_inspect.data.leakage import refuse_seen
from hf_inspect.data.partition import check_largest, deal, partition
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.schema import Sample
from tests.conftest import jpeg, picture, png

SHARES = {"train": 0.55, "validation": 0.10, "calibration": 0.15, "test": 0.20}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=40, max_size=120),
    seed=st.integers(0, 1000),
    kinds=st.integers(1, 4),
)
def test_no_group_is_split_and_shares_are_met(sizes, seed, kinds):
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    strata = [str(g % kinds) for g in groups]
    split = deal(strata, groups, SHARES, seed)
    assert set(split) == set(groups)
    assert split == deal(strata, groups, SHARES, seed)
    count = defaultdict(int)
    for g in groups:
        count[split[g]] += 1
    for name, share in SHARES.items():  # each stratum rounds at most one largest group off
        assert abs(count[name] - share * len(groups)) <= 5 * kinds


def samples(tmp_path, arrays):
    for i, array in enumerate(arrays):
        (tmp_path / f"{i}.png").write_bytes(png(array))
    return [Sample(f"{i}.png", tmp_path / f"{i}.png", "good", "good") for i in range(len(arrays))]


def test_a_group_above_five_percent_stops_the_build(tmp_path):
    arrays = [picture(9)] * 3 + [picture(100 + i) for i in range(37)]
    examined, _ = examine(samples(tmp_path, arrays))
    with pytest.raises(DataError, match="joins 3 of 40"):
        check_largest(group([image.signature for image in examined]).tolist())


def test_partition_needs_images_and_whole_shares(tmp_path):
    with pytest.raises(DataError, match="0 images"):
        partition([], [], SHARES, 0)
    with pytest.raises(DataError, match="sum to 1"):
        partition(examine(samples(tmp_path, [picture(1)]))[0], [0], {"train": 0.5}, 0)


def test_unknown_data_set_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="elpv"):
        build("nothing", tmp_path / "x")


def test_elpv_reads_back_whole_with_plain_load_dataset(elpv):
    import datasets

    manifest = read_manifest(elpv)
    whole = datasets.load_dataset(str(elpv))
    assert {split: len(rows) for split, rows in whole.items()} == {
        split: sum(counts.values()) for split, counts in manifest["counts"]["default"].items()
    }
    assert sum(map(len, whole.values())) == len(manifest["images"]) == 2624
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
        assert (row["probability"] >= 0.5) == bool(row["label"]) == (stated["label"] == "defect")


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


def test_seen_images_and_their_near_copies_are_refused(elpv):
    manifest = read_manifest(elpv)
    contents = [row["bytes"] for row in load_split(elpv, "validation")["image"]]
    record = json.loads(json.dumps(trained_on(manifest, contents)))
    assert record["fingerprint"] == manifest["fingerprint"]
    test = load_split(elpv, "test")["image"]
    fresh, names = [row["bytes"] for row in test], [row["path"] for row in test]
    refuse_seen(record, fresh, names)
    copied = np.asarray(Image.open(io.BytesIO(contents[5])))
    with pytest.raises(LeakageError, match=r"1 of 526 .*\(copy\.jpg\)"):
        refuse_seen(record, [*fresh, jpeg(copied, 80)], [*names, "copy.jpg"])
    with pytest.raises(LeakageError, match=r"262 of 262 .*a\.png, a\.png, a\.png, \.\.\."):
        refuse_seen(record, contents, ["a.png"] * len(contents))


def test_a_broken_record_is_no_clean_record(elpv):
    record = trained_on(read_manifest(elpv), [png(picture(1)), png(picture(2))])
    for broken in ({**record, "images": record["images"][:1]}, {**record, "thumbs": ""}, {"images": []}):
        with pytest.raises(DataError, match=r"trained_on\.json is incomplete"):
            refuse_seen(broken, [png(picture(3))], ["3.png"])

"""Building any data set: what is written, that it is a function of its input, and every way the input can be bad."""

import errno
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_inspect import files
from hf_inspect.data import build, described, load_split, options_from, read_manifest
from hf_inspect.data import licence as gate
from hf_inspect.data.build import shards
from hf_inspect.data.licence import Licence
from hf_inspect.data.raw.sources import keys_by_rule
from hf_inspect.errors import DataError
from tests import raw

SMALL = {"bottle": (12, 3, {"broken_large": 3, "contamination": 3}), "grid": (10, 2, {"bent": 4})}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Class folders of 60 pictures: ok, scratch, dent."""
    root, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for name, n in {"ok": 30, "scratch": 20, "dent": 10}.items():
        (root / name).mkdir()
        for i in range(n):
            raw.picture(rng).save(root / name / f"{name}{i}.png")
    return root


@pytest.fixture
def small_mvtec(tmp_path):
    return raw.mvtec(tmp_path / "raw", SMALL)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_build_reads_back_byte_equal_with_plain_load_dataset(parts, tmp_path):
    manifest = build("folder", tmp_path / "built", src=parts)
    read = raw.read_back(tmp_path / "built")
    assert {split: len(rows) for split, rows in read.items()} == {
        split: sum(count.values()) for split, count in manifest["counts"]["default"].items()
    }
    stated = iter(sorted(manifest["images"], key=lambda row: row["sha256"]))
    rows = [row for split in read for row in load_split(tmp_path / "built", split)]
    assert len(rows) == 60
    content = {row["image"]["bytes"] for row in rows}
    assert content == {(parts / row["source"]).read_bytes() for row in stated}
    assert read["train"].features["class_name"].names == ["dent", "ok", "scratch"]


def test_a_folder_that_is_built_anew_reads_back_as_it_is_now(tmp_path):
    """`load_dataset` keeps what it read by the folder's name; two builds in one place must not be taken for one."""
    for seed in (1, 2):
        source = raw.classes(tmp_path / f"raw{seed}", {"good": 24, "dent": 12}, seed=seed)
        build("folder", tmp_path / "twice", src=source)
        whole = raw.read_back(tmp_path / "twice")
        for split, rows in whole.items():
            kept = rows.cast_column("image", datasets.Image(decode=False))["image"][:]
            assert kept == load_split(tmp_path / "twice", split)["image"][:]


def test_the_result_does_not_depend_on_threads_or_on_when(parts, tmp_path):
    one = build("folder", tmp_path / "one", src=parts, num_proc=1)
    three = build("folder", tmp_path / "three", src=parts, num_proc=3)
    assert one == three
    assert names(tmp_path / "one") == names(tmp_path / "three")
    for name in names(tmp_path / "one"):
        assert files.sha256(tmp_path / "one" / name) == files.sha256(tmp_path / "three" / name)


def test_shards_are_cut_by_size_in_the_order_of_the_source(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["hf_inspect.data.build"], "MAX_SHARD_SIZE", "4KB")
    monkeypatch.setattr(sys.modules["hf_inspect.data.build"], "MAX_ROW_GROUP", (4, 10_000_000))
    manifest = build("folder", tmp_path / "built", src=parts)
    read = [row["image"]["path"] for row in load_split(tmp_path / "built", "train")]
    assert len(shards(tmp_path / "built", "default", "train")) == 9  # of 4 images each, the last of 1
    assert read == [row["source"].split("/")[-1] for row in manifest["images"] if row["split"] == "train"]


def test_the_manifest_names_no_path_of_this_machine(parts, tmp_path):
    build("folder", tmp_path / "built", src=parts)
    for name in ("manifest.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "built" / name).read_text()
        assert str(parts) not in (tmp_path / "built" / name).read_text()


def test_a_changed_source_is_built_again_and_an_equal_one_is_not(parts, tmp_path):
    build("folder", tmp_path / "built", src=parts)
    before = (tmp_path / "built" / "manifest.json").stat().st_mtime_ns
    build("folder", tmp_path / "built", src=parts)
    assert (tmp_path / "built" / "manifest.json").stat().st_mtime_ns == before
    build("folder", tmp_path / "built", src=parts, options={"seed": 3})
    assert (tmp_path / "built" / "manifest.json").stat().st_mtime_ns != before


def test_kinds_that_calibration_and_test_lack_are_said(tmp_path):
    """Of six kinds of one photo each, three splits of four get none: the build, the manifest and the card name them."""
    rare = {f"rare*{i}": 1 for i in range(6)}
    source = raw.classes(tmp_path / "raw", {"good": 40, "dent": 20, **rare})
    manifest = build("folder", tmp_path / "built", src=source)
    counts = manifest["counts"]["default"]
    lacked = {split: [name for name in rare if name not in counts[split]] for split in ("calibration", "test")}
    assert manifest["absent"] == lacked
    assert min(map(len, lacked.values())) >= 3
    card, said = (tmp_path / "built" / "README.md").read_text(), described(manifest)
    for split, names in lacked.items():
        assert f"NOTE: {split} has no image of {', '.join(names)}: " in said
        escaped = [name.replace("*", "\\*") for name in names]
        assert f"- {split} has no image of {', '.join(escaped)}: " in card
    whole = build("folder", tmp_path / "whole", src=raw.classes(tmp_path / "two", {"good": 40, "dent": 20}))
    assert whole["absent"] == {"calibration": [], "test": []}
    assert "has no image" not in described(whole) + (tmp_path / "whole" / "README.md").read_text()


def test_the_folders_layout_has_each_evaluation_image_once(small_mvtec, tmp_path):
    options = {"n_good": 4, "n_defect": 4}
    manifest = build(
        "mvtec_inspect", tmp_path / "b", src=small_mvtec, options=options, folders=True, accept_license=True
    )
    held = [row for row in manifest["images"] if row["config"] == "holdout"]
    for label in ("good", "defect"):
        listed = (tmp_path / "b" / "splits" / f"mvtec_inspect_{label}.txt").read_text().split()
        assert len(listed) == manifest["counts"]["holdout"]["test"][label]
        found = {files.sha256(tmp_path / "b" / path) for path in listed}
        assert found == {row["sha256"] for row in held if row["class"] == label}
        assert {p.parent.as_posix() for p in map(Path, listed)} == {f"val/{label}"}
    config = raw.read_back(tmp_path / "b", "holdout")
    assert set(config) == {"test"}


def test_the_folders_layout_unites_configs(small_mvtec, tmp_path):
    build("mvtec_ad", tmp_path / "b", src=small_mvtec, folders=True, accept_license=True)
    listed = {label: (tmp_path / f"b/splits/mvtec_ad_{label}.txt").read_text().split() for label in ("good", "defect")}
    assert {label: len(paths) for label, paths in listed.items()} == {"good": 5, "defect": 10}


def test_what_cannot_be_used_is_left_out_and_listed(small_mvtec, tmp_path):
    good, bent = small_mvtec / "bottle/train/good", small_mvtec / "grid/test/bent"
    whole = (good / "001.png").read_bytes()
    (good / "001.png").write_bytes(whole[: len(whole) // 2])
    (good / "002.png").write_bytes(b"")
    (good / "003.png").write_text("not an image")
    Image.new("L", (3, 3)).save(small_mvtec / "grid/ground_truth/bent/001_mask.png")
    (small_mvtec / "grid/ground_truth/bent/002_mask.png").unlink()
    (bent / "003.png").unlink()
    (bent / "003.png").symlink_to(small_mvtec / "nowhere.png")
    manifest = build("mvtec_ad", tmp_path / "built", src=small_mvtec, accept_license=True)
    reasons = {one["source"]: one["reason"] for one in manifest["rejected"]}
    assert set(reasons) == {
        "bottle/train/good/001.png", "bottle/train/good/002.png", "bottle/train/good/003.png",
        "grid/test/bent/001.png", "grid/test/bent/002.png",
    }  # fmt: skip
    assert "3 x 3 pixels, the image 24 x 24" in reasons["grid/test/bent/001.png"]
    assert reasons["grid/test/bent/002.png"] == "its mask 002_mask.png is missing."
    assert "Left out: 5 images" in (tmp_path / "built" / "README.md").read_text()
    assert not any(row["source"] in reasons for row in manifest["images"])


def test_nothing_usable_is_an_error_that_names_the_first(tmp_path):
    (tmp_path / "raw/good").mkdir(parents=True)
    (tmp_path / "raw/good/a.png").write_text("no")
    with pytest.raises(DataError, match=r"none of 1 images can be used; the first: good/a\.png"):
        build("folder", tmp_path / "out", src=tmp_path / "raw")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_inspect", "ksdd2_balanced", "solar_panels", "folder", "coco"])
def test_a_wrong_root_is_a_sentence(name, tmp_path):
    (tmp_path / "raw").mkdir()
    for src in (tmp_path / "raw", tmp_path / "missing", None):
        with pytest.raises(DataError, match=r"^[^\n]{20,300}$"):
            build(name, tmp_path / "out", src=src, accept_license=True)
    assert not (tmp_path / "out").exists()


def tar_of(path, members):
    with tarfile.open(path, "w:xz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "member", [tarfile.TarInfo("../out.png"), link("good/a.png", "/etc/passwd"), link("good/a.png", "../../x.png")]
)
def test_an_archive_that_leaves_its_folder_is_refused(member, tmp_path):
    archive = tar_of(tmp_path / "raw.tar.xz", [(member, b"")])
    with pytest.raises(DataError, match="outside its folder"):
        build("folder", tmp_path / "out", src=archive)
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as file:
        file.writestr("../out.png", b"x")
    with pytest.raises(DataError, match="outside its folder"):
        build("folder", tmp_path / "out", src=tmp_path / "raw.zip")
    assert {p.name for p in tmp_path.iterdir()} == {"raw.tar.xz", "raw.zip"}


def test_a_cut_archive_is_a_sentence(tmp_path):
    whole = tar_of(tmp_path / "raw.tar.xz", [(tarfile.TarInfo("good/a.png"), os.urandom(4096))]).read_bytes()
    (tmp_path / "raw.tar.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no whole archive"):
        build("folder", tmp_path / "out", src=tmp_path / "raw.tar.xz")
    (tmp_path / "raw.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="no whole archive"):
        build("folder", tmp_path / "out", src=tmp_path / "raw.zip")


def test_the_archive_and_its_folder_build_the_same(small_mvtec, tmp_path):
    with tarfile.open(tmp_path / "mvtec.tar.xz", "w:xz") as archive:
        archive.add(small_mvtec, arcname="mvtec_anomaly_detection")
    packed = build("mvtec_ad", tmp_path / "a", src=tmp_path / "mvtec.tar.xz", accept_license=True)
    plain = build("mvtec_ad", tmp_path / "b", src=small_mvtec, accept_license=True)
    assert packed == plain
    assert names(tmp_path / "a") == names(tmp_path / "b")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(parts, tmp_path, monkeypatch):
    import pyarrow.parquet

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(DataError, match="is full; make room"):
        build("folder", tmp_path / "out", src=parts)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_data_set_and_the_next_run_cleans_up(parts, tmp_path):
    script = "import sys, time\nfrom pathlib import Path\nfrom hf_inspect.data import build\n"
    script += "wait = lambda *a: (print('here', flush=True), time.sleep(60))\n"
    script += "sys.modules['hf_inspect.data.build'].write_sheet = wait\n"
    script += "build('folder', Path(sys.argv[2]), src=Path(sys.argv[1]))"
    run = subprocess.Popen([sys.executable, "-c", script, parts, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "here\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".out.")
    with pytest.raises(DataError):
        load_split(tmp_path / "out", "train")
    build("folder", tmp_path / "out", src=parts)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_image_that_changes_meanwhile_stops_the_build(parts, tmp_path):
    copied = tmp_path / "raw"
    shutil.copytree(parts, copied)

    def change(what, done, total):
        if what == "read and sign" and done == total:
            raw.picture(np.random.default_rng(99)).save(copied / "ok/ok3.png")

    with pytest.raises(DataError, match=r"ok/ok3\.png changed"):
        build("folder", tmp_path / "out", src=copied, progress=change)


def test_an_edited_annotation_is_built_again(tmp_path):
    root, rng = tmp_path / "raw", np.random.default_rng(5)
    root.mkdir()
    for i in range(30):
        raw.picture(rng).save(root / f"{i}.png")
    stated = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 24, "height": 24} for i in range(30)],
        "categories": [{"id": 1, "name": "dent"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(0, 30, 2)],
    }
    files.write_json(root / "boxes.json", stated)
    build("coco", tmp_path / "built", src=root)
    assert [[2.0, 2.0, 11.0, 11.0]] not in boxes_of(tmp_path / "built")
    stated["annotations"][0]["bbox"] = [2, 2, 9, 9]
    files.write_json(root / "boxes.json", stated)
    build("coco", tmp_path / "built", src=root)
    assert [[2.0, 2.0, 11.0, 11.0]] in boxes_of(tmp_path / "built")


def boxes_of(folder):
    return [objects["bbox"] for rows in raw.read_back(folder).values() for objects in rows["objects"]]


def test_the_card_s_own_command_builds_the_same(parts, tmp_path):
    options = {"seed": 7, "good": "ok, dent", "group_rule": r"(ok1\d)"}
    manifest = build("folder", tmp_path / "built", src=parts, options=options)
    card = (tmp_path / "built" / "README.md").read_text()
    command = re.search(r"^    hf-inspect (data build .*)$", card, re.MULTILINE)[1]
    again = [{"RAW": str(parts), "DIR": str(tmp_path / "again")}.get(word, word) for word in shlex.split(command)]
    done = subprocess.run([sys.executable, "-m", "hf_inspect.cli", *again], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "again") == manifest


def test_progress_counts_every_image(parts, tmp_path):
    seen = []
    build("folder", tmp_path / "out", src=parts, progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[0] == "read and sign"] == [("read and sign", i + 1, 60) for i in range(60)]
    assert [step for step in seen if step[0] == "write Parquet"][-1] == ("write Parquet", 60, 60)


def test_options_are_read_in_their_types():
    assert options_from("mvtec_inspect", ["--n-good", "20", "--defect-train-ratio=0.25"]) == {
        "n_good": 20,
        "defect_train_ratio": 0.25,
    }
    assert options_from("solar_panels", ["--download", "--seed", "4"]) == {"download": True, "seed": 4}
    for wrong, said in {
        ("--n-good", "many"): "no number",
        ("--seed",): "needs a value",
        ("--x", "1"): "it has --seed",
    }.items():
        with pytest.raises(DataError, match=said):
            options_from("mvtec_inspect", wrong)


def test_a_licence_is_asked_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "cache_folder", lambda: tmp_path)
    terms = Licence("CC-BY-NC-4.0", False, "https://example.org", "Somebody (2020)")
    with pytest.raises(DataError, match=r"NON-COMMERCIAL.*--accept-license"):
        gate.pass_gate("parts", terms, accepted=False)
    gate.pass_gate("parts", terms, accepted=True)
    gate.pass_gate("parts", terms, accepted=False)
    with pytest.raises(DataError):
        gate.pass_gate("parts", Licence("other", False, "", ""), accepted=False)


def test_a_licence_is_accepted_at_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    terms = Licence("CC-BY-NC-4.0", False, "https://example.org", "Somebody (2020)")
    for answer, passes in {"n": False, "": False, "y": True}.items():
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if passes:
            gate.pass_gate("parts", terms, accepted=False)
        else:
            with pytest.raises(DataError):
                gate.pass_gate("parts", terms, accepted=False)


def test_group_rules_are_checked():
    assert keys_by_rule(["a.rf.1.jpg", "a.rf.2.jpg", "b.jpg"], r"(.+)\.rf\.") == ["a", "a", None]
    for rule, said in {"(": "no regular expression", "a": "has no group", "(x)y": "matches none"}.items():
        with pytest.raises(DataError, match=said):
            keys_by_rule(["a.png"], rule)


def test_manifest_and_card_state_the_licence(small_mvtec, tmp_path):
    manifest = build("mvtec_ad", tmp_path / "built", src=small_mvtec, accept_license=True)
    assert (manifest["licence"], manifest["commercial"]) == ("CC-BY-NC-SA-4.0", False)
    assert read_manifest(tmp_path / "built")["builder"]["options"] == {}
    card = (tmp_path / "built" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert "NON-COMMERCIAL" in card
    assert (tmp_path / "built" / "contact_sheet.png").exists()

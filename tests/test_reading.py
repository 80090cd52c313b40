"""One reader: how files are read is found over a data set, travels with it, and gives all of them equal pixels."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import files, scoring
from hf_inspect import predict as line
from hf_inspect.cascade import Saec
from hf_inspect.cli import app
from hf_inspect.data import (
    Rules,
    audit,
    build,
    described,
    duplicates,
    examine,
    hashing,
    load_split,
    read_manifest,
    read_reading,
    record_history,
    refuse_seen,
    sign,
)
from hf_inspect.data.examine import depth_notes, notes_of, reading_of
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.export import parity
from hf_inspect.images import FORMATS, SUFFIXES, Preprocess, Reading, load
from hf_inspect.inspector import Inspector
from hf_inspect.runtime import Engine
from hf_inspect.schema import BINARY, History, Prediction, Sample
from hf_inspect.students import load_student, new_student
from hf_inspect.students.training import Targets, to_inputs
from hf_inspect.vlm import ScriptedVLM, training
from tests import raw, tiny_edge, zoo
from tests.conftest import png

BITS = 12
HALF = (0.5, 0.5, 0.5)


class Seeing:
    """A predictor that keeps the pixels it is shown, by their place among the zoo's."""

    task, history, identity = BINARY, History(), "seeing"

    def __init__(self, reading):
        self.reading, self.seen = reading, []

    def predict(self, images):
        self.seen += [image.copy() for image in images]
        return [Prediction(0.5, (0.5, 0.5))] * len(images)


@pytest.fixture(scope="module")
def raw_zoo(tmp_path_factory):
    """Every kind of file twice, in class folders good and defect."""
    root = tmp_path_factory.mktemp("raw")
    for number, name in enumerate(("good", "defect")):
        (root / name).mkdir()
        for file, content, _ in zoo.files(BITS, 1000 * number):
            (root / name / file).write_bytes(content)
    return root


@pytest.fixture(scope="module")
def built(raw_zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "zoo"
    build("folder", out, src=raw_zoo, options={"license": "cc0-1.0"})
    return out


def rows_of(folder):
    """Split, rows and names of each split of a built data set, in order."""
    for split in read_manifest(folder)["counts"]["default"]:
        rows = load_split(folder, split)
        yield split, rows, [image["path"] for image in rows.with_format(None)["image"]]


def test_signing_training_evaluation_export_and_the_line_see_equal_pixels(raw_zoo, built, tmp_path, monkeypatch):
    wanted = {}
    for number in range(2):
        for _, content, pixels in zoo.files(BITS, 1000 * number):
            wanted[content] = load(content, Reading(BITS)).rgb if pixels is None else pixels
    names = [(split, i) for split, rows, _ in rows_of(built) for i in range(len(rows))]
    contents = [row["bytes"] for _, rows, _ in rows_of(built) for row in rows.with_format(None)["image"]]
    assert len(names) == len(set(contents)) == len(wanted) == 124
    seen = {}

    signed = {}
    with monkeypatch.context() as patch:
        patch.setattr(hashing, "signature_of", lambda content, picture: signed.setdefault(content, picture))
        hashing.sign_all(contents, read_reading(built))
    seen["sign"] = [np.asarray(signed[content].convert("RGB")) for content in contents]
    assert {picture.mode for picture in signed.values()} == {"L", "RGB"}  # whose grey is that of their RGB

    height, width = zoo.SIZE[::-1]
    reading, preprocess = read_reading(built), Preprocess(height, width, HALF, HALF)
    batches = [(rows, rows.with_format(None)[:]) for _, rows, _ in rows_of(built)]
    of_student = [
        one.permute(1, 2, 0).numpy()
        for rows, batch in batches
        for one in to_inputs(batch, preprocess, Targets.of(rows, BINARY, False), reading=reading)["pixel_values"]
    ]
    seen["training"] = of_student
    question = SimpleNamespace(task=BINARY)
    monkeypatch.setattr(training.prompts, "render", lambda *_: {"prompt": [], "completion": []})
    seen["training of a VLM"] = [
        one[0].permute(1, 2, 0).numpy()
        for _, batch in batches
        for one in training.chat_rows({**batch, "class_id": batch["label"]}, question, reading=reading)["images"]
    ]

    evaluated, exported, student = Seeing(reading), Seeing(reading), Seeing(reading)
    monkeypatch.setattr(parity, "predict", lambda _, rgbs: student.predict(rgbs))
    for split, _, _ in rows_of(built):
        scoring.run({"edge": evaluated}, built, split, tmp_path / f"{split}.jsonl")
        parity.compare(exported, SimpleNamespace(task=BINARY), built, split, parity.FP32)
    seen |= {"evaluation": evaluated.seen, "export": exported.seen, "export's student": student.seen}

    edge = Seeing(reading)
    paths = {path.read_bytes(): path for path in raw_zoo.rglob("*") if path.is_file()}
    found = list(line.predict(Inspector(edge, Saec(1.0, 1)), [paths[content] for content in contents]))
    assert not [row for _, row in found if row["label"] == "unreadable"]
    seen["the line"] = edge.seen

    for who, pixels in seen.items():
        assert len(pixels) == len(contents), who
        for place, content, rgb in zip(names, contents, pixels, strict=True):
            assert np.array_equal(rgb, wanted[content]), (who, place)


def test_the_data_set_says_how_it_is_read(built):
    manifest = read_manifest(built)
    reading = manifest["reading"]
    assert (reading["bits"], reading["max_pixels"], reading["warnings"]) == (12, 100_000_000, [])
    assert manifest["rejected"] == []
    expected = {"first frame of 4": 2, "transparency laid over black": 4, "float grey, scaled from 0..1": 2,
                "16-bit grey, scaled from 0..4095": 12, "16-bit colour, scaled from 0..4095": 8,
                "grey scaled from 0..1023": 2, "colour scaled from 0..1023": 2}  # fmt: skip
    expected |= {f"turned upright from EXIF orientation {n}": 8 if n == 6 else 6 for n in range(2, 9)}
    assert reading["notes"] == expected
    said, card = described(manifest), (built / "README.md").read_text()
    for sentence in ("2 images: first frame of 4.", "12 bits of 16 carry the picture: 4095 is white, more is refused."):
        assert f"NOTE: {sentence}" in said
        assert f"- {sentence}" in card


def samples(folder, contents, class_name="good"):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [Sample(name, folder / name, class_name, "good") for name in contents]


def deep_png(seed, bits):
    return png(zoo.deep(zoo.grey(seed), bits))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_depth_is_that_of_the_whole_set_and_copies_of_any_depth_are_found(tmp_path, bits):
    contents = {
        "dark.png": png(zoo.deep(zoo.grey(1) // 8, bits)),
        "deep.png": deep_png(2, bits),
        "8.png": png(zoo.grey(2)),
        "unit.tif": zoo.saved(Image.fromarray(zoo.grey(2) / np.float32(255)), "TIFF"),
    }
    examined, rejected = examine(samples(tmp_path, contents))
    assert (rejected, reading_of(examined, Rules())) == ([], Reading(bits))
    found = {one.sample.source: one.signature for one in examined}
    assert found["deep.png"].thumb == found["8.png"].thumb == found["unit.tif"].thumb
    assert found["deep.png"].phash == found["8.png"].phash
    assert found["deep.png"] == sign(contents["deep.png"], Reading(bits))
    assert duplicates([one.signature for one in examined]).tolist() == [[1, 2], [1, 3], [2, 3]]


def test_a_set_of_8_bits_needs_no_depth_and_no_second_look(tmp_path, monkeypatch):
    given = samples(tmp_path, {"a.png": png(zoo.grey(1)), "b.png": png(zoo.grey(2))})
    reads = []
    whole = Sample.read
    monkeypatch.setattr(Sample, "read", lambda self: reads.append(self.source) or whole(self))
    examined, _ = examine(given)
    assert reading_of(examined, Rules()) == Reading()
    assert sorted(reads) == ["a.png", "b.png"]


def test_bits_that_are_stated_hold_and_what_surpasses_them_is_refused(tmp_path):
    contents = {"10.png": deep_png(1, 10), "12.png": deep_png(2, 12), "16.png": deep_png(3, 16)}
    examined, rejected = examine(samples(tmp_path, contents), rules=Rules(bits=12))
    assert [one.sample.source for one in examined] == ["10.png", "12.png"]
    assert reading_of(examined, Rules(bits=12)) == Reading(12)
    assert rejected[0].source == "16.png"
    assert "holds values up to 65535, above the 4095 of 12 bits" in rejected[0].reason
    for bits in (7, 17, 12.5, True):
        with pytest.raises(DataError, match="wanted is a whole number from 8 to 16"):
            Rules(bits=bits)


def test_a_few_images_that_darken_all_others_are_named(tmp_path):
    contents = {f"{i}.png": deep_png(i, 12) for i in range(30)} | {"hot.png": deep_png(99, 16)}
    examined, _ = examine(samples(tmp_path, contents))
    [said] = depth_notes(examined, Rules())
    assert said == (
        "1 of 31 16-bit images alone need 16 bits (hot.png), which makes all others darker; --bits 14 leaves these out."
    )
    assert depth_notes(examined, Rules(bits=16)) == []
    assert depth_notes(examine(samples(tmp_path, {"a.png": deep_png(1, 16)}))[0], Rules()) == []


def test_what_no_reader_reads_is_left_out_by_the_build(tmp_path):
    ints = zoo.saved(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF")
    bright = zoo.saved(Image.fromarray(zoo.grey(1).astype(np.float32)), "TIFF")
    blank = zoo.saved(Image.new("RGBA", (8, 8), (200, 0, 0, 0)), "PNG")
    large = png(zoo.grey(2))
    contents = {"ints.tif": ints, "bright.tif": bright, "blank.png": blank, "large.png": large}
    examined, rejected = examine(samples(tmp_path, contents), rules=Rules(max_pixels=40 * 28 - 1))
    assert examined == []
    said = {one.source: one.reason for one in rejected}
    assert "int32 pixels from 0 to 63, of unknown range" in said["ints.tif"]
    assert "more than the limit of 1119" in said["bright.tif"]
    assert "transparent all over" in said["blank.png"]
    assert "more than the limit of 1119" in said["large.png"]
    assert "float32 pixels from 0.0 to 255.0" in examine(samples(tmp_path, {"b.tif": bright}))[1][0].reason


def test_planted_copies_in_float_cross_no_split_and_audit_reads_them(tmp_path):
    """Signed without their range, all of them would look alike or white."""
    rng, root = np.random.default_rng(0), tmp_path / "raw"
    for name in ("good", "defect"):
        (root / name).mkdir(parents=True)
    for i in range(40):
        picture = np.asarray(raw.picture(rng, mode="L"))
        folder = root / ("good" if i % 2 else "defect")
        Image.fromarray(picture / np.float32(255)).save(folder / f"{i}.tif")
        if i < 10:
            Image.fromarray(picture).save(folder / f"{i}.copy.png", compress_level=1)
    manifest = build("folder", tmp_path / "out", src=root)
    assert manifest["groups"]["n"] == 40
    group = {image["source"].split("/")[1].split(".")[0]: set() for image in manifest["images"]}
    for image in manifest["images"]:
        group[image["source"].split("/")[1].split(".")[0]].add(image["group"])
    assert {len(groups) for groups in group.values()} == {1}
    assert audit([tmp_path / "out"]).crossing == ()


def deep_parts(root, n=24):
    """Class folders of 12-bit images, whose pictures are those of `zoo.grey`."""
    for name in ("good", "defect"):
        (root / name).mkdir(parents=True)
    for i in range(n):
        (root / ("good" if i % 2 else "defect") / f"{i}.png").write_bytes(deep_png(i, 12))
    return root


def test_the_command_line_states_bits_and_so_does_the_card_it_writes(tmp_path):
    src, prints = deep_parts(tmp_path / "raw"), {}
    for bits, given in ((12, []), (14, ["--bits", "14"])):
        out = tmp_path / str(bits)
        done = CliRunner().invoke(app, ["data", "build", "folder", "--src", str(src), "--out", str(out), *given])
        assert done.exit_code == 0, done.output
        assert f"NOTE: {bits} bits of 16 carry the picture: {2**bits - 1} is white, more is refused." in done.output
        card, prints[bits] = (out / "README.md").read_text(), read_manifest(out)["fingerprint"]
        assert ("--bits 14 --out DIR" in card, "--bits" in card) == (bool(given), bool(given))
    assert prints[12] != prints[14]
    again = build("folder", tmp_path / "12", src=src, rules=Rules(bits=14))
    assert again["fingerprint"] == prints[14]
    done = CliRunner().invoke(app, ["data", "build", "folder", "--src", str(src), "--out", str(out), "--bits", "17"])
    assert "bits is 17; wanted is a whole number from 8 to 16" in str(done.exception)


def test_a_model_has_seen_what_it_saw_in_16_bits(tmp_path):
    build("folder", tmp_path / "deep", src=deep_parts(tmp_path / "raw"), options={"license": "cc0-1.0"})
    history = record_history(tmp_path / "deep", dict.fromkeys(read_manifest(tmp_path / "deep")["counts"]["default"]))
    for i in range(24):
        (tmp_path / "raw" / ("good" if i % 2 else "defect") / f"{i}.png").write_bytes(png(zoo.grey(i)))
    counts = build("folder", tmp_path / "8", src=tmp_path / "raw")["counts"]["default"]
    n = sum(counts["test"].values())
    with pytest.raises(LeakageError, match=f"{n} of {n} images are, or nearly repeat"):
        refuse_seen(history, tmp_path / "8", "test", "the edge")


# It travels, and other ones are refused.


def test_a_student_keeps_it_and_so_does_what_is_exported(tmp_path):
    model = new_student("random:test_efficientnet", 32, BINARY, reading=Reading(12, 5000))
    model.save_pretrained(tmp_path / "student")
    assert load_student(tmp_path / "student").reading == Reading(12, 5000)
    config = files.read_json(tmp_path / "student" / "config.json")
    files.write_json(tmp_path / "student" / "config.json", config | {"inspection_reading": {"bits": 99}})
    with pytest.raises(DataError, match="states the reading"):
        load_student(tmp_path / "student")


def edge_of(folder, reading):
    """The tiny edge as if it had been trained on images read so."""
    shutil.copytree(tiny_edge.exported(int8=False), folder)
    info = files.read_json(folder / "inspect.json")
    assert info["reading"] == Reading().to_dict()
    if reading is None:
        del info["reading"]
    files.write_json(folder / "inspect.json", info if reading is None else info | {"reading": reading.to_dict()})
    return Engine.from_pretrained(folder)


def test_the_line_reads_as_the_edge_was_trained(tmp_path):
    deep, hot = deep_png(1, 12), deep_png(2, 16)
    edge, plain = edge_of(tmp_path / "12", Reading(12, 1200)), edge_of(tmp_path / "8", None)
    assert (edge.reading, plain.reading) == (Reading(12, 1200), Reading())
    assert edge.predict([deep]) == edge.predict([png(zoo.grey(1))]) == plain.predict([load(deep, Reading(12)).rgb])
    with pytest.raises(DataError, match="what is white is not stated"):
        plain.predict([deep])
    told = [Inspector(one, Saec(1.0, 1))(deep) for one in (edge, plain)]
    assert [verdict.label == "unreadable" for verdict in told] == [False, True]
    assert "16-bit values up to 4095" in told[1].reason
    assert told[0].notes == ("16-bit grey, scaled from 0..4095",)
    assert "above the 4095 of 12 bits" in Inspector(edge, Saec(1.0, 1))(hot).reason
    large = png(np.zeros((41, 30), np.uint8))
    assert "more than the limit of 1200" in Inspector(edge, Saec(1.0, 1))(large).reason
    assert Inspector(edge, Saec(1.0, 1), max_pixels=1230)(large).label != "unreadable"
    assert "12 bits of 16-bit images, at most 1200 pixels" in Inspector(edge, Saec(1.0, 1), ScriptedVLM([0.5])).identity


def test_parts_of_two_readings_are_no_cascade(tmp_path):
    edge = edge_of(tmp_path / "12", Reading(12))
    vlm = ScriptedVLM([0.5])
    assert Inspector(edge, Saec(1.0, 1), vlm).reading == Reading(12)
    for other, said in ((Reading(16), "its VLM of 16 bits"), (Reading(), "its VLM of 8-bit images alone")):
        vlm.reading = other
        with pytest.raises(DataError, match=f"edge was made of 12 bits of 16-bit images, {said}"):
            Inspector(edge, Saec(1.0, 1), vlm)


def test_data_read_otherwise_is_not_evaluated(built, tmp_path):
    for reading in (Reading(16), Reading()):
        with pytest.raises(
            DataError, match=f"The data set zoo was made of 12 bits of 16-bit images, the edge of {reading}"
        ):
            scoring.run({"edge": Seeing(reading)}, built, "test", tmp_path / "scores.jsonl")
    scoring.run({"vlm": Seeing(None)}, built, "test", tmp_path / "scores.jsonl")  # trained on no images
    scoring.run({"edge": Seeing(Reading(12))}, tiny_edge.data(), "validation", tmp_path / "own.jsonl")  # all of 8 bits


def test_data_read_otherwise_is_not_exported_on(built, tmp_path):
    from hf_inspect.export import export_student

    with pytest.raises(DataError, match=r"was made of 12 bits of 16-bit images, the student .* of 8-bit images alone"):
        export_student(tiny_edge.student(), tmp_path / "out", data=built, int8=False)


def test_an_evaluation_takes_images_as_large_as_the_data_set(built, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(built, copy)
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(
        text.replace('"max_pixels": 100000000,\n    "notes"', '"max_pixels": 1119,\n    "notes"')
    )
    assert read_reading(copy) == Reading(12, 1119)
    with pytest.raises(DataError, match=r"None of the .* images of .* could be read"):
        scoring.run({"edge": Seeing(Reading(12))}, copy, "test", tmp_path / "scores.jsonl")


def test_what_is_stated_of_a_reading_is_checked():
    assert Reading.from_dict(None, "x") == Reading()
    assert Reading.from_dict({"bits": 12, "max_pixels": 5, "notes": {}}, "x") == Reading(12, 5)
    for wrong in ({}, {"bits": 12}, [], "12", {"bits": "12", "max_pixels": 5}, {"bits": 12, "max_pixels": 0}):
        with pytest.raises(DataError, match="wanted"):
            Reading.from_dict(wrong, "x")
    assert json.loads(json.dumps(Reading(12, 5).to_dict())) == {"bits": 12, "max_pixels": 5}


def test_every_suffix_is_of_a_format_that_is_read():
    assert len(SUFFIXES) == sum(map(len, FORMATS.values())) == len({*SUFFIXES})
    for fmt, suffixes in FORMATS.items():
        Image.init()
        assert fmt in Image.OPEN
        assert {Image.EXTENSION.get(one) for one in suffixes} <= {fmt, "DIB", "MPO"}
    read = {name.lower()[name.index(".") :] for name, _, _ in zoo.files(BITS)}
    assert read <= SUFFIXES
    assert {".pgm", ".ppm", ".pbm", ".jfif", ".jpe", ".jp2", ".j2k", ".gif", ".avif"} <= read
    assert notes_of([]) == {}

"""Formats of an export: ONNX beside OpenVINO by one Engine and one gate, 8 bits, odd shapes, a kill, and the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.cli import app
from hf_inspect.detectors import Detector, new_detector, training
from hf_inspect.detectors.predictor import state
from hf_inspect.errors import DataError, MissingExtraError, ParityError
from hf_inspect.export import export, export_student
from hf_inspect.export.formats import FORMATS
from hf_inspect.export.layers import Layer, Network, kept_in_float, last_of, of_onnx, of_openvino
from hf_inspect.hub import kind_of, kinds
from hf_inspect.reports import formats as report
from hf_inspect.reports import write_card
from hf_inspect.runtime import INSPECT, MODEL, NETWORKS, ONNX_RUNTIME, TRAINED_ON, Engine, backends
from hf_inspect.runtime import engine as engines
from hf_inspect.schema import DETECTION, TaskSpec
from hf_inspect.tasks.detection import compare
from tests import finders, launch, tiny_edge

SIDE = 160
ONNX = NETWORKS[ONNX_RUNTIME]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images twice as wide as high, of squares that are so too."""
    place = tmp_path_factory.mktemp("wide")
    raw = finders.pictures(place / "raw", 60)
    content = json.loads((raw / "annotations.json").read_text())
    for one in content["images"]:
        image = Image.open(raw / one["file_name"])
        image.resize((2 * one["width"], one["height"]), Image.Resampling.NEAREST).save(raw / one["file_name"])
        one["width"] *= 2
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one |= {"bbox": [2 * x, y, 2 * w, h]}
        one["segmentation"] = [[2 * v if i % 2 == 0 else v for i, v in enumerate(one["segmentation"][0])]]
    (raw / "annotations.json").write_text(json.dumps(content))
    sets.build("coco", place / "data", src=raw, options={"license": "cc0-1.0", "shares": "40/40/0/20"})
    return place / "data"


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A random model for square images; it tells of the tenth that it is surest of."""
    torch.manual_seed(0)
    task = TaskSpec(finders.NAMES[::-1], ("defect",) * 2, DETECTION)
    model = new_detector("random:test_efficientnet", task, SIDE, SIDE, {"channels": 32, "convolutions": 1}).eval()
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.5)
    preprocess, decoding = training.settings_of(model)
    rgbs = validation(data)
    scores = [f.score for one in Detector(model, tmp_path_factory.mktemp("no")).predict(rgbs) for f in one.findings]
    state(model, task, preprocess, replace(decoding, told=float(np.quantile(scores, 0.9))), sets.read_reading(data))
    out = tmp_path_factory.mktemp("model") / "detector"
    model.save_pretrained(out)
    sets.write_history(out, sets.record_history(data, {"train": None}))
    return out


@pytest.fixture(scope="module")
def exported(folder, data, tmp_path_factory):
    """The model as OpenVINO and as ONNX, by the command."""
    place = tmp_path_factory.mktemp("export")
    for to in FORMATS:
        given = ["export", str(folder), "--to", to, "--calibrate", str(data), "--out", str(place / to)]
        said = CliRunner().invoke(app, given)
        assert said.exit_code == 0, said.exception
    return place


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The students' classifier as ONNX in 8 bits."""
    out = tmp_path_factory.mktemp("student") / "edge"
    return out, export_student(tiny_edge.student(), out, data=tiny_edge.data(), int8=True, to="onnx")


def validation(data):
    reading = sets.read_reading(data)
    return [images.load(one["bytes"], reading).rgb for one in sets.load_split(data, "validation")["image"]]


def test_onnx_finds_what_the_model_finds(exported, folder, data):
    import onnx

    out, detector, rgbs = exported / "onnx", Detector.from_pretrained(folder), validation(data)
    assert {path.name for path in out.iterdir()} == {ONNX, INSPECT, TRAINED_ON, files.MARKER}
    info = files.read_json(out / INSPECT)
    assert (info["runtime"], set(info["files"])) == ("onnxruntime", {ONNX, TRAINED_ON})
    assert [one.version for one in onnx.load(out / ONNX).opset_import] == [20]  # by torch's exporter of today
    assert info["parity"]["lost"]["n"] > 20
    engine = Engine.from_pretrained(out, threads=1)
    together = engine.predict(rgbs)
    other = Engine.from_pretrained(exported / "openvino").predict(rgbs)
    backwards = engine.predict(rgbs[::-1], batch_size=3)[::-1]
    for one in (detector.predict(rgbs), other, backwards):
        changed = compare(engine.task, None, one, together, detector.decoding.told)
        assert (changed["lost"]["k"], changed["lost"]["n"] > 20) == (0, True)
        assert changed["shift"] < 0.1
        assert changed["score"] < 1e-3


def test_no_path_of_this_machine_is_in_the_file(exported):
    content = (exported / "onnx" / ONNX).read_bytes()
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_an_onnx_folder_runs_without_torch_and_openvino(exported, data, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(validation(data)[0]).save(path)
    script = tmp_path / "edge.py"
    script.write_text(
        "import sys; from hf_inspect.runtime import Engine\n"
        "print(Engine.from_pretrained(sys.argv[1]).predict([sys.argv[2]])[0].severity)\n"
        "assert not {'torch', 'transformers', 'datasets', 'openvino'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, script, exported / "onnx", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = Engine.from_pretrained(exported / "openvino").predict([path])[0].severity
    assert float(done.stdout) == pytest.approx(said, abs=1e-4)


def test_a_folder_of_onnx_is_a_detector_s_with_a_card(exported, tmp_path):
    assert kind_of(exported / "onnx") is kinds.DETECTOR
    assert set(kinds.deciding_files(exported / "onnx", kinds.DETECTOR)) == {ONNX, INSPECT, TRAINED_ON}
    own = shutil.copytree(exported / "onnx", tmp_path / "onnx")  # others look at what an export wrote
    text = write_card(own).read_text()
    assert "library_name: onnx" in text
    assert "An ONNX Runtime export (FP32)" in text


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"runtime": "tensorrt"}, DataError, "is for 'tensorrt'; this version runs openvino and onnxruntime"),
        ({"runtime": "openvino"}, DataError, f"names no SHA-256 of {MODEL}"),
        ({"preprocess": {"height": 96}}, DataError, r"maps \[\?,3,160,160\] to .*wants \[\?,3,96,160\]"),
        ({"task": TaskSpec(("a", "b", "c"), ("defect",) * 3, DETECTION).to_dict()}, DataError, r"\[\?,\?,3\] and"),
    ],
)
def test_an_onnx_folder_that_is_not_as_it_was_written_is_refused(exported, tmp_path, changes, error, said):
    info = files.read_json(exported / "onnx" / INSPECT)
    for name in (ONNX, TRAINED_ON):
        os.link(exported / "onnx" / name, tmp_path / name)
    merged = {key: info.get(key, {}) | one if isinstance(one, dict) else one for key, one in changes.items()}
    files.write_json(tmp_path / INSPECT, info | merged)
    with pytest.raises(error, match=said):
        Engine.from_pretrained(tmp_path)


def test_damaged_onnx_is_a_sentence(exported, tmp_path, monkeypatch):
    info = files.read_json(exported / "onnx" / INSPECT)
    (tmp_path / TRAINED_ON).write_bytes((exported / "onnx" / TRAINED_ON).read_bytes())
    (tmp_path / ONNX).write_bytes((exported / "onnx" / ONNX).read_bytes()[:5000])
    files.write_json(tmp_path / INSPECT, info)
    with pytest.raises(ParityError, match="is not the file"):
        Engine.from_pretrained(tmp_path)
    info["files"][ONNX] = files.sha256(tmp_path / ONNX)
    files.write_json(tmp_path / INSPECT, info)
    with pytest.raises(DataError, match="does not run on ONNX Runtime"):
        Engine.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[onnx\]'"):
        Engine.from_pretrained(tmp_path)


def test_threads_limit_onnx_runtime(exported, monkeypatch):
    import onnxruntime

    seen = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, **more):
            seen.append(options.intra_op_num_threads)
            super().__init__(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    Engine.from_pretrained(exported / "onnx", threads=1)
    Engine.from_pretrained(exported / "onnx")
    assert seen == [1, 0]


def test_a_student_is_gated_in_8_bits_as_onnx(student):
    out, parity = student
    info = files.read_json(out / INSPECT)
    assert (info["runtime"], info["weights"]) == ("onnxruntime", "int8")
    assert parity["limits"]["flips"] == 0.01
    assert parity["max_change"] > 1e-4, "the weights are not quantized"
    contents = [one["bytes"] for one in sets.load_split(tiny_edge.data(), "validation")["image"]]
    own, fp32 = (Engine.from_pretrained(at).predict(contents) for at in (out, tiny_edge.exported(int8=False)))
    flips = sum((a.severity > 0.5) != (b.severity > 0.5) for a, b in zip(own, fp32, strict=True))
    assert flips == parity["flips"]["k"] <= 1


# What stays in float.


def test_what_only_outputs_come_of_stays_in_float():
    """The last layer with weights on each way out and what follows it; what an output and a layer share does not."""
    layers = (
        Layer("stem", "Conv", (), 40), Layer("dw", "Conv", ("stem",), 20, depthwise=True),
        Layer("shared", "Conv", ("dw",), 20), Layer("relu", "Relu", ("shared",)), Layer("tower", "Conv", ("relu",), 20),
        Layer("cls", "Conv", ("tower",), 20), Layer("sigmoid", "Sigmoid", ("cls",)), Layer("box", "MatMul", ("relu",)),
        Layer("scale", "Mul", ("box", "sigmoid")), Layer("exp", "Exp", ("scale",)),
    )  # fmt: skip
    network = Network(layers, ("sigmoid", "exp"), 80)
    assert set(last_of(network)) == {"cls", "sigmoid", "box", "scale", "exp"}
    assert set(kept_in_float(network)) == {"stem", "dw"}


def test_both_formats_have_the_same_layers(exported):
    """Of one network: as many convolutions, of the same kinds, as many of them kept for the same reasons."""
    import onnx
    import openvino

    one = of_openvino(openvino.Core().read_model(exported / "openvino" / MODEL))
    two = of_onnx(onnx.load(exported / "onnx" / ONNX))
    assert one.height == two.height == SIDE
    counts = []
    for network in (one, two):
        convolutions = {layer.name for layer in network.layers if "Conv" in layer.kind and "Convert" not in layer.kind}
        last = convolutions & set(last_of(network))
        counts.append((len(convolutions), len(convolutions & set(kept_in_float(network))), len(last)))
    assert counts[0] == counts[1]
    assert counts[0][2] == 15  # class, box and centre at five strides
    assert 0 < counts[0][1] < counts[0][0] - 15


def test_last_layers_stay_in_float_in_its_file(folder, data, tmp_path):
    import openvino

    export(folder, tmp_path / "edge", data=data, int8=True)
    network = of_openvino(openvino.Core().read_model(tmp_path / "edge" / MODEL))
    by_name = {layer.name: layer for layer in network.layers}
    last = [by_name[name] for name in last_of(network)]
    beside = [by_name[name].kind for layer in last for name in layer.inputs if name in by_name]
    assert sum(layer.kind == "FakeQuantize" for layer in network.layers) > 10
    assert "FakeQuantize" not in {layer.kind for layer in last} | set(beside)


# The gate sees images that are not square, and a kill leaves nothing.


def test_an_export_that_is_wrong_on_wide_images_alone_is_refused(folder, data, tmp_path, monkeypatch):
    own = images.prepare
    monkeypatch.setattr(engines, "prepare", lambda rgb, how: own(np.ascontiguousarray(rgb[:, : rgb.shape[0]]), how))
    with pytest.raises(ParityError, match="Nothing was written"):
        export(folder, tmp_path / "edge", data=data)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_nothing_that_loads_and_starts_again(folder, data, tmp_path):
    out, command = tmp_path / "edge", [BIN / "hf-inspect", "export", folder, "--calibrate", data, "--out"]
    said = tmp_path / "said"
    said.mkdir()
    process = launch.started([*command, out], {}, said / "out", said / "err")
    until = time.monotonic() + 120
    while not list(tmp_path.glob(f".edge.*/new/{MODEL}")):  # the stage, as it is being written
        assert process.is_alive(), (said / "err").read_text()
        assert time.monotonic() < until
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    left = [path for path in tmp_path.iterdir() if path != said]
    assert left, "what was being written is gone already"
    with pytest.raises(DataError, match="is not a folder"):
        Engine.from_pretrained(out)
    again = launch.script([*command, out])
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {"edge", "said"}
    assert Engine.from_pretrained(out).info["parity"]["lost"]["k"] == 0


@pytest.mark.parametrize(
    ("to", "said"), [("tensorrt", "trtexec"), ("tflite", "LiteRT"), ("coreml", "is not known; give openvino, onnx")]
)
def test_what_cannot_be_written_here_is_said(to, said, folder, data, tmp_path):
    given = ["export", str(folder), "--to", to, "--calibrate", str(data), "--out", str(tmp_path / "edge")]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


# The report.


def test_formats_stand_side_by_side(exported, data, tmp_path):
    out, plot = tmp_path / "formats.json", tmp_path / "formats.png"
    given = ["eval", "formats", *(str(exported / to) for to in FORMATS), "--data", str(data), "--out", str(out)]
    done = CliRunner().invoke(app, [*given, "--images", "17", "--threads", "1", "--plot", str(plot)])
    assert done.exit_code == 0, done.exception
    found = files.read_json(out)["formats"]
    assert [one["runtime"] for one in found.values()] == ["openvino", "onnxruntime"]
    for (name, one), to in zip(found.items(), FORMATS, strict=True):
        assert one["batches"].keys() == {"1", "8"}
        for batch in one["batches"].values():
            assert 0 < batch["p50"] <= batch["p95"]
        assert one["size"] == sum((exported / to / name).stat().st_size for name in FORMATS[to].files)
        assert one["peak_memory"] > 2e7
        assert one["load"] > 0
        parity = files.read_json(exported / to / INSPECT)["parity"]
        assert one["quality"]["value"] == parity["map"]["after"]["map"]
        assert name in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_report_of_other_data_or_of_too_little_is_refused(exported, data, student, tmp_path):
    with pytest.raises(DataError, match="was judged by other data"):
        report.compare_formats([student[0]], data)
    with pytest.raises(DataError, match="give 8 or more"):
        report.compare_formats([exported / "onnx"], data, images=7)
    with pytest.raises(DataError, match="came twice"):
        report.compare_formats([exported / "onnx"] * 2, data)


def test_a_folder_that_cannot_be_measured_is_named(exported, data, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(DataError, match="onnx could not be measured"):
        report.compare_formats([exported / "onnx"], data, images=8)


def test_shapes_are_compared_length_by_length():
    assert backends.fits(None, [1, 2])
    assert backends.fits([-1, 3], [8, 3])
    assert backends.fits([8, 3], [-1, 3])
    assert not backends.fits([8, 3], [8, 4])
    assert not backends.fits([8, 3, 1], [8, 3])

"""An anomaly model's export: the same answers and maps by the torch-free engine, or nothing."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hf_inspect import Engine, files
from hf_inspect.anomaly import AnomalyDetector, Settings, fit
from hf_inspect.cli import app
from hf_inspect.data import load_split
from hf_inspect.errors import DataError, ParityError
from hf_inspect.export import anomaly, export
from hf_inspect.images import load
from tests import tiny_anomaly
from tests.tiny_anomaly import RANDOM, SIDE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), {"grid": (24, 8, 8), "wood": (12, 4, 4)})


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "grid"
    fit(Settings(RANDOM, ("blocks.1", "blocks.2"), SIDE, pool=2, keep=0.95, smooth=2.0), data, "grid").save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "edge"
    return out, export(model, out, data=data, category="grid")


def test_the_engine_answers_and_shows_as_the_model_does(model, data, exported):
    out, said = exported
    shown = [load(row["bytes"]).rgb for row in load_split(data, "grid/test")["image"]]
    engine, detector = Engine.from_pretrained(out), AnomalyDetector.from_pretrained(model)
    assert engine.task == detector.task
    one, two = detector.predict(shown), engine.predict(shown)
    np.testing.assert_allclose([x.severity for x in two], [x.severity for x in one], atol=1e-4)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b.map, a.map, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([x.severity for x in engine.predict(shown, 3)], [x.severity for x in two], atol=1e-5)
    assert "0 of 24 images of grid/train change their side" in said
    assert engine.history == detector.history
    assert files.read_json(out / "inspect.json")["parity"]["maps"] > 0.9999


def test_the_engine_needs_no_torch(exported, data, tmp_path):
    picture = tmp_path / "part.png"
    picture.write_bytes(load_split(data, "grid/test")[0]["image"]["bytes"])
    code = (
        "import sys; from hf_inspect import Engine; "
        f"said = Engine.from_pretrained({str(exported[0])!r}).predict([{str(picture)!r}])[0]; "
        "print(said.map.shape, sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"({SIDE}, {SIDE}) []\n", done.stderr


def test_the_command_exports_what_the_function_does(model, data, exported, tmp_path):
    given = ["export", str(model), "--calibrate", str(data), "--category", "grid", "--out", str(tmp_path / "edge")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert exported[1] in done.output
    assert files.sha256(tmp_path / "edge" / "openvino_model.bin") == files.sha256(exported[0] / "openvino_model.bin")


def test_an_export_that_answers_otherwise_is_not_written(model, data, tmp_path, monkeypatch):
    described = anomaly._describe

    def other_mean(*arguments):
        return described(*arguments) | {"preprocess": described(*arguments)["preprocess"] | {"mean": [0.0, 0.2, 0.9]}}

    monkeypatch.setattr(anomaly, "_describe", other_mean)
    with pytest.raises(ParityError, match="does not answer as the model does"):
        export(model, tmp_path / "edge", data=data, category="grid")
    assert not (tmp_path / "edge").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"category": "grid", "int8": True}, "leave out --int8"),
        ({"category": "screw"}, "there is no split 'screw/train'"),
        ({}, "several configs have a split 'train'"),
    ],
)
def test_what_cannot_be_exported_is_said(model, data, tmp_path, more, message):
    with pytest.raises(DataError, match=message):
        export(model, tmp_path / "edge", data=data, **more)
    assert not (tmp_path / "edge").exists()

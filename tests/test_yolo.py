"""YOLO students: built offline, trained by the recipe's documented command, exported, run, calibrated, measured."""

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from hf_inspect import images
from hf_inspect.cli import app
from hf_inspect.data import class_ids, load_split, record_history, write_history
from hf_inspect.errors import DataError, HubError, LeakageError, MissingExtraError
from hf_inspect.export import export_student
from hf_inspect.hub import check
from hf_inspect.reports import evaluate_edge, write_card
from hf_inspect.runtime import Engine
from hf_inspect.schema import BINARY
from hf_inspect.students import load_student, new_student, preprocess_of
from hf_inspect.students.yolo import NETWORKS, YoloStudentConfig, yolo_processor
from tests import launch, tiny_edge

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(  # not importorskip: an import of ours sets where Ultralytics writes its settings
    importlib.util.find_spec("ultralytics") is None, reason="the extra `yolo` is not installed"
)
BASE, SIDE = NETWORKS[0], 64
BOTH = "CC-BY-NC-SA-4.0 AND AGPL-3.0"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Ultralytics' settings go into a folder of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(elpv, tmp_path_factory):
    """What the recipe's documented command wrote, on ELPV."""
    out = tmp_path_factory.mktemp("yolo") / "trained"
    arguments = ["--config", "recipes/edge_classifier/tiny_yolo.yaml", "--data", elpv, "--output_dir", out]
    done = launch.recipe("edge_classifier", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def edge(trained, elpv):
    out = trained.parent / "edge"
    export_student(trained, out, data=elpv, int8=False)
    return out


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """A student of the tiny data set of bright squares, trained until its scores spread over [0, 1]."""
    torch.manual_seed(0)
    model = new_student(BASE, SIDE, BINARY)
    rows = load_split(tiny_edge.data(), "train")
    preprocess = preprocess_of(model.config)
    pixels = [images.prepare(images.load(row["bytes"]).rgb, preprocess) for row in rows["image"]]
    inputs, labels = torch.from_numpy(np.stack(pixels)), torch.tensor(class_ids(rows, BINARY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            model(pixel_values=inputs[batch], labels=labels[batch]).loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("sure") / "student"
    model.save_pretrained(folder)
    yolo_processor(model.config).save_pretrained(folder)
    write_history(folder, record_history(tiny_edge.data(), {"train": None}))
    return folder


# The recipe.


def test_the_documented_command_learns_and_writes_nothing_to_unpickle(trained):
    log = json.loads((trained / "training_log.json").read_text())
    losses = [row["loss"] for row in log["history"] if "loss" in row]
    assert np.mean(losses[-6:]) < 0.95 * np.mean(losses[:6])
    assert log["versions"]["ultralytics"].startswith("8.")
    assert {path.name for path in trained.iterdir() if path.is_file()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "trained_on.json",
        "training_log.json",
    }  # fmt: skip


def test_card_and_config_state_both_licences(trained):
    assert json.loads((trained / "config.json").read_text())["licence"] == "AGPL-3.0"
    card = (trained / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["license_name"]) == ("other", "cc-by-nc-sa-4.0-and-agpl-3.0")
    assert "CC-BY-NC-SA-4.0" in card
    assert "AGPL-3.0" in card
    assert load_student(trained).licences == ("CC-BY-NC-SA-4.0", "AGPL-3.0")


def test_a_student_and_its_export_may_be_pushed_under_both_licences(trained, edge, tmp_path):
    for folder in (trained, edge):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
        text = write_card(copy).read_text()
        assert "copyleft over a network, non-commercial, share-alike" in text.lower()
        assert "These licences hold at once" in text
        assert "README.md" in check(copy)
        (copy / "README.md").write_text(text.replace("cc-by-nc-sa-4.0-and-agpl-3.0", "agpl-3.0"))
        with pytest.raises(HubError, match="non-commercial"):
            check(copy)


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo11s.yaml"])
def test_every_config_of_true_size_builds_its_network(name):
    config = yaml.safe_load((ROOT / "recipes/edge_classifier" / name).read_text())
    model = new_student(config["base"], config["side"], BINARY)
    assert config["base"] == name.replace(".yaml", "-cls") == model.config.network
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx({"yolo11n-cls": 1.53, "yolo11s-cls": 5.44}[config["base"]], abs=0.01)
    assert preprocess_of(model.config).height == 288


# The model.


def test_saving_and_loading_changes_no_bit(tmp_path):
    from transformers import AutoModelForImageClassification

    model = new_student(BASE, SIDE, BINARY)
    model.train()(torch.rand(4, 3, SIDE, SIDE))  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.equal(model(pixels).logits, again(pixels).logits)


def test_a_seed_fixes_the_weights_and_ultralytics_initialises_them():
    torch.manual_seed(3)
    first = new_student(BASE, SIDE, BINARY).state_dict()
    torch.manual_seed(3)
    second = new_student(BASE, SIDE, BINARY).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["yolo.model.1.conv.weight"].std() > 0.04, "transformers' own 0.02 took their place"


def test_training_goes_on_from_a_student_s_folder(sure):
    model = new_student(str(sure), 96, BINARY).eval()
    assert model.config.image_size == 96
    pixels = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.equal(model(pixels).logits, load_student(sure).model(pixels).logits)


def test_the_pipeline_of_transformers_answers_as_we_do(sure):
    from PIL import Image
    from transformers import AutoImageProcessor, pipeline

    content = load_split(tiny_edge.data(), "validation")[1]["image"]["bytes"]
    rgb = images.load(content).rgb
    student = load_student(sure)
    ours = images.prepare(rgb, student.preprocess)
    theirs = AutoImageProcessor.from_pretrained(sure)(rgb, return_tensors="np")["pixel_values"][0]
    assert np.abs(ours - theirs).max() < 1.5 / 255  # torchvision rounds its resize differently
    assert ours.min() >= 0
    assert 0.9 < ours.max() <= 1
    with torch.inference_mode():
        p = student.model(torch.from_numpy(ours)[None]).logits.softmax(-1)[0, 1].item()
    found = {a["label"]: a["score"] for a in pipeline("image-classification", str(sure))(Image.fromarray(rgb))}
    assert found["defect"] == pytest.approx(p, abs=0.02)


# Export, engine, cascade.


def severities(folder, contents):
    """P(defect) of an exported folder's engine, an image."""
    return np.array([answer.severity for answer in Engine.from_pretrained(folder).predict(contents)])


@pytest.mark.parametrize("int8", [False, True])
def test_exports_pass_the_gate_and_the_engine_answers_as_torch(sure, int8, tmp_path):
    out = tmp_path / "out"
    report = export_student(sure, out, data=tiny_edge.data(), int8=int8)
    contents = [row["bytes"] for row in load_split(tiny_edge.data(), "validation")["image"]]
    student = load_student(sure)
    pixels = np.stack([images.prepare(images.load(content).rgb, student.preprocess) for content in contents])
    with torch.inference_mode():
        wanted = student.model(torch.from_numpy(pixels)).logits.softmax(-1)[:, 1].numpy()
    assert wanted.min() < 0.2
    assert wanted.max() > 0.8
    change = np.abs(severities(out, contents) - wanted).max()
    assert change == pytest.approx(report["max_change"], abs=1e-5)
    assert (change < 1e-3) is not int8, "FP32 must not differ, INT8 must"
    info = json.loads((out / "inspect.json").read_text())
    assert (info["architecture"], info["licence"]) == (BASE, "cc0-1.0 AND AGPL-3.0")
    assert info["made_with"]["ultralytics"].startswith("8.")
    assert info["preprocess"]["std"] == [1.0, 1.0, 1.0]
    assert len(report["accuracy"]) == 2


def test_optimum_exports_and_opens_it_by_its_own_calls(edge, trained, elpv):
    from optimum.intel import OVModelForImageClassification
    from PIL import Image
    from transformers import AutoImageProcessor

    contents = [row["bytes"] for row in load_split(elpv, "test")[:4]["image"]]
    pictures = [Image.fromarray(images.load(content).rgb) for content in contents]
    inputs = AutoImageProcessor.from_pretrained(edge)(pictures, return_tensors="pt")
    exact = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    for folder, more in ((edge, {}), (trained, {"export": True})):
        model = OVModelForImageClassification.from_pretrained(str(folder), **exact, **more)
        theirs = model(**inputs).logits.softmax(-1)[:, 1].numpy()
        np.testing.assert_allclose(severities(edge, contents), theirs, atol=1e-2)
        assert model.config.id2label == {0: "good", 1: "defect"}


def test_it_calibrates_inspects_and_is_measured(edge, elpv, tmp_path):
    cascade, part, results = tmp_path / "cascade", tmp_path / "part.png", tmp_path / "results.json"
    part.write_bytes(load_split(elpv, "test")[0]["image"]["bytes"])
    for command in (
        ["calibrate", "--edge", edge, "--data", elpv, "--out", cascade],
        ["predict", cascade, part, "--out", tmp_path / "verdicts.jsonl"],
        ["eval", "edge", edge, "--data", elpv, "--out", results],
    ):
        done = CliRunner().invoke(app, [str(word) for word in command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "verdicts.jsonl").read_text())["label"] in {"good", "defect", "undecided"}
    assert json.loads(results.read_text())["edge"]["n"] == 525
    with pytest.raises(LeakageError):
        evaluate_edge(edge, elpv, "validation", tmp_path / "scores.jsonl")
    assert json.loads((edge / "inspect.json").read_text())["licence"] == BOTH


# Weights to start from.


def network_of(classes, name="yolo11n"):
    """Ultralytics' own network, as its checkpoints hold it."""
    new_student(BASE, SIDE, BINARY)  # imports Ultralytics offline
    from ultralytics.nn.tasks import ClassificationModel

    return ClassificationModel(f"{name}-cls.yaml", nc=classes, verbose=False)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_body_comes_from_weights_and_the_head_is_fresh(suffix, tmp_path):
    stored, path = network_of(1000).state_dict(), tmp_path / f"imagenet{suffix}"
    torch.save(stored, path) if suffix == ".pt" else save_file(stored, path)
    model = new_student(BASE, SIDE, BINARY, weights=path, weights_sha256=sha256(path) if suffix == ".pt" else None)
    own = model.yolo.state_dict()
    same = {
        name for name, value in own.items() if value.shape == stored[name].shape and torch.equal(value, stored[name])
    }
    assert own.keys() - same == {"model.10.linear.weight", "model.10.linear.bias"}
    assert own["model.10.linear.weight"].shape == (2, 1280)


class Program:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_refused_unless_known_and_of_tensors_alone(tmp_path):
    path, ran = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save(network_of(2).state_dict(), path)
    with pytest.raises(DataError, match=r"weights\.pt is a pickle.*give the SHA-256 its source states"):
        new_student(BASE, SIDE, BINARY, weights=path)
    with pytest.raises(DataError, match=rf"has SHA-256 {sha256(path)}, wanted 0{{64}}"):
        new_student(BASE, SIDE, BINARY, weights=path, weights_sha256="0" * 64)
    torch.save({"model": network_of(2)}, path)  # as Ultralytics saves
    whole = path.read_bytes()
    for content in (whole, whole[:-1000], pickle.dumps(Program(ran))):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"holds more than tensors .* save its weights alone: torch\.save"):
            new_student(BASE, SIDE, BINARY, weights=path, weights_sha256=sha256(path))
    assert not ran.exists()


def test_other_wrong_weights_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        new_student(BASE, SIDE, BINARY, weights=path)
    save_file(network_of(2, "yolo11s").state_dict(), path)
    with pytest.raises(DataError, match=r"does not fit yolo11n-cls: \d+ tensors differ, such as model\.0"):
        new_student(BASE, SIDE, BINARY, weights=path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="no whole safetensors file"):
        new_student(BASE, SIDE, BINARY, weights=path)


def test_settings_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(DataError, match="takes no drop_path_rate"):
        new_student(BASE, SIDE, BINARY, {"drop_path_rate": 0.1})
    with pytest.raises(
        DataError, match="weights are for a base like yolo11n-cls; random:test_efficientnet brings its own"
    ):
        new_student("random:test_efficientnet", SIDE, BINARY, weights=tmp_path / "x.safetensors")


# Ultralytics itself.


def test_a_network_by_another_name_is_refused():
    from transformers import AutoModelForImageClassification

    with pytest.raises(DataError, match=r"'\.\./evil' came; wanted is one of yolo11n-cls"):
        AutoModelForImageClassification.from_config(YoloStudentConfig("../evil"))


def test_without_the_extra_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[yolo\]'"):
        new_student(BASE, SIDE, BINARY)


def test_ultralytics_stays_offline_in_our_cache_and_leaves_the_process_alone(tmp_path):
    code = """
import os, socket, cv2, numpy, torch
def refuse(*arguments): raise SystemExit(f"a socket: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
from PIL import Image
before = torch.save, Image.open, cv2.getNumThreads(), numpy.get_printoptions()
from hf_inspect.schema import BINARY
from hf_inspect.students import new_student
new_student("yolo11n-cls", 64, BINARY)
assert before == (torch.save, Image.open, cv2.getNumThreads(), numpy.get_printoptions())
assert "OMP_NUM_THREADS" not in os.environ
"""
    (tmp_path / "yolo11n-cls.yaml").write_text("activation: exit(3)\n")  # never Ultralytics' own YAML
    home = {"HOME": str(tmp_path / "home"), "HF_INSPECT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=kept | home, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"yolo11n-cls.yaml", "cache/ultralytics/Ultralytics/settings.json"}

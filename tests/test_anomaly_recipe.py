"""The anomaly recipe, a model a category: its table, what it leaves alone, and a kill that changes no bit."""

import json
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_inspect import files
from hf_inspect.anomaly import AnomalyDetector, categories
from hf_inspect.anomaly.network import check_layers, new_network
from hf_inspect.anomaly.pretext import Pretext
from hf_inspect.errors import DataError
from hf_inspect.hub import check, kind_of, kinds
from hf_inspect.reports import evaluate_anomaly, write_card
from hf_inspect.training import parsed
from tests import launch, tiny_anomaly

COUNTS = {"grid": (24, 4, 6), "wood": (16, 4, 6)}


RECIPES = Path(__file__).parent.parent / "recipes/anomaly"
TRUE_SIZE = {
    "elpv": ("elpv", ["blocks.6"]),
    "elpv_simsiam": ("elpv", ["blocks.6"]),
    "elpv_cutpaste": ("elpv", ["blocks.6"]),
    "mvtec": ("mvtec_ad", ["blocks.4", "blocks.6"]),
    "mvtec_simsiam_reference": ("mvtec_ad", ["layer3"]),
    "mvtec_cutpaste_reference": ("mvtec_ad", ["layer3"]),
}
SHAPES = {"timm/resnet50.a1_in1k": "random:resnet50"}  # of weights that are on the Hub alone
REFERENCE = {  # the reference kit's, of IntelAI/transfer-learning 0ab4d0e
    "simsiam": {"learning_rate": 0.1718 * 32 / 256, "projection": 1000, "prediction": 250, "weight_decay": 1e-4},
    "cutpaste": {"learning_rate": 0.03, "head": [512, 512, 128], "area": [0.02, 0.15], "weight_decay": 3e-5},
}


def arguments(data, out, *more):
    return ["--config", "recipes/anomaly/tiny.yaml", "--data", data, "--output_dir", out, *more]


def run(data, out, *more):
    return launch.recipe("anomaly", *arguments(data, out, *more))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), COUNTS)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "models"
    done = run(data, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def weights(out):
    return {name: files.sha256(out / name / "model.safetensors") for name in COUNTS}


def test_every_category_has_a_model_and_a_row(fitted):
    out, said = fitted
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["grid", "wood"]
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ") and "category" not in line]
    assert [row[0] for row in rows] == ["| grid", "| wood"]
    assert int(rows[0][1]) + int(rows[0][2]) == 24
    assert "share of" in rows[0][5]
    names = {path.name for path in (out / "grid").iterdir()} - {files.MARKER}
    assert names == {"README.md", "config.json", "model.safetensors", "trained_on.json", "training_log.json"}
    assert AnomalyDetector.from_pretrained(out / "wood").history.sources[0].images == 16


def test_what_was_fitted_and_measured_has_its_card_and_may_be_pushed(fitted, data, tmp_path):
    model = Path(shutil.copytree(fitted[0] / "grid", tmp_path / "grid"))
    unmeasured = (model / "README.md").read_text()
    for said in (
        "Not measured on a test split yet",
        "Anomaly model on test_efficientnet, grid",
        "share of",
        "CC-BY-NC",
    ):
        assert said in unmeasured, said
    results, _ = evaluate_anomaly(model, data, "grid/test", tmp_path / "s.jsonl")
    files.write_json(model / "results.json", results)
    card = write_card(model).read_text()
    assert "AUPRO up to 30 %" in card
    named = {one.metric_name: one.metric_value for one in ModelCard(card).data.eval_results}
    assert named == {
        "AUROC": results["anomaly"]["auroc"]["value"],
        "average precision": results["anomaly"]["average_precision"]["value"],
    }
    assert kind_of(model) is kinds.ANOMALY
    assert "results.json" in check(model)


def test_what_is_finished_is_left_alone_and_other_settings_are_refused(fitted, data, tmp_path):
    out, said = fitted
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run(data, out, "--batch", "3")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout == said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    other = run(data, out, "--pool", "1")
    assert other.returncode == 1
    assert "was made from something else (pool 2 there, 1 here)" in other.stderr


def test_a_killed_fit_goes_on_by_category_to_the_same_bits(fitted, data, tmp_path):
    whole, out = weights(fitted[0]), tmp_path / "models"
    said = tmp_path / "out", tmp_path / "err"
    given = ["recipes/anomaly/train.py", *arguments(data, out)]
    process = launch.started(given, launch.ON_A_CPU, *said)
    while not (out / "grid" / "training_log.json").exists() and process.exitcode is None:
        time.sleep(0.01)
    process.kill()  # in the second category, or at its begin
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    first = (out / "grid" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(out / "wood", ignore_errors=True)  # where it was too quick to be killed
    done = run(data, out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "grid" / "model.safetensors").stat().st_mtime_ns == first
    assert weights(out) == whole


def test_one_data_set_without_categories_is_one_model(tmp_path):
    plain = tiny_anomaly.built_parts(tmp_path, 40, 20)
    assert categories(plain) == {"": ""}
    done = run(plain, tmp_path / "model", "--score", "mahalanobis")
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((tmp_path / "model" / "training_log.json").read_text())
    assert log["recipe"]["score"] == "mahalanobis"
    assert log["ran"]["meaning"].startswith("P(defect), set on")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--only", "screw"), "has no category 'screw' to fit to; it has grid, wood"),
        (("--layers", "layer3"), "There is no layer 'layer3'; the network has conv_stem"),
        (("--mood", "1"), "these settings cannot be used"),
    ],
)
def test_what_cannot_be_is_one_sentence(data, tmp_path, more, message):
    done = run(data, tmp_path / "models", *more)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "models").rglob("*.safetensors")]


def test_the_settings_of_true_size_are_read_and_their_layers_are_there(monkeypatch):
    given = runpy.run_path(str(RECIPES / "train.py"))
    read = {}
    for path in set(RECIPES.glob("*.yaml")) - {RECIPES / "elpv_few_shot.yaml"}:
        monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(path)])
        read[path.stem] = parsed(given["AnomalyArguments"], given["PretextArguments"])
    assert set(read) == {"tiny", "tiny_simsiam", "tiny_cutpaste", *TRUE_SIZE}
    for name, (data, layers) in TRUE_SIZE.items():
        chosen, training = read[name]
        assert (chosen.data.name, chosen.layers) == (data, layers)
        network, _ = new_network(SHAPES.get(chosen.base, chosen.base), 64)
        check_layers(network, tuple(layers))
        if training.pretext != "none":
            Pretext(training.pretext, tuple(layers), 64, area=tuple(training.area), min_crop=training.min_crop)
    assert len({training.output_dir for _, training in read.values()}) == len(read)
    for kind, wanted in REFERENCE.items():
        _, training = read[f"mvtec_{kind}_reference"]
        assert all(getattr(training, name) == pytest.approx(value) for name, value in wanted.items())
        assert (training.optim, training.optim_args) == ("sgd", "momentum=0.9")


def test_a_data_set_without_train_is_refused(tmp_path):
    files.write_json(tmp_path / "manifest.json", {"counts": {"default": {"test": {"good": 1}}}})
    with pytest.raises(DataError, match="has no train split"):
        categories(tmp_path)

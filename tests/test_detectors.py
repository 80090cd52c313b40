"""Detection models: what they learn, that training and runtime see alike, and that no export may find otherwise."""

import json
import runpy
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect import training as runs
from hf_inspect.cli import app
from hf_inspect.detectors import Detector, new_detector, training
from hf_inspect.detectors.augment import augmentation, sample_of
from hf_inspect.detectors.labels import relabelled
from hf_inspect.detectors.predictor import state
from hf_inspect.errors import DataError, ParityError
from hf_inspect.export import detector as exporting
from hf_inspect.export import export
from hf_inspect.reports import evaluate_detect
from hf_inspect.runtime import INSPECT, Engine
from hf_inspect.schema import BINARY, DETECTION, SEGMENTATION, History, TaskSpec
from hf_inspect.tasks.detection import Decoding, compare
from hf_inspect.training import newest_whole_checkpoint
from tests import finders, launch

SIDE, STEPS = 160, 70
TINY = ["--config", "recipes/edge_detector/tiny.yaml"]
SMALL = {"channels": 32, "convolutions": 1}
DETR = {
    "encoder_hidden_dim": 32, "feat_strides": [8, 16, 32], "encoder_layers": 1, "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "d_model": 32, "num_queries": 20, "decoder_in_channels": [32] * 3,
    "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "num_denoising": 5,
    "encoder_in_channels": [8] * 3,
    "backbone_config": {
        "model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4,
        "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"], "hidden_act": "relu",
    },
}  # fmt: skip
D_FINE = {
    "encoder_in_channels": [16] * 3,
    "backbone_config": {
        "model_type": "hgnet_v2", "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8] * 4, "stage_out_channels": [16] * 4, "stage_num_blocks": [1] * 4,
        "stage_numb_of_layers": [1] * 4, "embedding_size": 8, "hidden_sizes": [16] * 4, "depths": [1] * 4,
        "out_features": ["stage2", "stage3", "stage4"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("boxes"), 90, shares="55/20/0/25")


@pytest.fixture(scope="module")
def task(data):
    return replace(sets.read_objects(data), kind=DETECTION)


@pytest.fixture(scope="module")
def rows(data):
    return sets.load_split(data, "train")


@pytest.fixture(scope="module")
def folder(data, task, rows, tmp_path_factory):
    """A tiny model that has learned the squares of `finders`, its outputs in another order than the data's."""
    torch.manual_seed(0)
    other = TaskSpec(task.classes[::-1], task.dispositions[::-1], DETECTION)
    model = new_detector("random:test_efficientnet", other, SIDE, SIDE, SMALL)
    preprocess, _ = training.settings_of(model)
    ids = [other.index(name) for name in training.names_of(rows)]
    found = training.to_inputs(rows[:], preprocess, ids)
    batch = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=4e-3), np.random.default_rng(0)
    model.train()
    for _ in range(STEPS):
        chosen = [batch[i] for i in rng.choice(len(batch), 8, replace=False)]
        loss = model(**training.collate(chosen, preprocess)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    training.set_thresholds(model, data, sets.read_reading(data), other)
    out = tmp_path_factory.mktemp("model") / "detector"
    model.save_pretrained(out)
    sets.write_history(out, sets.record_history(data, {"train": None, "validation": None}))
    return out


@pytest.fixture(scope="module")
def detector(folder):
    return Detector.from_pretrained(folder)


@pytest.fixture(scope="module")
def exported(folder, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "edge"
    return out, export(folder, out, data=data)


def validation(data):
    rows, reading = sets.load_split(data, "validation"), sets.read_reading(data)
    return [images.load(image["bytes"], reading).rgb for image in rows["image"]]


def test_it_finds_what_it_learned_and_says_so_by_name(data, exported, tmp_path):
    out, said = exported
    results, _ = evaluate_detect(out, data, "test", tmp_path / "scores.jsonl")
    assert results["detection"]["ap50"]["value"] > 0.5
    assert results["detection"]["auroc"]["value"] > 0.8  # of whole images, by the surest square
    assert said.startswith("0 of ")


def test_severity_is_the_probability_of_a_defect_where_validation_has_both(detector):
    assert detector.task.score is not None
    assert str(detector.task.score).startswith("P(defect), set on")
    assert 0 < detector.decoding.told < 1
    assert -20 < detector.task.score.intercept < 20  # nothing found is a low score, and no outlier of the fit
    black = np.zeros((finders.SIDE, finders.SIDE, 3), np.uint8)
    assert detector.predict([black])[0].severity < 0.5


def test_an_earlier_model_keeps_how_it_sees_and_what_its_outputs_mean(folder, detector, task, tmp_path):
    """Its body learned from values of its own mean and std; its classes stand in another order than the data's."""
    info = files.read_json(folder / "config.json")
    info["inspection_preprocess"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    shutil.copytree(folder, tmp_path / "model")
    files.write_json(tmp_path / "model" / "config.json", info)
    model = new_detector(str(tmp_path / "model"), task, SIDE + 32, SIDE)
    preprocess, decoding = training.settings_of(model)
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocess.height, preprocess.width) == (SIDE + 32, SIDE)
    assert decoding.told == 0.5  # fitted anew
    assert detector.task.classes == task.classes[::-1] == training.task_of(model).classes
    kept = model.head.classification_head.cls_logits.weight
    assert torch.equal(kept, detector.model.head.classification_head.cls_logits.weight)
    green = TaskSpec(("green", "red"), task.dispositions, DETECTION)
    assert training.task_of(new_detector(str(folder), green, SIDE, SIDE)).classes == green.classes


def test_neither_batch_nor_order_nor_saving_changes_what_is_found(folder, detector, data):
    rgbs = validation(data)[:5]
    together = detector.predict(rgbs)
    alone = [detector.predict([rgb])[0] for rgb in rgbs]
    backwards = detector.predict(rgbs[::-1], batch_size=2)[::-1]
    again = Detector.from_pretrained(folder).predict(rgbs)
    assert again == together
    for other in (alone, backwards):
        changed = compare(detector.task, None, together, other, 0.3)
        assert (changed["lost"]["k"], round(changed["shift"], 2), round(changed["score"], 3)) == (0, 0, 0)


def test_a_model_takes_pixels_and_no_prompt(detector):
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(TypeError, match="input_ids"):
        detector.model(pixel_values=pixels, input_ids=torch.zeros(1, 4, dtype=torch.long))


def test_training_and_runtime_see_one_image(rows, task, detector, tmp_path):
    """What the trainer stacks is what `images.prepare` gives the edge; and so does what varies nothing."""
    ids = [task.index(name) for name in training.names_of(rows)]
    found = training.to_inputs(rows[:2], detector.preprocess, ids)
    stacked = training.collate([{"pixel_values": p, "labels": {}} for p in found["pixel_values"]], detector.preprocess)
    for image, pixels in zip(rows[:2]["image"], stacked["pixel_values"], strict=True):
        np.testing.assert_allclose(
            pixels.numpy(), images.prepare(images.load(image["bytes"]).rgb, detector.preprocess), atol=1e-6
        )
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 255, (20, 24, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    nothing = {"bbox": [], "category": [], "polygons": [], "iscrowd": []}
    torch.manual_seed(3)
    table = tmp_path / "still.yaml"
    table.write_text("always: {}\ncharacteristics: {}\nenvironments: {}\n")
    still = augmentation([], [], "low", SIDE, SIDE, table)(sample_of(rgb, nothing, ids))["image"]
    want = images.resize(rgb, detector.preprocess)
    assert (still.permute(1, 2, 0).numpy() == want).all()


def test_the_order_of_classes_is_the_task_s_not_the_data_s(rows, task, detector):
    names = training.names_of(rows)
    own = training.to_inputs(rows[:8], detector.preprocess, [task.index(name) for name in names])
    other = training.to_inputs(rows[:8], detector.preprocess, [detector.task.index(name) for name in names])
    for a, b in zip(own["labels"], other["labels"], strict=True):
        assert [task.classes[i] for i in a["class_labels"]] == [detector.task.classes[i] for i in b["class_labels"]]
        assert (a["boxes"] == b["boxes"]).all()


def test_the_edge_finds_what_the_model_finds(exported, detector, data):
    out, _ = exported
    rgbs = validation(data)
    wide = [np.ascontiguousarray(rgb[: len(rgb) // 2]) for rgb in rgbs[:4]]  # images are not square
    engine, told = Engine.from_pretrained(out), detector.decoding.told
    changed = compare(detector.task, None, detector.predict(rgbs + wide), engine.predict(rgbs + wide), told)
    assert changed["lost"] == {"k": 0, "n": changed["lost"]["n"]}
    assert changed["lost"]["n"] > 20
    assert changed["shift"] < 0.1
    assert changed["score"] < 1e-3
    parity = files.read_json(out / INSPECT)["parity"]
    assert parity["map"]["after"]["map"] == pytest.approx(parity["map"]["before"]["map"], abs=1e-4)


def shifted(monkeypatch, by):
    """Exports whose boxes lie `by` shares of the image further right."""
    from hf_inspect.detectors import families

    own = families.FAMILIES["inspection_fcos"]

    def answers(model, pixel_values):
        scores, boxes = own.answers(model, pixel_values)
        return scores, boxes + by

    class Moved:
        def __getattr__(self, name):
            return answers if name == "answers" else getattr(own, name)

    monkeypatch.setattr(exporting, "family_of", lambda config: Moved())


def test_an_export_that_moves_boxes_is_not_written(folder, data, tmp_path, monkeypatch):
    shifted(monkeypatch, 2 / finders.SIDE)
    with pytest.raises(ParityError, match=r"a shift of \d.* pixels \(limit 1\)"):
        export(folder, tmp_path / "edge", data=data)
    assert not (tmp_path / "edge").exists()


def test_eight_bits_are_judged_by_map(folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAP_FALL", 1.0)
    given = ["export", str(folder), "--calibrate", str(data), "--int8", "--out", str(tmp_path / "edge")]
    said = CliRunner().invoke(app, given)
    assert "AP50" in said.output, said.exception
    info = files.read_json(tmp_path / "edge" / INSPECT)
    report = info["parity"]
    assert (info["weights"], report["limits"]) == ("int8", {"map_fall": 1.0})
    before = report["map"]["before"] | {"map": report["map"]["after"]["map"] + 0.011}
    worse = report | {"map": report["map"] | {"before": before}, "limits": {"map_fall": 0.01}}
    with pytest.raises(ParityError, match="mAP falls from"):
        exporting._refuse_beyond(worse, folder)
    exporting._refuse_beyond(worse | {"limits": {"map_fall": 0.012}}, folder)
    masks = {"before": {"map": 0.5}, "after": {"map": 0.48}}
    with pytest.raises(ParityError, match="mAP of masks falls from"):
        exporting._refuse_beyond(worse | {"limits": {"map_fall": 0.012}, "map_masks": masks}, folder)
    with pytest.raises(ParityError, match=r"a mask overlaps its own by 0\.940 alone"):
        exporting._refuse_beyond(worse | {"limits": {"iou": 0.95}, "iou": 0.94}, folder)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda data, folder, out: new_detector("random:test_efficientnet", BINARY, SIDE, SIDE), "finds things"),
        (lambda data, folder, out: new_detector("random:test_efficientnet", finders.task_of(False), 100, SIDE), "mult"),
        (lambda data, folder, out: new_detector("random:test_efficientnet", finders.task_of(False), 128, SIDE), "mult"),
        (lambda data, folder, out: new_detector("nowhere", finders.task_of(False), SIDE, SIDE), "no such folder"),
        (lambda data, folder, out: Detector.from_pretrained(data), "config.json"),
        (lambda data, folder, out: export(folder, out, data=data, category="x"), "knows no category"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(make, said, data, folder, tmp_path):
    with pytest.raises(DataError, match=said):
        make(data, folder, tmp_path / "out")


def test_data_that_show_other_things_are_refused(folder, tmp_path):
    raw = finders.pictures(tmp_path / "raw", 30)
    content = json.loads((raw / "annotations.json").read_text())
    content["categories"][0]["name"] = "green"
    (raw / "annotations.json").write_text(json.dumps(content))
    sets.build("coco", tmp_path / "data", src=raw, options={"license": "cc0-1.0", "shares": "40/30/0/30"})
    with pytest.raises(DataError, match="different questions"):
        export(folder, tmp_path / "edge", data=tmp_path / "data")


def test_a_class_that_no_image_shows_is_said_before_a_step(rows, task):
    more = TaskSpec((*task.classes, "green"), (*task.dispositions, "defect"), DETECTION)
    with pytest.raises(DataError, match="no image of train shows a green"):
        training.check_rows(rows, more, "train")


@pytest.mark.parametrize("kind", ["rt_detr_v2", "d_fine"])
def test_transformers_own_detectors_learn_and_answer(kind, rows, task, data, tmp_path):
    torch.manual_seed(0)
    model = new_detector(f"random:{kind}", task, SIDE, SIDE, DETR | (D_FINE if kind == "d_fine" else {}))
    preprocess, decoding = training.settings_of(model)
    assert decoding.overlap is None  # they give each thing once
    found = training.to_inputs(rows[:4], preprocess, [task.index(name) for name in training.names_of(rows)])
    batch = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(30):
        loss = model(**training.collate(batch, preprocess)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    scores = [f.score for one in Detector(model, tmp_path).predict(validation(data)) for f in one.findings]
    told = float(np.quantile(scores, 0.9))  # queries of equal scores, on black, are chosen by rounding
    state(model, task, preprocess, replace(decoding, told=told), sets.read_reading(data))
    own = tmp_path / "model"
    model.save_pretrained(own)
    sets.write_history(own, sets.record_history(data, {"train": None}))
    for to in ("openvino", "onnx"):
        assert export(own, tmp_path / to, data=data, to=to)
        assert files.read_json(tmp_path / to / INSPECT)["parity"]["lost"]["n"] > 20
    rgb = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    said = Detector.from_pretrained(own).predict([rgb, rgb[:, ::-1].copy()])
    again = Detector.from_pretrained(own).predict([rgb])
    assert said[0].severity == pytest.approx(again[0].severity, abs=1e-5)


def test_a_pretrained_body_keeps_its_first_stages_and_its_norms():
    model = new_detector("random:test_efficientnet", finders.task_of(False), SIDE, SIDE, SMALL | {"frozen": 4})
    kept = [name for name, one in model.network.named_parameters() if not one.requires_grad]
    learns = [name for name, one in model.network.named_parameters() if one.requires_grad]
    assert any(name.startswith("conv_stem") for name in kept)
    assert any(name.startswith("blocks.1") for name in kept)
    assert any(name.startswith("blocks.3") for name in learns)
    model.train()
    norms = [one for one in model.network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(one.training for one in norms)
    groups = training.optimizer_groups(model, 1e-3, 0.1, {name for name, _ in model.named_parameters()}, 0.01)
    assert {group["lr"] for group in groups} == {1e-3, 1e-4}
    of_body = sum(len(group["params"]) for group in groups if group["lr"] == 1e-4)
    assert of_body == len(learns)


def test_every_box_of_a_new_model_has_a_size_to_learn_from():
    """torchvision cuts a side's distance at 0; what starts there has no slope, and never finds anything."""
    torch.manual_seed(0)
    model = new_detector("random:test_efficientnet", finders.task_of(False), SIDE, SIDE, SMALL)
    boxes = model(torch.randn(2, 3, SIDE, SIDE)).boxes
    assert (boxes[..., 2:] > boxes[..., :2]).all()


@pytest.mark.parametrize(("reach", "learns"), [(1, False), (2, True)])
def test_what_is_thin_and_long_has_a_place(reach, learns):
    """Of 150 x 13 pixels: too long for the finest level if that reaches 64, and between the places of the next."""
    torch.manual_seed(0)
    model = new_detector("random:test_efficientnet", finders.task_of(False), 320, 320, SMALL | {"reach": reach})
    thin = {"boxes": torch.tensor([[[168 / 320, 0.5, 13 / 320, 150 / 320]]])[0], "class_labels": torch.tensor([0])}
    model(torch.randn(1, 3, 320, 320), labels=[thin]).loss.backward()
    assert bool(model.head.regression_head.bbox_reg.weight.grad.abs().sum() > 0) == learns


def test_parts_are_prepared_as_the_whole_but_for_their_size():
    whole = images.Preprocess(640, 416, (0.5,) * 3, (0.5,) * 3)
    assert training.part_of(whole, 1.0) == whole
    assert training.part_of(whole, 0.5) == replace(whole, height=320, width=192)
    assert training.part_of(replace(whole, height=40, width=40), 0.5) == replace(whole, height=32, width=32)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """What the recipe made undisturbed, and what it said."""
    out = tmp_path_factory.mktemp("recipe") / "out"
    done = launch.recipe("edge_detector", *TINY, "--data", data, "--output_dir", out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_the_recipe_runs_and_goes_on_where_it_was(run, data):
    out, said = run
    assert "findings are told of from a score of" in said
    log = files.read_json(out / "training_log.json")
    assert log["ran"]["epochs"] == 2
    assert {"eval_map", "eval_ap50"} <= set().union(*log["history"])
    made = Detector.from_pretrained(out)
    assert made.task.kind == SEGMENTATION  # everything has a mask
    assert made.history.sources[0].fingerprint == sets.read_head(data)["fingerprint"]
    again = launch.recipe("edge_detector", *TINY, "--data", data, "--output_dir", out)
    assert again.returncode == 0, again.stderr[-3000:]
    assert Detector.from_pretrained(out).identity == made.identity


def test_kill_9_and_the_same_command_again_give_the_same_bits(run, data, tmp_path):
    """It goes on from the newest whole checkpoint; until it has come to its end its folder holds no model."""
    out = tmp_path / "killed"
    given = ["recipes/edge_detector/train.py", *TINY, "--data", data, "--output_dir", out]
    process = launch.started(given, launch.ON_A_CPU, tmp_path / "out", tmp_path / "err")
    while newest_whole_checkpoint(out) is None and process.exitcode is None:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(DataError, match=r"config\.json"):
        Detector.from_pretrained(out)
    done = launch.script(given, launch.ON_A_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    first = files.read_json(run[0] / "training_log.json")["ran"]["steps"] // 2
    assert Path(newest_whole_checkpoint(out)).name == f"checkpoint-{2 * first}"
    assert Detector.from_pretrained(out).identity == Detector.from_pretrained(run[0]).identity


def test_a_yolo_segmenter_learns_is_exported_and_says_whose_it_is(data, rows, tmp_path):
    """Its masks lie in their boxes, and the edge's are the model's; its licence is Ultralytics'."""
    torch.manual_seed(0)
    task = sets.read_objects(data)
    model = new_detector("yolo11n-seg", task, SIDE, SIDE)
    assert training.task_of(model).kind == SEGMENTATION
    preprocess, _ = training.settings_of(model)
    ids = [task.index(name) for name in training.names_of(rows)]
    found = training.to_inputs(rows[:8], preprocess, ids, masks=True)
    batch = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-3), []
    model.train()
    for _ in range(10):
        loss = model(**training.collate(batch, preprocess)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    few = Decoding(least=1e-4, overlap=0.7)  # it has not learned enough to be sure of anything
    state(model, training.task_of(model), preprocess, few, sets.read_reading(data))
    model.save_pretrained(tmp_path / "model")
    sets.write_history(tmp_path / "model", sets.record_history(data, {"train": None}))
    loads = tmp_path / "loads.py"  # as the first thing that a process does
    loads.write_text("import sys\nfrom hf_inspect.detectors import Detector\nDetector.from_pretrained(sys.argv[1])\n")
    done = launch.script([loads, tmp_path / "model"])
    assert done.returncode == 0, done.stderr[-3000:]
    detector = Detector.from_pretrained(tmp_path / "model")
    rgbs = validation(data)[:6]
    said = detector.predict(rgbs)
    assert all(one.mask is not None and one.mask.shape == one.extent for one in said[0].findings)
    assert "AGPL-3.0" in detector.licences
    export(tmp_path / "model", tmp_path / "edge", data=data)
    assert "AGPL-3.0" in files.read_json(tmp_path / "edge" / INSPECT)["licence"]
    parity = files.read_json(tmp_path / "edge" / INSPECT)["parity"]
    assert parity["limits"]["iou"] == exporting.IOU
    assert set(parity["map_masks"]) == {"before", "after"}
    least = sorted((f.score for one in said for f in one.findings), reverse=True)[10] * 0.999
    changed = compare(detector.task, None, said, Engine.from_pretrained(tmp_path / "edge").predict(rgbs), least)
    assert changed["lost"]["k"] == 0
    assert changed["iou"] > 0.98
    with pytest.raises(DataError, match="not every thing in the data has one"):
        new_detector("yolo11n-seg", replace(task, kind=DETECTION), SIDE, SIDE)


def test_a_repaired_file_is_built_by_photo(tmp_path):
    """The README's flow: a COCO file is mended beside its images, and copies of a photo stay in one split."""
    raw = finders.pictures(tmp_path / "wagon", 40)
    content = json.loads((raw / "annotations.json").read_text())
    for one in content["images"]:
        own = f"{(one['id'] + 1) // 2:03}.rf.{one['id']}.png"
        (raw / one["file_name"]).rename(raw / own)
        one["file_name"] = own
    content["annotations"][0]["bbox"][2] += 1000  # reaches out of its image
    (raw / "annotations.json").write_text(json.dumps(content))
    said = CliRunner().invoke(app, ["data", "validate", str(raw / "annotations.json"), "--images", str(raw),
                                    "--repair", str(raw / "fixed.json")])  # fmt: skip
    assert said.exit_code == 0, said.output
    given = ["data", "build", "coco", "--src", str(raw / "fixed.json"), "--good", "", "--license", "cc0-1.0",
             "--group-rule", r"(.+)\.rf\.", "--shares", "60/20/0/20", "--out", str(tmp_path / "data")]  # fmt: skip
    assert CliRunner().invoke(app, given).exit_code == 0
    images_of = sets.read_manifest(tmp_path / "data")["images"]
    splits = {}
    for one in images_of:
        splits.setdefault(one["source"].split(".rf.")[0], set()).add(one["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {one["split"] for one in images_of} == {"train", "validation", "test"}


@pytest.mark.parametrize("name", ["recipes/edge_detector/tiny.yaml", "recipes/edge_detector/wagon.yaml"])
def test_settings_are_ones_that_the_recipe_has(name, monkeypatch, tmp_path):
    from transformers import TrainingArguments

    recipe = runpy.run_path("recipes/edge_detector/train.py", run_name="recipe")
    more = ["--use_cpu", "true", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", name, *more])
    own, trainer = runs.parsed(recipe["DetectorArguments"], TrainingArguments)
    assert own.height % 32 == own.width % 32 == 0
    assert trainer.metric_for_best_model == "ap50"
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--push_to_hub", "true"])
    with pytest.raises(DataError, match="goes up as its export"):  # before anything is trained
        recipe["main"]()


@pytest.fixture(scope="module")
def labels(folder, data, tmp_path_factory):
    """What the model of `folder` says of the images that it was trained on, once it is right on test."""
    out = tmp_path_factory.mktemp("labels") / "labels"
    given = ["label", str(data), "--teacher", str(folder), "--out", str(out), "--sample", "test"]
    said = CliRunner().invoke(app, [*given, "--precision", "0.3", "--recall", "0.3"])
    assert said.exit_code == 0, said.output
    return out


def test_a_larger_student_labels_for_a_smaller_one(labels, folder, data, task, rows, tmp_path):
    names = training.names_of(rows)
    kept, taught = relabelled(rows, labels, data, task, names, "all")
    assert len(kept) == len(rows) == len(taught)
    found = training.to_inputs(kept[:], training.settings_of(Detector.from_pretrained(folder).model)[0],
                               [task.index(name) for name in names], taught=taught)  # fmt: skip
    learnt = sum(len(one["class_labels"]) for one in found["labels"])
    assert learnt == sum(len(one["bbox"]) for one in taught.values()) > 0
    marked = [bool(one["bbox"]) for one in rows["objects"]]
    _, few = relabelled(rows, labels, data, task, names, "unmarked")
    assert len(few) == len(marked) - sum(marked)  # people's marks stay
    out, more = tmp_path / "out", tmp_path / "labels"
    shutil.copytree(labels, more)
    sets.write_history(more, sets.read_history(labels, "labels").union(History(unknown=("elsewhere",))))
    labels = more
    done = launch.recipe("edge_detector", "--config", "recipes/edge_detector/tiny.yaml", "--data", data, "--output_dir",
                         out, "--labels", labels, "--num_train_epochs", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = Detector.from_pretrained(out)
    assert made.task.kind == DETECTION  # the data have masks, and the labels that it learned from none
    history = made.history
    assert {source.fingerprint for source in history.sources} == {sets.read_head(data)["fingerprint"]}
    assert "elsewhere" in history.unknown  # what the teacher saw


def test_labels_below_the_bar_or_of_others_are_refused(labels, data, folder, rows, task, tmp_path):
    given = ["label", str(data), "--teacher", str(folder), "--out", str(tmp_path / "labels"), "--sample", "test"]
    said = CliRunner().invoke(app, [*given, "--precision", "1.0", "--recall", "1.0", "--iou", "1.0"])
    assert said.exit_code == 1
    assert "below 1.00" in str(said.exception)
    assert not (tmp_path / "labels").exists()
    names = training.names_of(rows)
    with pytest.raises(DataError, match="give all or unmarked"):
        relabelled(rows, labels, data, task, names, "some")
    other = TaskSpec(("green", "red"), task.dispositions, DETECTION)
    with pytest.raises(DataError, match="different questions"):
        relabelled(rows, labels, data, other, names, "all")

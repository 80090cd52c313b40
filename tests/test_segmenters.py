"""Students that make masks: what they learn, that boxes learn as without, MobileSAM's encoder and FastSAM's weights."""

import hashlib
import importlib.util
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.anomaly.graph import converted
from hf_inspect.cli import app
from hf_inspect.data.coco import inspect
from hf_inspect.detectors import Detector, new_detector, prototypes, training
from hf_inspect.detectors import mobile_sam as sam
from hf_inspect.errors import DataError, HubError
from hf_inspect.export import export
from hf_inspect.export.detector import IOU
from hf_inspect.reports import card_of, evaluate_detect
from hf_inspect.runtime import INSPECT, Engine
from hf_inspect.schema import DETECTION, SEGMENTATION
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import compare, drawn
from tests import finders

SIDE, STEPS = 160, 60
SMALL = {"channels": 32, "convolutions": 1, "prototypes": 8}
TASK = finders.task_of(True)
ultralytics = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="the extra `yolo` is missing")


def triangles(folder, n=70):
    """The squares of `finders`, only the half below a diagonal marked, by polygons and RLEs, without a box."""
    from faster_coco_eval import mask

    raw = finders.pictures(folder, n)
    content = json.loads((raw / "annotations.json").read_text())
    for one in content["annotations"]:
        x0, y0, x1, _, _, y1, _, _ = one["segmentation"][0]
        one["segmentation"] = [[x0, y0, x1, y1, x0, y1]]
        if one["id"] % 2:
            (packed,) = mask.frPyObjects(one["segmentation"], finders.SIDE, finders.SIDE)
            one["segmentation"] = {"size": packed["size"], "counts": packed["counts"].decode()}
        del one["bbox"]
    (raw / "annotations.json").write_text(json.dumps(content))
    return raw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Masks without boxes, built as `data inspect` says: its next command repairs them."""
    folder = tmp_path_factory.mktemp("halves")
    raw = triangles(folder / "raw")
    found = inspect(raw / "annotations.json")
    assert (found.student, next(iter(found.students))) == (SEGMENTATION, sam.BASE)
    done = CliRunner().invoke(app, shlex.split(found.next)[1:])
    assert done.exit_code == 0, done.output
    options = {"license": "cc0-1.0", "shares": "55/20/0/25"}
    sets.build("coco", folder / "data", src=raw / "fixed.json", options=options)
    return folder / "data"


def test_masks_alone_become_boxes_and_polygons_that_lie_in_them(data):
    assert sets.read_objects(data).kind == SEGMENTATION
    every = [row["objects"] for row in sets.load_split(data, "train")]
    boxes = [(box, polygons) for own in every for box, polygons in zip(own["bbox"], own["polygons"], strict=True)]
    areas = []
    for (x0, y0, x1, y1), (polygon,) in boxes:
        xs, ys = np.array(polygon[::2]), np.array(polygon[1::2])
        assert (x1 - x0, y1 - y0) == (finders.CELL, finders.CELL)
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == (x0, y0, x1, y1)
        areas.append(abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) / 2 / finders.CELL**2)
    assert 0.45 < min(areas) <= 0.5 <= max(areas) < 0.6  # an RLE's has steps


def batches(model, data, task, steps, size=8):
    """Batches of train, drawn by one seed."""
    rows, preprocess = sets.load_split(data, "train"), training.settings_of(model)[0]
    ids = [task.index(name) for name in training.names_of(rows)]
    found = training.to_inputs(rows[:], preprocess, ids, masks=True)
    every, rng = (
        [dict(zip(found, one, strict=True)) for one in zip(*found.values(), strict=True)],
        np.random.default_rng(0),
    )
    for _ in range(steps):
        yield training.collate([every[i] for i in rng.choice(len(every), size, replace=False)], preprocess)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A tiny student that has learned the halves, and the losses of its first and last steps."""
    torch.manual_seed(0)
    task, losses = sets.read_objects(data), []
    model = new_detector("random:test_efficientnet", task, SIDE, SIDE, SMALL)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=4e-3)
    for batch in batches(model, data, task, STEPS):
        found = model(**batch)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        losses.append({name: one.item() for name, one in found.losses.items()})
    training.set_thresholds(model, data, sets.read_reading(data), task)
    out = tmp_path_factory.mktemp("student") / "student"
    model.save_pretrained(out)
    sets.write_history(out, sets.record_history(data, {"train": None, "validation": None}))
    return out, losses


def test_masks_are_learned_pass_the_gate_and_are_measured_and_drawn(trained, data, tmp_path):
    folder, losses = trained
    for name in ("classification", "segmentation"):
        assert losses[-1][name] < 0.7 * losses[0][name]
    out = tmp_path / "edge"
    export(folder, out, data=data)
    parity = files.read_json(out / INSPECT)["parity"]
    assert parity["limits"]["iou"] == IOU
    assert set(parity["map_masks"]) == {"before", "after"}
    figures = evaluate_detect(out, data, "test", tmp_path / "scores.jsonl")[0]["detection"]
    assert figures["masks"]["iou"]["value"] > 0.65  # a whole box has 0.5
    assert figures["masks"]["ap50"]["value"] > 0.6
    rows, reading = sets.load_split(data, "validation"), sets.read_reading(data)
    rgbs = [images.load(one["bytes"], reading).rgb for one in rows["image"]]
    detector, engine = Detector.from_pretrained(folder), Engine.from_pretrained(out)
    assert detector.task.kind == engine.task.kind == SEGMENTATION
    before, told = detector.predict(rgbs), detector.decoding.told
    changed = compare(detector.task, None, before, engine.predict(rgbs), told)
    assert changed["lost"] == {"k": 0, "n": changed["lost"]["n"]}
    assert changed["lost"]["n"] > 10
    assert changed["iou"] > 0.98
    found = next(i for i, one in enumerate(before) if any(f.score >= told for f in one.findings))
    assert (drawn(rgbs[found], before[found].findings, detector.task, told) != rgbs[found]).mean() > 0.02


def test_boxes_are_learned_bit_for_bit_as_without_masks(data):
    """Masks come beside what finds boxes: its first weights, answers and loss are those of a detection model."""
    models = []
    for kind in (DETECTION, SEGMENTATION):
        torch.manual_seed(0)
        arguments = {name: SMALL[name] for name in ("channels", "convolutions")}
        models.append(new_detector("random:test_efficientnet", replace(TASK, kind=kind), SIDE, SIDE, arguments))
    alone, both = models
    own = alone.state_dict()
    assert not any(name.startswith("masks.") for name in own)
    assert {name for name in both.state_dict() if name not in own} == {
        name for name in both.state_dict() if name.startswith("masks.")
    }
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in own.items())
    batch = next(batches(alone, data, TASK, 1))
    said = [model.train()(**batch) for model in models]
    assert said[0].coefficients is None
    assert list(said[1].losses) == [*said[0].losses, "segmentation"]
    assert torch.equal(said[0].scores, said[1].scores)
    assert all(torch.equal(said[0].losses[name], said[1].losses[name]) for name in said[0].losses)
    both = said[0].loss + said[1].losses["segmentation"]
    assert said[1].loss.item() == pytest.approx(both.item(), rel=1e-6)


def test_decoding_makes_the_mask_that_was_learned():
    """A prototype that is the thing: the loss is least for it, and decoding gives it back where it lies."""
    side, box = 96, (12.0, 24.0, 60.0, 84.0)
    rows, columns = np.mgrid[:side, :side]
    thing = ((rows - 24) * 48 > (columns - 12) * 60) & (columns >= 12) & (columns < 60) & (rows >= 24) & (rows < 84)
    whole = torch.from_numpy(thing)[None, None].float()
    prototype = torch.nn.functional.avg_pool2d(whole, 4) * 20 - 10
    x0, y0, x1, y1 = (one / side for one in box)
    centred = torch.tensor([[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]])
    label = {"boxes": centred, "masks": torch.from_numpy(thing)[None].to(torch.uint8)}
    least, most = (
        prototypes.mask_loss(torch.tensor([[[sign]]]), prototype, [torch.tensor([0])], [label]).item()
        for sign in (1.0, -1.0)
    )
    assert least < 0.1  # half a pixel off it is 0.19
    assert most > 3
    outputs = [np.array([[[0.9, 0.1]]]), np.array([[[x0, y0, x1, y1]]]), np.ones((1, 1, 1)), prototype.numpy()]
    settings = {"least": 0.5, "overlap": 0.6, "most": 9, "told": 0.5}
    (found,) = TASKS[SEGMENTATION].decode(outputs, TASK, [(side, side)], settings)[0].findings
    said = found.mask_in(side, side)
    assert (said & thing).sum() / (said | thing).sum() > 0.9


def test_few_places_teach_masks_and_none_without_a_pixel(monkeypatch):
    asked = []
    own = prototypes._points
    monkeypatch.setattr(prototypes, "_points", lambda *given: asked.append(len(given[1])) or own(*given))
    monkeypatch.setattr(prototypes, "PLACES", 5)
    torch.manual_seed(0)
    coefficients = torch.rand(2, 30, 4, requires_grad=True)
    maps = torch.rand(2, 4, 16, 16, requires_grad=True)
    label = {"boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
    none = {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 64, 64, dtype=torch.uint8)}
    empty = label | {"masks": torch.zeros(1, 64, 64, dtype=torch.uint8)}
    nowhere, inside = torch.full((30,), -1), torch.zeros(30, dtype=torch.long)
    loss = prototypes.mask_loss(coefficients, maps, [inside, inside], [empty, label])
    assert asked == [5, 5]
    loss.backward()
    assert (coefficients.grad[1].abs().sum(1) > 0).sum() == 5
    assert not coefficients.grad[0].any()
    for other, places in ((empty, inside), (none, nowhere)):
        nothing = prototypes.mask_loss(coefficients, maps, [nowhere, places], [none, other])
        assert nothing.item() == 0
        nothing.backward()


@pytest.mark.parametrize("kind", [DETECTION, SEGMENTATION])
def test_what_an_earlier_model_lacks_begins_anew_by_the_seed(trained, kind):
    """Other classes, and masks where there were none: those weights are new ones, and no memory that nobody wrote."""
    more = replace(TASK, classes=("blue", "green", "red"), dispositions=("defect",) * 3, kind=kind)
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(new_detector(str(trained[0]), more, SIDE, SIDE))
    weight = made[0].head.classification_head.cls_logits.weight
    assert weight.shape[0] == 3
    assert 0.005 < weight.std() < 0.02
    own = Detector.from_pretrained(trained[0]).model.state_dict()
    assert torch.equal(own["network.conv_stem.weight"], made[0].network.conv_stem.weight)
    for name, value in made[0].state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, made[1].state_dict()[name])
    assert made[0].config.prototypes == (0 if kind == DETECTION else SMALL["prototypes"])


def test_half_a_model_is_a_sentence(trained, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_bytes((trained[0] / "config.json").read_bytes())
    content = (trained[0] / "model.safetensors").read_bytes()
    for cut in (None, content[: len(content) // 2], b""):
        if cut is not None:
            (half / "model.safetensors").write_bytes(cut)
        with pytest.raises(DataError, match="holds no whole model"):
            Detector.from_pretrained(half)


@pytest.mark.parametrize("made", ["RTDetrV2ForObjectDetection", "DFineForObjectDetection", "own"])
def test_the_card_of_a_model_that_finds_things_is_its_export_s(made, trained, tmp_path):
    folder = trained[0]
    if made != "own":
        folder = tmp_path / "model"
        files.write_json(folder / "config.json", {"architectures": [made], "inspection_task": TASK.to_dict()})
    with pytest.raises(HubError, match="was not exported, and its card is its export's; run 'hf-inspect export"):
        card_of(folder)


# MobileSAM's encoder, and FastSAM.


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory):
    """An encoder as MobileSAM's file names it, with random weights, and its file."""
    from hf_inspect.students.yolo import quietly

    with quietly():
        from ultralytics.models.sam.modules.tiny_encoder import TinyViT
    torch.manual_seed(0)
    sizes = {"embed_dims": (64, 128, 160, 320), "depths": (2, 2, 6, 2), "num_heads": (2, 4, 5, 10)}
    network = TinyViT(img_size=SIDE + 32, window_sizes=(7, 7, 14, 7), drop_path_rate=0.0, **sizes)
    with torch.no_grad():
        for one in network.parameters():
            one += 0.02 * torch.randn_like(one)  # biases of attention and scales of norms begin equal
    network.eval()  # now, as it keeps its biases from here on
    stored = {f"image_encoder.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("sam") / "mobile_sam.pt"
    torch.save(stored | {"mask_decoder.iou_token.weight": torch.zeros(1, 256)}, path)
    return network, path


def new_sam(path, side=SIDE + 32):
    given = hashlib.sha256(path.read_bytes()).hexdigest()
    return new_detector(sam.BASE, TASK, side, side, SMALL, weights=path, weights_sha256=given)


@ultralytics
def test_mobile_sam_s_stages_are_theirs(mobile_sam):
    theirs, path = mobile_sam
    model, seen = new_sam(path).eval(), []
    for layer in theirs.layers[1:3]:
        layer.downsample.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    theirs.layers[3].register_forward_hook(lambda module, given, out: seen.append(out))
    pixels = torch.randn(1, 3, SIDE + 32, SIDE + 32)
    with torch.no_grad():
        theirs(pixels)
        ours = model.network(pixels)
    assert [one.shape[-1] for one in ours] == [24, 12, 12]  # the last at SAM's stride of 16
    for one, other in zip(ours, seen, strict=True):
        assert one.std() > 0.05
        torch.testing.assert_close(one, other.transpose(1, 2).reshape(one.shape), atol=1e-4, rtol=0)
    assert training.task_of(model).kind == SEGMENTATION
    assert training.settings_of(model)[0].mean == (0.485, 0.456, 0.406)
    kept = {name for name, one in model.network.named_parameters() if not one.requires_grad}
    assert "stages_0.blocks.0.conv1.conv.weight" in kept
    assert "stages_3.blocks.0.attn.qkv.weight" not in kept


@ultralytics
def test_a_mobile_sam_student_is_saved_loaded_and_exported(mobile_sam, tmp_path):
    import openvino

    torch.manual_seed(0)
    model = new_sam(mobile_sam[1], SIDE).eval()
    model.save_pretrained(tmp_path)
    again, pixels = type(model).from_pretrained(tmp_path).eval(), torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        own, other = model(pixels), again(pixels)
    for name in ("scores", "boxes", "coefficients", "prototypes"):
        assert torch.equal(own[name], other[name])
    assert own.prototypes.shape == (1, 8, SIDE // 4, SIDE // 4)

    class Answers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = again

        def forward(self, pixel_values):
            found = self.model(pixel_values=pixel_values)
            return found.scores, found.boxes, found.coefficients, found.prototypes

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    said = openvino.compile_model(converted(Answers().eval(), SIDE, SIDE), "CPU", exact)(pixels.numpy())
    for one, name in zip(said.values(), ("scores", "boxes", "coefficients", "prototypes"), strict=True):
        np.testing.assert_allclose(one, own[name].numpy(), atol=1e-3)


@ultralytics
def test_other_files_than_mobile_sam_s_are_a_sentence(mobile_sam, tmp_path):
    stored = torch.load(mobile_sam[1], weights_only=True)
    stored.pop("image_encoder.layers.2.blocks.0.attn.qkv.weight")
    save_file(stored, tmp_path / "half.safetensors")
    with pytest.raises(DataError, match=r"fits 291 of 292 tensors .* not stages_2\.blocks\.0\.attn\.qkv\.weight"):
        new_detector(sam.BASE, TASK, SIDE, SIDE, SMALL, weights=tmp_path / "half.safetensors")
    with pytest.raises(DataError, match="weights are for a base like yolo11n or mobile_sam"):
        new_detector("random:tiny_vit_5m_224", TASK, SIDE, SIDE, SMALL, weights=mobile_sam[1])


@ultralytics
def test_fastsam_s_weights_of_one_class_begin_a_segmenter(tmp_path):
    from ultralytics.nn.tasks import SegmentationModel

    torch.manual_seed(0)
    stored = SegmentationModel("yolov8s-seg.yaml", nc=1, verbose=False).state_dict()
    save_file(stored, tmp_path / "fastsam.safetensors")
    with pytest.warns(UserWarning, match=r"of other classes: 6 tensors of yolov8s-seg, such as model\.22\.cv3"):
        model = new_detector("yolov8s-seg", TASK, SIDE, SIDE, weights=tmp_path / "fastsam.safetensors")
    own = model.yolo.state_dict()
    fresh = {name for name, value in own.items() if value.shape != stored[name].shape}
    assert len(fresh) == 6
    assert all(".cv3." in name for name in fresh)
    assert all(torch.equal(own[name], stored[name]) for name in own.keys() - fresh)
    with pytest.raises(DataError, match="it is of another"):
        new_detector("yolov8n-seg", TASK, SIDE, SIDE, weights=tmp_path / "fastsam.safetensors")

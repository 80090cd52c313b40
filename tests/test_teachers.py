"""Teachers on tiny random bases: what trains and what stays, what they label, whether a student may learn from it."""

import json
import runpy
import shutil
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from hf_inspect import files, teachers
from hf_inspect.data import build, load_split, read_history, read_manifest, read_objects
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.hub import check
from hf_inspect.reading import Reading
from hf_inspect.reports import write_card
from hf_inspect.schema import Finding, History, Prediction, TaskSpec
from hf_inspect.teachers import DINO, SAM, Bar, Prompt, Start, Teacher, dino, lora, pseudo, sam
from hf_inspect.teachers.audit import compared, refuse_below, truths_of, with_mask
from hf_inspect.training import newest_whole_checkpoint, parsed
from tests import launch
from tests.conftest import png

CLASSES = ("wire", "wire rope")
KINDS = {"tiny-grounding_dino": DINO, "tiny-mm_grounding_dino": DINO, "tiny-sam": SAM, "tiny-sam2": SAM}
TINY = ["--config", "recipes/teacher_lora/tiny.yaml"]
CHANGED = ["--lora.r", "2", "--report_to", "tensorboard"]
EVERY = ["--precision", "0", "--recall", "0", "--iou", "0"]


def coco(folder, n=60, masks=True, seed=0):
    """Photos of two shapes, three of four with a bright wire or a dark rope on it."""
    folder.mkdir()
    rng, listed, boxes = np.random.default_rng(seed), [], []
    for i in range(n):
        w, h = (64, 48) if i % 3 else (48, 64)
        coarse = Image.fromarray(rng.integers(60, 200, (h // 8, w // 8, 3), np.uint8))
        image = coarse.resize((w, h), Image.Resampling.BICUBIC)
        listed.append({"id": i, "file_name": f"{i:03}.png", "width": w, "height": h})
        if i % 4:
            kind = int(rng.integers(0, 2))
            bw, bh = ((20, 6), (10, 12))[kind]
            x, y = int(rng.integers(0, w - bw - 1)), int(rng.integers(0, h - bh - 1))
            ImageDraw.Draw(image).rectangle([x, y, x + bw - 1, y + bh - 1], fill=((250,) * 3, (10,) * 3)[kind])
            outline = {"segmentation": [[x, y, x + bw, y, x + bw, y + bh, x, y + bh]]} if masks else {}
            boxes.append({"id": i, "image_id": i, "category_id": kind, "bbox": [x, y, bw, bh], **outline})
        image.save(folder / f"{i:03}.png")
    kinds = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    (folder / "a.json").write_text(json.dumps({"images": listed, "annotations": boxes, "categories": kinds}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    build("coco", folder / "data", src=coco(folder / "raw"), options={"license": "cc0-1.0"})
    return folder / "data"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """What tiny.yaml makes, as a user runs it, and what it says."""
    out = tmp_path_factory.mktemp("trained") / "teacher"
    done = launch.recipe("teacher_lora", *TINY, "--data", data, "--output_dir", out, *CHANGED)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


@pytest.fixture(scope="module")
def teacher(trained):
    return Teacher.from_folder(trained[0], least=0.05)


def photos(data, split="test"):
    from hf_inspect import images

    return [images.load(row["bytes"]).rgb for row in load_split(data, split)["image"]]


# What trains, and what stays.


@pytest.mark.parametrize("base", KINDS)
def test_an_adapter_learns_reloads_and_merges_and_the_base_stays_bit_for_bit(base, data, tmp_path):
    torch.manual_seed(0)
    lesson = teachers.lesson(Start.of(KINDS[base], data, base, {"r": 4}, max_rows=4))
    model, rows = lesson.model, lesson.inputs("train")
    batch = lesson.collate([rows[i] for i in range(len(rows))])
    frozen, whole = lora.frozen_digests(model), {name: one.clone() for name, one in model.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        loss, _ = lesson.loss(model.train(), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    lora.refuse_moved(frozen, model)
    moved = {name for name, one in model.state_dict().items() if not torch.equal(one, whole[name])}
    assert moved
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    lora.save(model, tmp_path, base)
    folder = teachers.base_folder(base)
    assert (tmp_path / lora.WEIGHTS).stat().st_size < sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 2
    assert lora.sizes(tmp_path, folder).startswith("adapter 0.")
    loaded = lora.load((dino if KINDS[base] == DINO else sam).load(folder)[0], tmp_path)

    def said(one):
        given = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            out = one.eval()(**given)
        return (out.pred_boxes, out.logits[..., :8]) if KINDS[base] == DINO else (out.pred_masks, out.iou_scores)

    with torch.no_grad():
        before, reloaded = said(model), said(loaded)
        merged = said(lora.merged(loaded))
    for one, two, three in zip(before, reloaded, merged, strict=True):
        scale = max(1.0, one.abs().max().item())
        assert one.std() > 1e-3
        assert (one - two).abs().max() <= 1e-5 * scale
        assert (one - three).abs().max() <= 1e-4 * scale


def test_a_tensor_that_moved_and_a_base_that_trains_are_refused(data):
    lesson = teachers.lesson(Start.of(DINO, data, "tiny-grounding_dino", {"r": 2}, max_rows=4))
    before = lora.frozen_digests(lesson.model)
    frozen = next(one for one in lesson.model.parameters() if not one.requires_grad)
    frozen.data.view(-1)[0] += 1e-6
    with pytest.raises(DataError, match="1 frozen tensors are not what they were"):
        lora.refuse_moved(before, lesson.model)
    frozen.requires_grad = True
    with pytest.raises(DataError, match="1 parameters of the base train"):
        lora.check_frozen(lesson.model)
    lesson.model.requires_grad_(False)
    with pytest.raises(DataError, match="nothing of the model trains"):
        lora.check_frozen(lesson.model)


def test_the_loss_is_the_model_s_own_and_every_synonym_is_right(data):
    model, processor = dino.load(teachers.base_folder("tiny-grounding_dino"))
    rows = load_split(data, "train").select(range(6))
    targets = dino.to_targets(rows[:], processor, Reading())
    given = [dict(zip(targets, one, strict=True)) for one in zip(*targets.values(), strict=True)]
    text = dino.text_of(Prompt.of(CLASSES), 2, processor, model.config)
    batch = dino.collate(given, text)
    assert any(not len(one["labels"]["boxes"]) for one in given), "images without a box are learned from too"
    with torch.no_grad():
        own, theirs = dino.loss(model.eval(), batch, text.class_map)[0], model(**batch).loss
        torch.testing.assert_close(own, theirs)
        both = dino.text_of(Prompt.of(CLASSES, {"wire": ["wire", "strand"]}), 2, processor, model.config)
        assert both.class_map[0].sum() == len("wirestrand")
        assert dino.loss(model, dino.collate(given, both), both.class_map)[0].isfinite()
    with pytest.raises(DataError, match="the model reads 128"):
        dino.text_of(Prompt.of(["x" * 90, "y" * 90]), 2, processor, model.config)
    with pytest.raises(DataError, match="ends a phrase"):
        dino.text_of(Prompt.of(["wire [SEP] rope"]), 1, processor, model.config)


@pytest.mark.parametrize("base", ["tiny-sam", "tiny-sam2"])
def test_masks_to_learn_lie_where_the_model_looks_and_come_back_there(base, data):
    model, processor = sam.load(teachers.base_folder(base))
    side = sam.mask_side(model.config)
    polygon = [[10.0, 8.0, 40.0, 8.0, 40.0, 32.0, 10.0, 32.0]]
    rows = {"image": [], "objects": []}
    for size in ((64, 48), (48, 64), (64, 64)):
        rows["image"].append({"bytes": png(np.zeros((size[1], size[0], 3), np.uint8))})
        rows["objects"].append({"bbox": [[10.0, 8.0, 40.0, 32.0]], "polygons": [polygon], "iscrowd": [False]})
    targets = sam.to_targets(rows, processor, Reading(), side)
    for boxes, masks in zip(targets["input_boxes"], targets["labels"], strict=True):
        y, x = np.nonzero(masks[0])
        seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * 64 / side
        np.testing.assert_allclose(seen, boxes[0], atol=1.5 * 64 / side)
    rgb = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    found = [Finding("wire", 0.9, (3.5, 4.0, 80.0, 40.0)), Finding("wire", 0.8, (50.0, 1.0, 96.0, 48.0))]
    seen = Patterned(model)
    whole = processor(images=rgb, return_tensors="pt")
    sizes = [whole[name] for name in ("original_sizes", "reshaped_input_sizes") if name in whole]
    theirs = processor.post_process_masks(seen.logits(2), *sizes)[0][:, 0].numpy()
    for one, mask in zip(sam.masked(seen, processor, rgb, found), theirs, strict=True):
        (top, left), (rows_, columns) = one.corner, one.extent
        inside = mask[top : top + rows_, left : left + columns]
        assert 0.1 < inside.mean() < 0.9
        assert (one.mask & inside).sum() / (one.mask | inside).sum() > 0.9
    assert sam.masked(Patterned(model, -9.0), processor, rgb, found) == found
    assert all(one.mask is None for one in sam.masked(Patterned(model, -9.0), processor, rgb, found))


class Patterned:
    """A SAM whose masks are one smooth pattern over what it sees, whatever the box."""

    def __init__(self, model, shift=0.0):
        self.config, self.device, self.get_image_embeddings = model.config, model.device, model.get_image_embeddings
        generator = torch.Generator().manual_seed(1)
        coarse, side = torch.randn(1, 1, 6, 6, generator=generator), sam.mask_side(model.config)
        self.pattern = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0, 0] + shift

    def logits(self, n):
        return self.pattern.expand(1, n, 1, -1, -1)

    def __call__(self, image_embeddings, input_boxes, multimask_output):
        assert not multimask_output
        return SimpleNamespace(pred_masks=self.logits(input_boxes.shape[1]))


# The recipe.


def test_the_recipe_trains_what_the_data_teach_and_says_it(trained, data):
    out, said = trained
    assert [path.name for path in sorted(out.iterdir())] == ["dino", "sam"]
    assert "the prompt is 'wire. wire rope.'" in said
    for kind, r in (("dino", 2), ("sam", 4)):
        assert f"{kind}: tiny-" in said
        assert "every frozen tensor is as it was" in said
        assert json.loads((out / kind / "adapter_config.json").read_text())["r"] == r
        log = json.loads((out / kind / "training_log.json").read_text())
        assert log["ran"]["steps"] == 8
        assert len(list((out / kind / "runs").rglob("events.out.tfevents.*"))) == 1
        assert log["best"]["checkpoint_step"] in (4, 8)
        history = read_history(out / kind, kind)
        assert history.sources[0].fingerprint == read_manifest(data)["fingerprint"]
        assert not history.unknown
    assert teachers.taught(data, ["sam"]) == ("sam",)


def test_kill_9_and_the_same_command_again_give_the_same_adapters(trained, data, tmp_path):
    out = tmp_path / "killed"
    given = ["recipes/teacher_lora/train.py", *TINY, "--data", data, "--output_dir", out, *CHANGED]
    process = launch.started(given, launch.ON_A_CPU, tmp_path / "out", tmp_path / "err")
    while newest_whole_checkpoint(out / "dino") is None and process.exitcode is None:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(DataError, match="holds no teacher of boxes"):
        Teacher.from_folder(out)
    done = launch.script(given, launch.ON_A_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 of them done" in done.stdout or "8 of them done" in done.stdout
    for kind in (DINO, SAM):
        ours, theirs = (load_file(folder / kind / lora.WEIGHTS) for folder in (out, trained[0]))
        assert ours.keys() == theirs.keys()
        assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) <= 1e-6
    other = launch.recipe("teacher_lora", *TINY, "--data", data, "--output_dir", out, "--lora.r", "3")
    assert other.returncode == 1
    assert "lora.r 2 there, 3 here" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--lora.rank", "3"), "it takes r, alpha, targets"),
        (("--lora.r", "0"), "lora.r is 0"),
        (("--lora.targets", "nothing"), "matches no layer"),
        (("--only", "yolo"), "only is 'yolo'"),
        (("--dino", "tiny-sam"), "holds a sam"),
        (("--synonyms.rope", "[x]"), "which is no class"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(more, said, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(
        "sys.argv", ["recipes/teacher_lora/train.py", *TINY, "--data", str(data), "--output_dir", str(tmp_path), *more]
    )
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(launch.ROOT / "recipes/teacher_lora/train.py"), run_name="__main__")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("make", "kind", "whole", "own"),
    [("grounding_dino_tiny", DINO, 172_249_090, 1_523_712), ("sam_vit_base", SAM, 93_735_728, 294_016)],
)
def test_adapters_of_true_size_fit_their_bases(make, kind, whole, own):
    """Counted from shapes, on torch's meta device: what the README states."""
    import transformers

    with torch.device("meta"):
        if kind == SAM:
            model = transformers.SamModel(transformers.SamConfig())
        else:
            swin = {"model_type": "swin", "out_features": ["stage2", "stage3", "stage4"]}
            config = transformers.GroundingDinoConfig(backbone_config=swin, text_config={"model_type": "bert"})
            model = transformers.GroundingDinoForObjectDetection(config)
            words = model.model.text_backbone.embeddings.word_embeddings
            model.get_input_embeddings = lambda: words
        assert sum(one.numel() for one in model.parameters()) == whole
        adapted = lora.attach(model, {DINO: dino.LORA, SAM: sam.LORA}[kind])
    assert sum(one.numel() for one in adapted.parameters() if one.requires_grad) == own
    text = (launch.ROOT / "recipes/README.md").read_text()
    assert f"| {whole / 1e6:.1f} M | {own / 1e6:.2f} M" in text


def test_the_settings_of_true_size_are_read(monkeypatch):
    given = runpy.run_path(str(launch.ROOT / "recipes/teacher_lora/train.py"))
    path = "recipes/teacher_lora/teacher.yaml"
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(launch.ROOT / path), "--lora.r", "32"])
    chosen, training = parsed(given["TeacherArguments"], given["TrainingArguments"])
    assert (chosen.dino, chosen.sam) == ("IDEA-Research/grounding-dino-tiny", "facebook/sam-vit-base")
    assert dino.LORA.changed(chosen.lora) == replace(dino.LORA, r=32, alpha=32)
    assert sam.LORA.changed(chosen.sam_lora) == sam.LORA
    assert (training.report_to, training.metric_for_best_model) == (["tensorboard"], "loss")
    assert {path.stem for path in (launch.ROOT / "recipes/teacher_lora").glob("*.yaml")} == {"teacher", "tiny"}
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(launch.ROOT / path), "--patience.r", "1"])
    with pytest.raises(DataError, match="--patience holds no entries"):
        parsed(given["TeacherArguments"], given["TrainingArguments"])


def test_boxes_alone_teach_no_masks(tmp_path):
    build("coco", tmp_path / "data", src=coco(tmp_path / "raw", 40, masks=False), options={"license": "cc0-1.0"})
    assert teachers.taught(tmp_path / "data") == ("dino",)
    with pytest.raises(DataError, match="which sam learns from"):
        teachers.taught(tmp_path / "data", ["sam"])


@pytest.mark.parametrize("kind", ["dino", "sam"])
def test_a_teacher_may_be_pushed_with_a_card_of_its_own(trained, kind, tmp_path):
    """Of what its folder states; checkpoints and TensorBoard's files stay."""
    folder = Path(shutil.copytree(trained[0] / kind, tmp_path / kind))
    text = write_card(folder).read_text()
    assert f"Teacher of {'boxes' if kind == 'dino' else 'masks'}" in text
    assert "Not measured on a test split yet. `hf-inspect label` audits" in text
    assert "wire, wire rope" in text
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["library_name"]) == ("cc0-1.0", "peft")
    assert head["pipeline_tag"] == ("zero-shot-object-detection" if kind == "dino" else "mask-generation")
    assert set(check(folder)) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "teacher.json", "trained_on.json",
        "training_log.json",
    }  # fmt: skip


# What they label.


def test_batches_and_order_change_no_label_and_masks_lie_in_their_boxes(teacher, data):
    rgbs = [*photos(data), np.full((64, 64, 3), 90, np.uint8)]  # the square alone in its batch
    together = teacher.label(rgbs, 8)
    assert len({rgb.shape for rgb in rgbs}) == 3
    assert all(said.findings is not None for said in together)
    assert sum(one.mask is not None for said in together for one in said.findings) > 10
    assert {one.name for said in together for one in said.findings} <= set(CLASSES)
    alone = [teacher.label([rgb])[0] for rgb in rgbs]
    backwards = teacher.label(rgbs[::-1], 3)[::-1]
    for said, one, other in zip(together, alone, backwards, strict=True):
        for theirs in (one, other):
            assert [found.name for found in said.findings] == [found.name for found in theirs.findings]
            for a, b in zip(said.findings, theirs.findings, strict=True):
                np.testing.assert_allclose((a.score, *a.box), (b.score, *b.box), atol=1e-3)
                assert (a.mask is None) == (b.mask is None)
                assert a.mask is None or a.mask.shape != b.mask.shape or (a.mask != b.mask).mean() < 0.02
        assert said.severity == pytest.approx(one.severity)


def test_without_masks_it_answers_boxes_and_another_identity(trained, teacher, data):
    alone = Teacher.from_pretrained(trained[0] / "dino", least=0.05)
    assert (alone.task.kind, teacher.task.kind) == ("detection", "segmentation")
    assert alone.task.classes == teacher.task.classes == CLASSES
    rgbs = photos(data)[:3]
    boxes = [[(one.name, one.box) for one in said.findings] for said in alone.predict(rgbs)]
    assert boxes == [[(one.name, one.box) for one in said.findings] for said in teacher.predict(rgbs)]
    assert all(one.mask is None for said in alone.predict(rgbs) for one in said.findings)
    strict = Teacher.from_pretrained(trained[0] / "dino", least=0.9999)
    assert len({one.identity for one in (alone, teacher, strict)}) == 3
    assert Teacher.from_pretrained(trained[0] / "dino", least=0.05).identity == alone.identity
    assert set(alone.history.signatures) <= set(teacher.history.signatures)


def test_an_image_in_which_nothing_is_kept_is_a_negative(trained, data):
    nothing = Teacher.from_pretrained(trained[0] / "dino", trained[0] / "sam", least=1.0)
    said = nothing.label(photos(data)[:2])
    assert [(one.findings, one.severity) for one in said] == [((), 0.0), ((), 0.0)]


def test_half_an_adapter_and_another_base_are_refused(trained, tmp_path):
    half = Path(shutil.copytree(trained[0] / "dino", tmp_path / "dino"))
    with pytest.raises(DataError, match="another base than the adapter was trained on"):
        Teacher.from_pretrained(half, dino="tiny-mm_grounding_dino")
    with pytest.raises(DataError, match="not of a sam"):
        Teacher.from_pretrained(half, half)
    content = (half / lora.WEIGHTS).read_bytes()
    (half / lora.WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is not what teacher\.json states"):
        Teacher.from_pretrained(half)
    (half / teachers.TEACHER).unlink()
    with pytest.raises(DataError, match="holds no trained teacher"):
        Teacher.from_pretrained(half)


# Whether a student may learn from it.


@dataclass
class Told:
    """A teacher whose labels are given."""

    answers: list
    task: TaskSpec
    history: History = field(default_factory=History)
    identity: str = "0" * 64
    decoding = teachers.LABELS

    def predict(self, rgbs):
        return [self.answers.pop(0) for _ in rgbs]


def told(data, split, change=lambda found: found, task=None):
    """A teacher that says of a split what people say, changed."""
    own = task or read_objects(data)
    truths = [truths_of(row, own)[0] for row in load_split(data, split)["objects"]]
    return Told([Prediction(1.0, findings=tuple(change(one))) for one in truths], own)


def test_a_label_is_right_once_and_a_crowd_is_no_mistake():
    task = TaskSpec(CLASSES, ("defect", "defect"), "detection")
    box = (10.0, 10.0, 20.0, 20.0)
    sure, twice, other = Finding("wire", 0.9, box), Finding("wire", 0.8, box), Finding("wire rope", 0.7, box)
    beside = Finding("wire", 0.6, (10.0, 10.0, 20.0, 14.0))
    found = compared([twice, sure, other, beside], [Finding("wire", 1.0, box)], [], task)
    assert found.right == {"wire": [True, False, False], "wire rope": [False]}
    assert found.found == {"wire": [True], "wire rope": []}
    assert found.overlaps["wire"] == [1.0]
    assert found.disagreements == 3
    crowd = Finding("wire rope", 1.0, (0.0, 0.0, 40.0, 40.0))
    assert compared([other], [], [crowd], task).right["wire rope"] == []
    assert compared([sure], [], [crowd], task).right["wire"] == [False]


def test_the_audit_counts_by_class_and_stops_below_its_bar(data, tmp_path):
    right = teachers.audit(told(data, "calibration"), data, "calibration", tmp_path / "none.png")
    wires = right["classes"]["wire"]
    assert wires["precision"]["value"] == wires["recall"]["value"] == 1.0
    assert wires["iou"]["value"] > 0.99
    assert wires["recall"]["low"] < 1.0
    refuse_below(right, Bar(1.0, 1.0, 0.99))

    def worse(found):
        return [replace(one, name="wire rope") if one.name == "wire" else one for one in found]

    wrong = teachers.audit(told(data, "calibration", worse), data, "calibration", tmp_path / "sheet.png")
    assert wrong["classes"]["wire"]["recall"]["value"] == 0.0
    assert 0 < wrong["classes"]["wire rope"]["precision"]["value"] < 1
    with pytest.raises(DataError, match=r"wire precision undefined below 0\.50; wire recall 0\.00 below 0\.50"):
        refuse_below(wrong, Bar())
    assert Image.open(tmp_path / "sheet.png").width > 500
    boxes = teachers.audit(told(data, "calibration", task=dino.as_detection(read_objects(data))), data, "calibration")
    assert boxes["classes"]["wire"]["iou"]["value"] == 1.0
    half = teachers.audit(told(data, "calibration", lambda found: [_half(one) for one in found]), data, "calibration")
    assert half["classes"]["wire"]["iou"]["value"] < 0.6
    with pytest.raises(DataError, match="wire iou"):
        refuse_below(half, Bar(iou=0.8))


def test_labels_of_a_split_are_read_back_with_their_scores_and_negatives(data, tmp_path):
    answers = told(data, "calibration").answers + told(data, "train").answers
    said = list(answers)[-len(told(data, "train").answers) :]
    value = teachers.write_labels(Told(answers, read_objects(data)), data, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} - {files.MARKER} == {
        "annotations.json", "labels.json", "disagreements.png", "trained_on.json",
    }  # fmt: skip
    task, labels = teachers.read_labels(tmp_path / "out", data)
    assert task == read_objects(data)
    rows = [row for row in read_manifest(data)["images"] if row["split"] == "train"]
    assert set(labels) == {row["sha256"] for row in rows}
    assert value["counts"]["negatives"] == sum(not one for one in labels.values()) > 0
    for one, findings in zip(said, labels.values(), strict=True):
        assert list(one.findings) == findings
        assert all((a.mask == b.mask).all() for a, b in zip(one.findings, findings, strict=True))
    unmasked = [replace(one, findings=tuple(replace(f, mask=None) for f in one.findings)) for one in said]
    bare = told(data, "calibration").answers + unmasked
    less = teachers.write_labels(Told(bare, read_objects(data)), data, tmp_path / "bare")["counts"]
    assert len(less["left_out"]) == sum(bool(one.findings) for one in said)
    assert less["images"] == less["negatives"] == value["counts"]["negatives"], "what shows something is no negative"
    with pytest.raises(DataError, match="not good enough"):
        teachers.write_labels(told(data, "calibration", lambda found: []), data, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert (tmp_path / "no_disagreements.png").is_file()
    path = tmp_path / "out" / "annotations.json"
    path.write_text(path.read_text().replace('"wire"', '"cord"'))
    with pytest.raises(DataError, match=r"is not what labels\.json states"):
        teachers.read_labels(tmp_path / "out", data)


def test_a_teacher_is_not_audited_on_what_it_saw_and_labels_by_its_verb(trained, teacher, data, tmp_path):
    from typer.testing import CliRunner

    from hf_inspect.cli import app

    with pytest.raises(LeakageError, match="the teacher"):
        teachers.audit(teacher, data, "train")
    given = ["label", str(data), "--teacher", str(trained[0]), "--out", str(tmp_path / "labels")]
    done = CliRunner().invoke(app, [*given, "--split", "test", "--sample", "calibration", "--least", "0.9", *EVERY])
    assert done.exit_code == 0, done.output
    assert "images," in done.output
    _, labels = teachers.read_labels(tmp_path / "labels", data)
    left_out = files.read_json(tmp_path / "labels" / "labels.json")["counts"]["left_out"]
    assert len(labels) + len(left_out) == len(load_split(data, "test"))
    assert CliRunner().invoke(app, given).exit_code == 1


@pytest.mark.parametrize("seed", range(4))
def test_an_outline_is_its_mask(seed):
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 255, (5, 6), np.uint8)).resize((40, 30), Image.Resampling.BICUBIC)
    found = Finding("wire", 0.5, (3.0, 5.0, 43.0, 35.0), np.asarray(smooth) > 110)
    back = with_mask(replace(found, mask=None), pseudo.polygons_of(found))
    filled = pseudo.polygons_of(back)
    assert (back.mask & found.mask).sum() / found.mask.sum() > 0.97
    assert len(filled) >= 1


def _half(one):
    x0, y0, x1, y1 = one.box
    return Finding(one.name, one.score, (x0, y0, x1, y0 + 0.55 * (y1 - y0)))

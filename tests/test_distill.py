"""Distillation: what a student takes from a larger one, that classes are known by name, and what is computed once."""

import runpy
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from hf_inspect import data as sets
from hf_inspect import files
from hf_inspect import training as runs
from hf_inspect.detectors import Detector, distil, new_detector, training
from hf_inspect.detectors.answers import Answers
from hf_inspect.detectors.augment import augmentation, fixed_views
from hf_inspect.detectors.families import family_of
from hf_inspect.detectors.predictor import state
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.reading import Reading
from hf_inspect.schema import DETECTION, History, TaskSpec
from tests import finders, launch
from tests.test_detectors import DETR

SIDE = 160
SMALL, LARGER = {"channels": 32, "convolutions": 1}, {"channels": 64, "convolutions": 1}
TINY = "recipes/distill/tiny.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("boxes"), 40, shares="55/20/0/25")


@pytest.fixture(scope="module")
def task(data):
    return replace(sets.read_objects(data), kind=DETECTION)


def model_of(task, arguments=SMALL, base="random:test_efficientnet", seed=0, side=SIDE):
    torch.manual_seed(seed)
    return new_detector(base, task, side, side, arguments)


def saved(model, folder, history=None):
    model.save_pretrained(folder)
    sets.write_history(folder, history or History(unknown=("elsewhere",)))
    return folder


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    """A larger network whose classes stand in another order than the data's, and whose mean and std are its own.

    It is surer of one class than of the other.
    """
    other = TaskSpec(task.classes[::-1], task.dispositions[::-1], DETECTION)
    model = model_of(other, LARGER, seed=1)
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias[0] += 4
    _, decoding = training.settings_of(model)
    state(model, other, Preprocess(SIDE, SIDE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), decoding, Reading())
    return saved(model, tmp_path_factory.mktemp("teacher") / "larger")


@pytest.fixture(scope="module")
def teacher(folder):
    return Detector.from_pretrained(folder)


def seen(n=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (n, 3, SIDE, SIDE), np.uint8))


def labels_of(n, masks=False):
    one = {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.6, 0.6, 0.2, 0.4]])}
    return [one | ({"masks": torch.ones(2, SIDE, SIDE, dtype=torch.uint8)} if masks else {})] * n


def planned(student, teacher, shares=distil.SHARES, temperature=4.0, alpha=0.5):
    return distil.planned(student, teacher, shares, temperature, alpha, Reading())


def test_equal_answers_cost_nothing_and_a_place_counts_by_what_the_teacher_sees_there():
    rng = np.random.default_rng(0)
    own, theirs = (torch.tensor(rng.normal(0, 2, (2, 50, 3))) for _ in range(2))
    assert distil.soft_loss(theirs, theirs, 4.0).item() == pytest.approx(0, abs=1e-6)
    for temperature in (1.0, 4.0):  # by hand, in double precision
        p, q = (1 / (1 + np.exp(-one.numpy() / temperature)) for one in (theirs, own))
        apart = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1)
        weights = (1 / (1 + np.exp(-theirs.numpy()))).max(-1)
        wanted = temperature**2 * (weights * apart).sum() / weights.sum()
        assert distil.soft_loss(own, theirs, temperature).item() == pytest.approx(wanted, rel=1e-4)
    few = torch.full((1, 1000, 1), -12.0)
    few[0, 7] = 3.0
    missed = distil.soft_loss(torch.full_like(few, -12.0), few, 4.0).item()
    assert missed > 0.9 * distil.soft_loss(torch.full((1, 1, 1), -12.0), few[:, 7:8], 4.0).item()


def test_features_are_held_by_correlation_whatever_their_scale():
    rng = np.random.default_rng(0)
    own, theirs = (torch.tensor(rng.normal(0, 1, (3, 5, 4, 6)), dtype=torch.float32) for _ in range(2))
    channels = [one.transpose(0, 1).flatten(1).numpy() for one in (own, theirs)]
    each = [np.corrcoef(a, b)[0, 1] for a, b in zip(*channels, strict=True)]
    assert distil.feature_loss(own, theirs).item() == pytest.approx(1 - np.mean(each), abs=1e-5)
    assert distil.feature_loss(7 * theirs + 3, theirs).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_s_classes_are_known_by_name(task, teacher, tmp_path):
    """The same teacher, with its outputs in the student's order, teaches the same."""
    student, pixels = model_of(task), seen()
    plan = planned(student, teacher)
    assert plan.classes == (1, 0)
    turned = model_of(task, LARGER)
    turned.load_state_dict(teacher.model.state_dict())
    last = turned.head.classification_head.cls_logits
    with torch.no_grad():
        last.weight.copy_(last.weight.flip(0))
        last.bias.copy_(last.bias.flip(0))
    _, decoding = training.settings_of(turned)
    state(turned, task, teacher.preprocess, decoding, Reading())
    same = Detector.from_pretrained(saved(turned, tmp_path / "turned"))
    assert planned(student, same).classes == (0, 1)
    own = family_of(student.config).parts(student, torch.rand(3, 3, SIDE, SIDE), labels_of(3))
    projected, said = distil.projections(plan), []
    for one in (teacher, same):
        theirs = Answers(one, tmp_path / "kept").of(pixels)
        said.append(distil.terms(planned(student, one), own, theirs, projected))
    assert said[0]["logits"].item() == pytest.approx(said[1]["logits"].item(), rel=1e-5)
    mistaken = replace(plan, classes=(0, 1))
    wrong = distil.terms(mistaken, own, Answers(teacher, tmp_path / "kept").of(pixels), projected)
    assert wrong["logits"].item() != pytest.approx(said[0]["logits"].item(), rel=1e-3)


def test_the_terms_are_mixed_as_they_are_stated(task, teacher, tmp_path):
    student = model_of(task)
    plan = planned(student, teacher, alpha=0.25)
    assert plan.shares == pytest.approx({"detection": 3 / 7, "logits": 2 / 7, "features": 2 / 7})
    assert plan.left_out == {"segmentation": "the student finds boxes alone"}
    assert plan.widths == dict.fromkeys((8, 16, 32, 64, 128), (32, 64))
    parts, projected = family_of(student.config).parts, distil.projections(plan)
    assert {name: tuple(one.weight.shape) for name, one in projected.items()}["8"] == (64, 32, 1, 1)
    own = parts(student, torch.rand(3, 3, SIDE, SIDE), labels_of(3))
    theirs = Answers(teacher, tmp_path).of(seen())
    found = distil.terms(plan, own, theirs, projected)
    soft = distil.soft_loss(own.logits, theirs.logits.flip(-1), 4.0)
    assert found["logits"].item() == pytest.approx((0.25 * soft + 0.75 * own.losses["classes"]).item(), rel=1e-5)
    wanted = sum(plan.shares[name] * found[name].item() for name in plan.shares)
    loss = distil.mixed(plan, found)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in projected.parameters())
    assert teacher.model.head.classification_head.cls_logits.weight.grad is None


def test_a_student_comes_to_answer_as_its_teacher_without_a_label(task, teacher, tmp_path):
    student, answers = model_of(task), Answers(teacher, tmp_path)
    plan = planned(student, teacher, {"detection": 0, "segmentation": 0}, alpha=1.0)
    student.projections, batch = distil.projections(plan), seen(4)
    pixels = training.collate([{"pixel_values": one, "labels": {}} for one in batch], teacher.preprocess)[
        "pixel_values"
    ]
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=3e-3), []
    student.train()
    for _ in range(15):
        own = family_of(student.config).parts(student, pixels, labels_of(4))
        found = distil.terms(plan, own, answers.of(batch), student.projections)
        optimizer.zero_grad()
        distil.mixed(plan, found).backward()
        optimizer.step()
        losses.append({name: one.item() for name, one in found.items()})
    assert losses[-1]["logits"] < 0.5 * losses[0]["logits"]
    assert losses[-1]["features"] < 0.9 * losses[0]["features"]
    assert answers.counts == {"read": 56, "computed": 4, "broken": 0}


def test_a_segmenter_learns_by_all_four_terms(data, tmp_path):
    task = sets.read_objects(data)
    larger = Detector(model_of(task, None, "yolo11n-seg", 1), tmp_path)
    student = model_of(task, None, "yolov8n-seg")
    plan = planned(student, larger)
    assert plan.shares == pytest.approx(dict(distil.SHARES))
    assert plan.left_out == {}
    assert list(plan.widths) == [8, 16, 32]
    student.train()
    pixels, labels = torch.rand(2, 3, SIDE, SIDE), labels_of(2, masks=True)
    own = family_of(student.config).parts(student, pixels, labels)
    assert own.losses["segmentation"] > 0
    both = own.losses["detection"] + own.losses["segmentation"]
    assert student(pixels, labels).loss.item() == pytest.approx(both.item(), rel=1e-5)
    saved(larger.model, tmp_path / "model")
    larger = Detector.from_pretrained(tmp_path / "model")
    theirs = Answers(larger, tmp_path / "kept").of(seen(2))
    found = distil.terms(plan, own, theirs, distil.projections(plan))
    assert all(torch.isfinite(one) for one in found.values())
    boxes = model_of(replace(task, kind=DETECTION), SMALL)
    mixed = planned(boxes, larger)
    assert set(mixed.shares) == {"detection", "features"}
    assert mixed.left_out["logits"] == "inspection_fcos scores places otherwise than inspection_yolo"


def test_queries_at_no_fixed_places_leave_the_logits_out(task, teacher):
    student = model_of(task, DETR, "random:rt_detr_v2")
    plan = planned(student, teacher)
    assert plan.left_out["logits"] == "rt_detr_v2 scores no fixed places"
    assert plan.widths == dict.fromkeys((8, 16, 32), (32, 64))
    assert "learned by detection 0.600, features 0.400; no segmentation: " in str(plan)
    with pytest.raises(DataError, match=r"nothing of the teacher reaches the student \(no logits: .*its share is 0"):
        planned(student, teacher, {"features": 0})


def test_maps_of_one_name_and_another_size_are_not_held_against_each_other(task, teacher, monkeypatch):
    """A body may keep its last stage finer than the others do."""
    own = distil._probed

    def finer(model, height, width):
        found = own(model, height, width)
        if model is teacher.model:
            return found
        maps = {one: maps if one < 32 else maps.repeat(1, 1, 2, 2) for one, maps in found.features.items()}
        return replace(found, features=maps)

    student = model_of(task)
    monkeypatch.setattr(distil, "_probed", finer)
    assert list(planned(student, teacher).widths) == [8, 16]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shares": {"logit": 0.2}}, "'logit'; the terms are detection"),
        ({"shares": {"logits": -0.2}}, "share of logits is -0.2"),
        ({"shares": {"logits": float("nan")}}, "share of logits is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"alpha": 1.5}, "alpha 1.5"),
    ],
)
def test_shares_that_cannot_be_are_a_sentence(asked, said, task, teacher):
    with pytest.raises(DataError, match=said):
        planned(model_of(task), teacher, **asked)


def test_a_teacher_of_other_things_or_sizes_is_refused(task, teacher):
    green = TaskSpec(("green", "red"), task.dispositions, DETECTION)
    with pytest.raises(DataError, match="different questions"):
        planned(model_of(green), teacher)
    with pytest.raises(DataError, match="give --height 160 --width 160"):
        planned(model_of(task, side=SIDE + 32), teacher)


def test_an_answer_is_computed_once_whatever_batch_it_comes_in(teacher, tmp_path):
    images = seen(4)
    first = Answers(teacher, tmp_path)
    together = first.of(images)
    assert first.counts == {"read": 0, "computed": 4, "broken": 0}
    again = Answers(teacher, tmp_path)
    alone = [again.of(images[i : i + 1]) for i in (3, 1, 0, 2)]
    assert again.counts == {"read": 4, "computed": 0, "broken": 0}
    assert torch.equal(torch.cat([alone[i].logits for i in (2, 1, 3, 0)]), together.logits)
    fresh = Answers(teacher, tmp_path / "fresh").of(images[[1]])
    assert torch.equal(fresh.features[8], together.features[8][[1]])
    pixels = training.collate([{"pixel_values": one, "labels": {}} for one in images], teacher.preprocess)
    with torch.no_grad():
        wanted = teacher.model(pixels["pixel_values"])  # normalised by its own mean and std
    assert torch.allclose(together.logits, wanted.logits, atol=1e-2)
    assert together.features[32].shape == (4, 64, 5, 5)


def test_another_teacher_has_answers_of_its_own(task, teacher, tmp_path):
    Answers(teacher, tmp_path).of(seen(1))
    other = Detector.from_pretrained(saved(model_of(task, LARGER, seed=2), tmp_path / "other"))
    answers = Answers(other, tmp_path)
    answers.of(seen(1))
    assert answers.counts["computed"] == 1
    assert len({path.parent for path in tmp_path.glob("*/*.safetensors") if len(path.parent.name) == 64}) == 2


@pytest.mark.parametrize("broken", ["cut short", "a bit", "others"])
def test_a_broken_file_of_answers_is_computed_anew_and_counted(broken, teacher, tmp_path):
    first = Answers(teacher, tmp_path).of(seen(1))
    (path,) = tmp_path.glob("*/*.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    changed = {"cut short": bytes(content[:-50]), "a bit": bytes(content), "others": b"not tensors"}
    path.write_bytes(changed[broken])
    answers = Answers(teacher, tmp_path)
    assert torch.equal(answers.of(seen(1)).logits, first.logits)
    assert answers.counts == {"read": 0, "computed": 1, "broken": 1}
    assert "1 of them again as their files were broken" in str(answers)
    answers.of(seen(1))
    assert answers.counts["read"] == 1


def test_a_teacher_that_gives_no_numbers_is_refused(task, tmp_path):
    model = model_of(task, LARGER)
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.fill_(float("nan"))
    mad = Detector.from_pretrained(saved(model, tmp_path / "mad"))
    with pytest.raises(DataError, match="mad gives logits that are no numbers"):
        Answers(mad, tmp_path / "kept").of(seen(1))
    assert not list((tmp_path / "kept").rglob("*.safetensors"))


def test_an_image_shows_some_views_and_chance_goes_on_beside_them(data, task):
    rows = sets.load_split(data, "train")
    ids = [task.index(name) for name in training.names_of(rows)]
    preprocess = training.settings_of(model_of(task))[0]
    varied = fixed_views(augmentation([], [], "high", SIDE, SIDE), 3)

    def looks(n, seed):
        torch.manual_seed(seed)
        given = [training.to_inputs(rows[:2], preprocess, ids, varied) for _ in range(n)]
        return [[one.numpy().tobytes() for one in found["pixel_values"]] for found in given], torch.rand(())

    many, left = looks(40, 0)
    other, _ = looks(40, 1)
    for i in range(2):
        assert len({one[i] for one in many}) == 3
        assert {one[i] for one in many} == {one[i] for one in other}  # of the image and the number alone
    assert not {one[0] for one in many} & {one[1] for one in many}
    torch.manual_seed(0)
    for _ in range(80):
        torch.randint(3, ())
    assert left == torch.rand(())


@pytest.fixture(scope="module")
def distilled(data, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    arguments = [
        "--config",
        TINY,
        "--data",
        data,
        "--teacher",
        folder,
        "--answers",
        out / "answers",
        "--masks",
        "false",
    ]
    done = launch.recipe("edge_detector", *arguments, "--output_dir", out / "student")
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "student", arguments, done.stdout


def test_the_recipe_distils_and_says_by_what(distilled, data, folder, teacher):
    out, _, said = distilled
    log = files.read_json(out / "training_log.json")
    learned = log["distillation"]
    assert f"from {folder}: learned by detection 0.429, logits 0.286, features 0.286; no segmentation" in said
    assert learned["left_out"] == {"segmentation": "the student finds boxes alone"}
    n = len(sets.load_split(data, "train"))
    kept = len(list((out.parent / "answers" / teacher.identity).glob("*.safetensors")))
    assert learned["answers"] == {"read": 2 * (n // 8 * 8) - kept, "computed": kept, "broken": 0}
    assert n // 8 * 8 <= kept <= 2 * n
    assert {"loss_detection", "loss_logits", "loss_features"} <= set().union(*log["history"])
    student = Detector.from_pretrained(out)
    assert not any("projections" in name for name in student.model.state_dict())
    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "projections" in name]  # noqa: SIM118
    with safe_open(next(out.glob("checkpoint-*")) / "model.safetensors", "pt") as file:
        assert [name for name in file.keys() if "projections" in name]  # noqa: SIM118
    assert "elsewhere" in student.history.unknown  # what the teacher saw
    assert student.history.sources[0].fingerprint == sets.read_head(data)["fingerprint"]


def test_a_run_that_was_killed_goes_on_to_the_same_bits(distilled, tmp_path):
    """And of an image that was seen before, the teacher is not asked again."""
    out, arguments, _ = distilled
    shutil.copytree(out, tmp_path / "student")
    checkpoints = sorted((tmp_path / "student").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    shutil.rmtree(checkpoints[-1])
    for path in (tmp_path / "student").iterdir():
        if path.is_file():
            path.unlink()
    done = launch.recipe("edge_detector", *arguments, "--output_dir", tmp_path / "student")
    assert done.returncode == 0, done.stderr[-3000:]
    assert Detector.from_pretrained(tmp_path / "student").identity == Detector.from_pretrained(out).identity
    counts = files.read_json(tmp_path / "student" / "training_log.json")["distillation"]["answers"]
    assert counts["computed"] == 0
    assert counts["read"] > 0


@pytest.mark.parametrize("name", [TINY, "recipes/distill/wagon.yaml"])
def test_settings_are_ones_that_the_recipe_has(name, monkeypatch, tmp_path, data):
    recipe = runpy.run_path("recipes/edge_detector/train.py", run_name="recipe")
    given = ["train.py", "--config", name, "--use_cpu", "true", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    own, trainer = runs.parsed(recipe["DetectorArguments"], TrainingArguments)
    assert set(own.shares) == set(distil.SHARES)
    assert own.teacher is not None
    assert own.views > 0
    assert trainer.metric_for_best_model == "ap50"


def test_views_without_an_end_are_refused_before_a_step(monkeypatch, tmp_path, data, folder):
    recipe = runpy.run_path("recipes/edge_detector/train.py", run_name="recipe")
    given = ["train.py", "--config", TINY, "--use_cpu", "true", "--output_dir", str(tmp_path), "--data", str(data)]
    monkeypatch.setattr(sys, "argv", [*given, "--teacher", str(folder), "--views", "0"])
    with pytest.raises(DataError, match="give --views 4"):
        recipe["main"]()


@pytest.fixture(scope="module")
def ablation(data, distilled, tmp_path_factory):
    """Cells of a run, whose trainings and evaluations are real, on the student that the recipe made as the teacher."""
    out = tmp_path_factory.mktemp("ablation")
    fit = out / "fit.yaml"
    fit.write_text((launch.ROOT / TINY).read_text().replace("num_train_epochs: 2", "num_train_epochs: 1\nmasks: false"))
    given = ["recipes/distill/ablation.py", "--config", "recipes/distill/ablation.yaml", "--fit", fit, "--data", data,
             "--teacher", distilled[0], "--output_dir", out / "cells", "--seeds", "0", "--arms"]  # fmt: skip
    return out / "cells", given


def test_the_ablation_is_a_table_and_no_cell_is_done_twice(ablation, data):
    out, given = ablation
    first = launch.script([*given, "labels"], launch.ON_A_CPU)
    assert first.returncode == 0, first.stderr[-3000:]
    done = launch.script([*given, "labels", "logits"], launch.ON_A_CPU)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{out}/labels-0/training_log.json is there" in done.stdout
    rows = files.read_json(out / "ablation.json")["cells"]
    assert [(row["arm"], row["seed"]) for row in rows] == [("labels", 0), ("logits", 0)]
    for row in rows:
        results = files.read_json(out / f"{row['arm']}-{row['seed']}.json")
        assert row["test"]["ap50"] == results["detection"]["ap50"]["value"]
    alone, taught = (files.read_json(out / f"{arm}-0" / "training_log.json") for arm in ("labels", "logits"))
    assert "distillation" not in alone
    assert taught["distillation"]["left_out"]["features"] == "its share is 0"
    assert taught["distillation"]["shares"] == pytest.approx({"detection": 0.6, "logits": 0.4})
    said = (out / "ablation.md").read_text()
    assert "| labels, logits | " in said
    assert "labels, logits against labels alone, AP50 seed by seed: validation " in said
    assert (out / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    refused = launch.script([*given, "none"], launch.ON_A_CPU)
    assert refused.returncode == 1
    assert "give seeds, and some of labels, logits, features, both" in refused.stderr


def test_the_table_holds_mean_spread_and_pairs():
    recipe = runpy.run_path("recipes/distill/ablation.py", run_name="recipe")
    rows = [{"arm": arm, "seed": seed, "validation": {"map": v / 2, "ap50": v}, "test": {"map": t / 2, "ap50": t}}
            for arm, seed, v, t in (("labels", 0, 0.10, 0.20), ("labels", 1, 0.20, 0.10),
                                    ("both", 1, 0.26, 0.14), ("both", 0, 0.12, 0.22))]  # fmt: skip
    teacher = {split: {"map": 0.2, "ap50": 0.4} for split in ("validation", "test")}
    said = recipe["table"](rows, teacher).splitlines()
    assert said[2] == "| labels alone | 0.075 ± 0.035 | 0.150 ± 0.071 | 0.075 ± 0.035 | 0.150 ± 0.071 | 2 |"
    assert "Validation AP50 chooses: labels, logits and features." in said
    assert said[-1].endswith("seed by seed: validation +0.040 ± 0.028, test +0.030 ± 0.014.")

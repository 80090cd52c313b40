"""The VLM recipe, run by its documented command: loss on the answer only, a checked list of what trains, resuming."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from hf_inspect import files, images, metrics, prompts
from hf_inspect.data import load_split, read_history, sign, write_history
from hf_inspect.errors import DataError
from hf_inspect.hub import check
from hf_inspect.schema import History, Source, TaskSpec
from hf_inspect.vlm import VLM, Asking, rates, training
from hf_inspect.vlm import tiny as tiny_bases
from tests import launch, tiny
from tests.conftest import png

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "recipes/vlm_sft/tiny.yaml")
RATES = {"vision_tower": 1e-3, "multi_modal_projector": 2e-3, "lora_": 3e-3}


def given(data, out, *more):
    """Arguments of the recipe."""
    return ["--config", "recipes/vlm_sft/tiny.yaml", "--data", data, "--output_dir", out, *more]


def train(data, out, cache):
    """What the recipe's command gave."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "recipes/vlm_sft/train.py"]
    environment = os.environ | {"HF_INSPECT_CACHE": str(cache)}
    return subprocess.run(
        [*command, *given(data, out)], cwd=ROOT, capture_output=True, text=True, timeout=480, env=environment
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(elpv, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("vlm") / "adapter"
    done = train(elpv, out, cache)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


@pytest.fixture(scope="module")
def tiny_base(cache):
    return tiny_bases.tiny_base(cache / "tiny-base-2")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("vlm_sft_train", ROOT / "recipes/vlm_sft/train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wrapped(tiny_base):
    model, _ = tiny.parts(tiny_base)
    return get_peft_model(model, LoraConfig(r=4, target_modules=tiny.LORA, modules_to_save=tiny.FULL))


def log_of(out):
    return json.loads((out / "training_log.json").read_text())


def test_the_folder_holds_what_it_must_and_nothing_that_needs_unpickling(trained):
    out, printed = trained
    assert {p.name for p in out.iterdir() if p.is_file()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "prompt.json",
        "trained_on.json", "training_log.json",
    }  # fmt: skip
    assert "vision_tower: 47 tensors, 99,196 parameters, rate 0.001" in printed
    assert "lora_: 28 tensors" in printed
    losses = [row["loss"] for row in log_of(out)["history"] if "loss" in row]
    assert losses[-1] < losses[0]


def test_two_processes_give_the_losses_of_one_whose_steps_are_of_the_same_batches(elpv, cache, tmp_path):
    """Batch norms see a batch: one process takes the two processes' batches one after the other in a step."""
    nothing_random = ("--augment", "false", "--soft_labels", "false", "--num_train_epochs", "1")
    halves = ("--per_device_train_batch_size", "8", *nothing_random)
    environment = {"HF_INSPECT_CACHE": str(cache)}
    steps = given(elpv, tmp_path / "one", *halves, "--gradient_accumulation_steps", "2")
    ran = [launch.recipe("vlm_sft", *steps, environment=environment)]
    ran += launch.two("vlm_sft", *given(elpv, tmp_path / "two", *halves), environment=environment)
    for done in ran:
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    losses = [[row["loss"] for row in log["history"] if "loss" in row] for log in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_was_trained_may_be_pushed_as_it_is(trained, tmp_path):
    assert "Not measured on a test split yet." in (trained[0] / "README.md").read_text()
    shutil.copytree(trained[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*", "runs"))
    assert "README.md" in check(tmp_path / "copy")


def test_the_adapter_answers_as_the_trainer_measured(trained, elpv, tiny_base):
    rows = load_split(elpv, "validation").shuffle(seed=0).select(range(64))
    vlm = VLM.from_pretrained(tiny_base, trained[0], dtype=torch.float32)
    assert vlm.question == prompts.SOLAR_CELL
    answers = vlm.predict([images.load(row["bytes"]).rgb for row in rows["image"]])
    p = [one.severity for one in answers]
    measured = log_of(trained[0])["best"]["score"]
    assert metrics.auroc(rows["label"], p)["value"] == pytest.approx(measured, abs=0.02)


def test_batch_norm_s_statistics_travel_with_the_adapter(trained, tiny_base):
    ours, before = load_file(trained[0] / "adapter_model.safetensors"), load_file(tiny_base / "model.safetensors")
    statistics = [name for name in ours if "running_" in name]
    assert len(statistics) == 26
    for name in statistics:
        assert not torch.equal(ours[name], before[name.removeprefix("base_model.model.")])
    merged = VLM.from_pretrained(tiny_base, trained[0], dtype=torch.float32).model.state_dict()
    assert all(torch.equal(merged[name.removeprefix("base_model.model.")], ours[name]) for name in statistics)


def test_it_carries_every_image_it_was_trained_on(trained, elpv):
    history, manifest = read_history(trained[0], "adapter"), files.read_json(elpv / "manifest.json")
    assert history.fingerprints == (manifest["fingerprint"],)
    assert history.unknown == ()  # the tiny base is random
    known = {row["sha256"]: row["split"] for row in manifest["images"]}
    splits = [known[sha256] for sha256, _, _ in history.signatures]
    assert (splits.count("train"), splits.count("validation")) == (64, 64)


def test_a_stopped_run_goes_on_from_its_newest_whole_checkpoint(trained, elpv, cache, recipe, tmp_path, monkeypatch):
    out = tmp_path / "again"
    for step in (4, 8):
        shutil.copytree(trained[0] / f"checkpoint-{step}", out / f"checkpoint-{step}")
    (out / "checkpoint-8" / "trainer_state.json").unlink()  # cut short
    run_here(recipe, monkeypatch, cache, "--data", elpv, "--output_dir", out)
    assert [row["step"] for row in log_of(out)["history"] if "loss" in row] == [2, 4, 6, 8]
    ours, whole = (load_file(folder / "adapter_model.safetensors") for folder in (out, trained[0]))
    assert max((ours[name].float() - whole[name].float()).abs().max().item() for name in whole) <= 1e-6


def run_here(recipe, monkeypatch, cache, *arguments, config=TINY):
    """The recipe in this process."""
    monkeypatch.setenv("HF_INSPECT_CACHE", str(cache))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config), *map(str, arguments)])
    recipe.main()


def test_checkpoints_of_other_settings_or_data_are_refused(trained, elpv, cache, recipe, tmp_path, monkeypatch):
    out = shutil.copytree(trained[0], tmp_path / "again")
    own = ("--data", elpv, "--output_dir", out)
    with pytest.raises(DataError, match=r"learning_rate 0\.003 there, 0\.001 here"):
        run_here(recipe, monkeypatch, cache, *own, "--learning_rate", "1e-3")
    other = shutil.copytree(elpv, tmp_path / "data")
    manifest = files.read_json(other / "manifest.json")
    files.write_json(other / "manifest.json", manifest | {"fingerprint": "other"})
    with pytest.raises(DataError, match=r"data .* there, other here"):
        run_here(recipe, monkeypatch, cache, "--data", other, "--output_dir", out)
    before = (out / "adapter_model.safetensors").read_bytes()
    run_here(recipe, monkeypatch, cache, *own)  # the same run: nothing is left to train
    assert (out / "adapter_model.safetensors").read_bytes() == before


WHOLE = ("--lora_r", "0", "--max_rows", "16", "--num_train_epochs", "1", "--augment", "false", "--soft_labels", "false")


def test_a_whole_fine_tune_goes_on_from_an_adapter_and_knows_all_that_was_seen(
    trained, elpv, cache, recipe, tiny_base, tmp_path, monkeypatch
):
    """base with a past -> adapter -> whole fine-tune: one history; with a rate of nought, the merged weights."""
    base, out = shutil.copytree(tiny_base, tmp_path / "base"), tmp_path / "whole"
    seen = sign(png(tiny.pictures(1)[0])).record()
    past = History((Source("before", "f" * 64, "CC-BY-NC-4.0", 1),), (seen,), ("someone",))
    write_history(base, past)
    config = tmp_path / "still.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(Path(TINY).read_text()) | {"learning_rates": {"projector": 0.0}}))
    given = ("--data", elpv, "--output_dir", out, "--base", base, "--adapter", trained[0], *WHOLE)
    run_here(recipe, monkeypatch, cache, *given, config=config)
    history, own = read_history(out, "whole"), read_history(trained[0], "adapter")
    assert history.licences == ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0")
    assert history.unknown == ("someone",)
    assert set(past.signatures) | set(own.signatures) <= set(history.signatures)
    merged, tuned = (VLM.from_pretrained(*given, dtype=torch.float32) for given in ((base, trained[0]), (out,)))
    assert tuned.question == merged.question
    plain = dict(VLM.from_pretrained(base, question=merged.question, dtype=torch.float32).model.named_parameters())
    moved = 0
    for (name, ours), wanted in zip(merged.model.named_parameters(), tuned.model.parameters(), strict=True):
        assert torch.allclose(wanted, ours, atol=1e-3, rtol=1e-2), name  # saved in bfloat16
        moved += not torch.allclose(wanted, plain[name], atol=1e-3, rtol=1e-2)
    assert moved > 14  # what the adapter changed, its tower and projector too


def test_an_adapter_on_a_merged_adapter_is_refused(trained, elpv, cache, recipe, tmp_path, monkeypatch):
    given = ("--data", elpv, "--output_dir", tmp_path / "out", "--adapter", trained[0])
    with pytest.raises(DataError, match="set lora_r to 0"):
        run_here(recipe, monkeypatch, cache, *given)
    with pytest.raises(DataError, match="not merged into 4 bits"):
        training.load_base(tiny_bases.tiny_base(), 64, torch.float32, quantized="nf4", adapter=trained[0])


def test_a_tower_from_a_student_knows_what_the_student_saw(tiny_base, tmp_path):
    seen = History((Source("cells", "f" * 64, "CC-BY-NC-4.0", 0),))
    write_history(tmp_path / "student", seen)
    assert training.parents_of(tiny_base, None, tmp_path / "student") == [History(), seen]
    (tmp_path / "bare").mkdir()
    assert training.parents_of(tiny_base, tmp_path / "bare")[1].unknown == ("bare",)


def test_a_task_of_good_classes_alone_is_refused(elpv, cache, recipe, tmp_path, monkeypatch):
    questions = prompts.Question("", "Which?", TaskSpec.of(("a", "b"), good=["a", "b"]))
    asked = type("Asked", (), {"question": lambda self: questions})()
    monkeypatch.setattr(recipe, "questions_of", lambda *given: asked)
    with pytest.raises(DataError, match="needs a good and a defect class"):
        run_here(recipe, monkeypatch, cache, "--data", elpv, "--output_dir", tmp_path / "out")


@pytest.mark.parametrize("config", sorted((ROOT / "recipes/vlm_sft").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_is_understood(recipe, config, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config)])
    arguments, trainer = recipe.training.parsed(recipe.AdapterArguments, recipe.SFTConfig)
    assert arguments.learning_rates
    assert trainer.metric_for_best_model in ("auroc", "accuracy")
    assert not trainer.gradient_checkpointing or arguments.quantized


@pytest.mark.parametrize("label", [0, 1])
def test_the_loss_is_on_the_answer_and_its_end_alone(tiny_base, label):
    _, processor = tiny.parts(tiny_base)
    rows = [{"images": [tiny.pictures(1)[0]], **prompts.render(prompts.SOLAR_CELL, i)} for i in (label, 1 - label)]
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    kept = batch["labels"][0][batch["labels"][0] != -100]
    assert processor.tokenizer.decode(kept) == prompts.SOLAR_CELL.options[label] + "<|im_end|>"


def test_answer_loss_is_the_model_s_own(tiny_base):
    model, processor = tiny.parts(tiny_base)
    tiny.loud(model)
    rows = [
        {"images": [image], **prompts.render(prompts.SOLAR_CELL, i % 2)} for i, image in enumerate(tiny.pictures(4))
    ]
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    whole = model(**batch).loss
    assert training.answer_loss(model, batch).item() == pytest.approx(whole.item(), rel=1e-5)
    tokens = (batch["labels"] != -100).sum()
    assert training.answer_loss(model, batch, 2 * tokens).item() == pytest.approx(whole.item() / 2, rel=1e-5)


def test_what_trains_is_what_is_named(wrapped):
    groups = rates.what_trains(wrapped, RATES)
    trainable = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert {name for names in groups.values() for name in names} == trainable
    decayed = [name for name in trainable if name.endswith("weight")]
    optimizer = rates.optimizer_groups(wrapped, RATES, decayed, 0.01)
    assert {group["name"]: group["lr"] for group in optimizer} == RATES
    assert sum(len(group["params"]) for group in optimizer) == len(trainable)


def test_anything_else_trainable_or_anything_named_but_frozen_stops(wrapped):
    with pytest.raises(DataError, match=r"trains, but no pattern"):
        rates.what_trains(wrapped, {"vision_tower": 1, "lora_": 1})
    with pytest.raises(DataError, match="'nothing'"):
        rates.what_trains(wrapped, RATES | {"nothing": 1})
    with pytest.raises(DataError, match="but it is frozen"):
        rates.what_trains(wrapped, RATES | {"embed_tokens": 1})


@pytest.mark.parametrize("names", [("good", "defect"), ("defect", "good"), ("broken", "ok")])
def test_soft_labels_are_sampled_by_the_probability_of_a_defect(names):
    n, task = 200, TaskSpec.of(names, good={"good", "ok"} & set(names))
    question, bad = prompts.Question("", "Which?", task), task.defects[0]
    batch = {"image": [{"bytes": png(tiny.pictures(1)[0])}] * n, "class_id": [1] * n, "probability": [1 / 3] * n}
    torch.manual_seed(0)
    answers = training.chat_rows(batch, question, soft_labels=True)["completion"]
    assert 45 < sum(answer[0]["content"][0]["text"] == bad for answer in answers) < 90
    hard = training.chat_rows(batch, question)["completion"]
    assert {answer[0]["content"][0]["text"] for answer in hard} == {names[1]}
    three = prompts.Question("", "Which?", TaskSpec.of((*names, "dirty"), good=task.good))
    kept = training.chat_rows(batch, three, soft_labels=True)["completion"]
    assert {answer[0]["content"][0]["text"] for answer in kept} == {names[1]}  # P(defect) does not say which


def test_validation_scores_are_of_the_classes_and_of_good_against_defect_in_any_order():
    rng = np.random.default_rng(0)
    names, n = ("dent", "fine", "scratch"), 60
    p, classes = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        task = TaskSpec.of([names[i] for i in order], good=["fine"])
        found.append(training.validation_scores(task, [order.index(i) for i in classes], p[:, order]))
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[0]["accuracy"] == np.mean(p.argmax(1) == classes)
    assert found[0]["auroc"] == metrics.auroc(classes != 1, 1 - p[:, 1])["value"]
    assert 0 < found[0]["macro_f1"] < 1


def test_each_process_ranks_its_share_of_rows_that_are_never_all_in_memory(tiny_base, elpv, monkeypatch):
    """Two threads stand in for two processes: what each ranked reaches the other, and lies at its image's place."""
    rows = training.rows_with_class_ids(elpv, "validation", prompts.SOLAR_CELL.task, 9)
    model, processor = tiny.parts(tiny_base)
    vlm = VLM(tiny.loud(model), processor, prompts.SOLAR_CELL, asking=Asking(batch_size=4, normalise=True))
    wanted = vlm.rank([images.load(row["bytes"]).rgb for row in rows["image"]])
    assert np.diff(np.sort(wanted[:, 0])).min() > 1e-4  # no two images have one answer
    monkeypatch.setattr(training, "_AT_ONCE", 3)
    most, rank = [], VLM.rank
    monkeypatch.setattr(VLM, "rank", lambda self, images: most.append(len(images)) or rank(self, images))

    def ranked(n):
        parts, there, here = [None] * n, threading.Barrier(n), threading.local()

        def gather(own):
            (parts[here.index],) = own
            there.wait(60)
            return parts

        def process(i):
            here.index = i
            return training.rank_together(vlm, rows, SimpleNamespace(process_index=i, num_processes=n))

        monkeypatch.setattr("accelerate.utils.gather_object", gather)
        with ThreadPoolExecutor(n) as threads:
            return list(threads.map(process, range(n)))

    for found in [*ranked(1), *ranked(2)]:
        assert found == pytest.approx(wanted, abs=1e-5)
    assert max(most) == 3


def test_a_tower_in_float32_ignores_autocast_and_changes_no_name(wrapped):
    names = set(wrapped.state_dict())
    tower = wrapped.get_submodule("base_model.model.model.vision_tower.modules_to_save.default")
    pixels = torch.randn(1, 3, 64, 64)
    plain = tower(pixels).last_hidden_state
    training.convolutions_in_float32(tower)
    with torch.autocast("cpu", torch.bfloat16):
        inside = tower(pixels).last_hidden_state
    assert inside.dtype == torch.float32
    assert torch.allclose(inside, plain, atol=1e-5)
    assert set(wrapped.state_dict()) == names


def test_what_is_trained_is_in_float32_whatever_the_base_is(tiny_base):
    model, _ = tiny.parts(tiny_base)
    wrapped = get_peft_model(model.bfloat16(), LoraConfig(r=4, target_modules=tiny.LORA, modules_to_save=tiny.FULL))
    training.float32_where_trained(wrapped)
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {torch.float32}
    floats = [b for name, b in wrapped.named_buffers() if "modules_to_save" in name and b.is_floating_point()]
    assert {b.dtype for b in floats} == {torch.float32}
    assert wrapped.get_input_embeddings().weight.dtype == torch.bfloat16


def test_compiling_says_what_it_finds(wrapped, monkeypatch, capsys):
    with pytest.raises(DataError, match="matches no module"):
        training.compile_training(wrapped, "no_such_layer")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert training.compile_training(wrapped, r".*layers\.\d+") == 0
    assert "No C++ compiler" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr("torch.compile", lambda forward: lambda *args, **kwargs: "compiled")
    assert training.compile_training(wrapped, r".*multi_modal_projector\.modules_to_save\.default") == 1
    projector = wrapped.get_submodule("base_model.model.model.multi_modal_projector.modules_to_save.default")
    assert projector.train()(torch.zeros(1, 256)) == "compiled"
    assert projector.eval()(torch.zeros(1, 256)).shape == (1, 64)

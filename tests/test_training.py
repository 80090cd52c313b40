"""Checkpoints bound to what made them: a run goes on from its own, and from no other's."""

import errno
import functools
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hf_inspect import training
from hf_inspect.errors import DataError, HubError, sentence_of
from hf_inspect.training import (
    bound_checkpoints,
    check_processes,
    checkpoints,
    content_of,
    differences,
    lines,
    made_from,
    newest_whole_checkpoint,
    publication,
    run,
    torn,
    write_training_log,
)
from hf_inspect.training import resume_from as resume
from tests.hub import READ_TOKEN


@dataclass
class Arguments:
    data: Path = Path("somewhere")
    base: str = "random:net"
    weights: Path | None = None
    rates: dict[str, float] = field(default_factory=dict)
    patience: int = 5


def settings(out, **more):
    common = {"use_cpu": True, "report_to": "none", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    return TrainingArguments(str(out), **(common | more))


def of(out, fingerprint="f" * 64, own=None, **more):
    return made_from(fingerprint, own or Arguments(), settings(out, **more))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, labels):
        logits = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_of(out, made, callbacks=(), eval_rows=None, **more):
    torch.manual_seed(0)
    rows = [{"x": torch.rand(2), "labels": i % 2} for i in range(16)]
    common = {"train_dataset": rows, "eval_dataset": eval_rows, "callbacks": [*callbacks, bound_checkpoints(made)]}
    return Trainer(Net(), settings(out, **more), **common)


def train(out, made, **more):
    trainer = trainer_of(out, made, **more)
    training.train(trainer, made)
    return trainer


def test_the_same_run_goes_on_and_a_finished_one_does_no_step(tmp_path):
    made = of(tmp_path)
    assert resume(tmp_path, made) is None
    train(tmp_path, made)
    assert resume(tmp_path, of(tmp_path)).endswith("checkpoint-4")
    again = train(tmp_path, made)
    assert again.state.global_step == 4
    assert resume(tmp_path, made).endswith("checkpoint-4")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fingerprint": "0" * 64}, "data ffff.* there, 0000.* here"),
        ({"learning_rate": 0.5}, "learning_rate 5e-05 there, 0.5 here"),
        ({"max_steps": 6}, "max_steps 4 there, 6 here"),
        ({"per_device_train_batch_size": 4}, "per_device_train_batch_size 8 there, 4 here"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 1 there, 2 here"),
        ({"num_train_epochs": 7}, "num_train_epochs 3.0 there, 7 here"),
        ({"seed": 7}, "seed 42 there, 7 here"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches false there, true here"),
        ({"own": Arguments(patience=6)}, "patience 5 there, 6 here"),
        ({"own": Arguments(base="random:other")}, "base random:net there, random:other here"),
        ({"own": Arguments(rates={"head": 0.1})}, "rates.head null there, 0.1 here"),
    ],
)
def test_checkpoints_of_another_run_are_refused_naming_what_differs(tmp_path, change, named):
    train(tmp_path, of(tmp_path))
    with pytest.raises(DataError, match=rf"checkpoint-4 was made from other .*\({named}\); give another --output_dir"):
        resume(tmp_path, of(tmp_path, **change))


def test_what_does_not_decide_may_change(tmp_path):
    train(tmp_path, of(tmp_path))
    other = {"logging_steps": 3, "dataloader_num_workers": 2, "save_total_limit": 1, "save_steps": 1, "run_name": "x"}
    now = of(tmp_path, own=Arguments(data=Path("moved")), per_device_eval_batch_size=3, **other)
    assert resume(tmp_path, now).endswith("checkpoint-4")


def test_where_the_best_checkpoint_is_kept_how_often_it_saves_decides(tmp_path):
    kept = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    assert differences(of(tmp_path, **kept), of(tmp_path, **kept, save_steps=1)) == ["save_steps 2 there, 1 here"]


def test_files_and_folders_count_by_their_content_wherever_they_lie(tmp_path):
    bases = [tmp_path / name for name in ("a", "b")]
    for folder in bases:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    (bases[1] / "README.md").write_text("a card")
    (bases[1] / "results.json").write_text("{}")
    one, other = (of(tmp_path, own=Arguments(base=str(folder), weights=folder / "config.json")) for folder in bases)
    assert one == other
    (bases[1] / "model.safetensors").write_bytes(b"others!")
    changed = of(tmp_path, own=Arguments(base=str(bases[1]), weights=bases[1] / "config.json"))
    assert [line.split()[0] for line in differences(one, changed)] == ["base"]
    assert content_of(bases[0]) != content_of(bases[1])


def test_the_number_of_processes_counts(tmp_path):
    made = of(tmp_path)
    assert made["settings"]["processes"] == 1
    twice = made | {"settings": made["settings"] | {"processes": 2}}
    assert differences(made, twice) == ["processes 1 there, 2 here"]


def test_an_older_version_s_checkpoint_is_refused_and_a_torn_one_passed_over(tmp_path):
    train(tmp_path, of(tmp_path))
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    whole = state.read_text()
    state.write_text(whole[:-10])
    assert resume(tmp_path, of(tmp_path)).endswith("checkpoint-2")
    assert newest_whole_checkpoint(tmp_path).endswith("checkpoint-2")
    state.write_text(json.dumps({"stateful_callbacks": {}}))
    with pytest.raises(DataError, match=r"checkpoint-4 does not say which data and settings made it"):
        resume(tmp_path, of(tmp_path))


# What a kill, a full disk or a lost file leaves of a checkpoint.


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def pieces(checkpoint):
    return sorted(path.name for path in checkpoint.iterdir())


def test_a_checkpoint_holds_these_files(tmp_path):
    """Those that the tests below spoil, each; a Trainer that writes others wants another look at `torn`."""
    train(tmp_path, of(tmp_path))
    assert pieces(tmp_path / "checkpoint-4") == [
        "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
        "training_args.bin",
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]
)
def test_a_newest_checkpoint_with_any_file_cut_short_is_named_and_the_older_one_gone_on_from(
    tmp_path, capsys, name, share
):
    made = of(tmp_path)
    undisturbed = weights(train(tmp_path, made))
    path = tmp_path / "checkpoint-4" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert torn(tmp_path / "checkpoint-2") is None
    assert newest_whole_checkpoint(tmp_path).endswith("checkpoint-2")
    again = train(tmp_path, made)
    assert f"checkpoint-4 is passed over: its {name} is" in capsys.readouterr().out
    assert again.state.global_step == 4
    assert torch.equal(weights(again), undisturbed)
    assert torn(tmp_path / "checkpoint-4") is None, "written anew"


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("model.safetensors", "weights"), ("optimizer.pt", "state of the optimizer"),
        ("scheduler.pt", "state of the schedule"), ("rng_state.pth", "rng_state.pth"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_lacks_a_file_is_passed_over(tmp_path, name, piece):
    """A Trainer begins with a fresh optimizer where there is none, without a word."""
    train(tmp_path, of(tmp_path))
    (tmp_path / "checkpoint-4" / name).unlink()
    assert torn(tmp_path / "checkpoint-4") == f"its {piece} is missing"
    assert resume(tmp_path, of(tmp_path)).endswith("checkpoint-2")


def test_no_whole_checkpoint_is_none(tmp_path):
    train(tmp_path, of(tmp_path))
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    assert resume(tmp_path, of(tmp_path)) is None


def test_every_shard_and_every_process_counts(tmp_path):
    train(tmp_path, of(tmp_path))
    checkpoint = tmp_path / "checkpoint-4"
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torn(checkpoint) == "its model.safetensors.index.json is cut short"
    (checkpoint / "model-00002-of-00002.safetensors").write_bytes(
        (checkpoint / "model-00001-of-00002.safetensors").read_bytes()
    )
    assert torn(checkpoint) is None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["stateful_callbacks"]["BoundCheckpoints"]["args"]["made_from"]["settings"]["processes"] = 2
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    assert torn(checkpoint) == "its rng_state_1.pth is missing"


BEST = {  # of losses, the highest: the first one's, as the steps are far too long
    "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 8,
    "metric_for_best_model": "loss", "greater_is_better": True, "learning_rate": 50.0,
}  # fmt: skip


def best_first(out, *callbacks):
    """A run whose first evaluation is its best."""
    rows = [{"x": torch.tensor([1.0, 2.0]), "labels": i % 2} for i in range(4)]
    trainer = train(out, of(out, **BEST), eval_rows=rows, callbacks=callbacks, **BEST)
    assert trainer.state.best_global_step == 2
    return trainer


def test_a_run_whose_best_checkpoint_is_cut_short_is_not_gone_on_from(tmp_path):
    best_first(tmp_path)
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    assert torn(tmp_path / "checkpoint-8") == "checkpoint-2, the best of its run, is gone or cut short"


def test_a_run_that_was_moved_ends_with_the_best_weights_of_its_own_folder(tmp_path):
    """A Trainer that does not find the best checkpoint saves the last weights, and only logs a warning."""
    wanted = weights(best_first(tmp_path / "first"))
    (tmp_path / "first").rename(tmp_path / "moved")
    again = best_first(tmp_path / "moved")
    assert Path(again.state.best_model_checkpoint).parent == tmp_path / "moved"
    assert torch.equal(weights(again), wanted)


def test_a_best_checkpoint_that_went_while_training_is_an_error(tmp_path):
    class Removing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                shutil.rmtree(state.best_model_checkpoint)

    with pytest.raises(DataError, match=r"the best checkpoint, is gone; remove .* to train anew"):
        best_first(tmp_path, Removing())


def test_a_run_that_stopped_early_stops_there_again_and_keeps_its_patience(tmp_path):
    for name in ("ended", "killed"):
        assert best_first(tmp_path / name, EarlyStoppingCallback(2)).state.global_step == 6
    again = best_first(tmp_path / "ended", EarlyStoppingCallback(2))
    assert again.state.global_step == 6
    assert again.args.max_steps == 8
    shutil.rmtree(tmp_path / "killed" / "checkpoint-6")
    killed = best_first(tmp_path / "killed", EarlyStoppingCallback(2))
    assert killed.state.global_step == 6, "its patience began anew"
    assert torch.equal(weights(killed), weights(again))


MANY = {"max_steps": 24, "save_steps": 1, "save_total_limit": 3}
KILLS = int(os.environ.get("HF_INSPECT_TEST_KILLS", "8"))


class Killing(TrainerCallback):
    """Kills its own process so many seconds after a step has begun; at once where these are none."""

    def __init__(self, step, seconds):
        self.step, self.seconds = step, seconds

    def on_step_begin(self, args, state, control, **kwargs):
        kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
        if state.global_step + 1 == self.step:
            threading.Timer(self.seconds, kill).start() if self.seconds else kill()


def train_to_the_end(out, *killing):
    """A run with a checkpoint a step, in a process of its own."""
    log_of(train(Path(out), of(Path(out), **MANY), callbacks=killing, **MANY), Path(out))


def test_kill_9_at_random_moments_of_a_resume_loses_nothing_and_changes_nothing(tmp_path):
    """The child's fork server has imported all; so it is killed as it starts, loads, trains, saves and tidies up."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.test_training"])
    wanted, killed = tmp_path / "undisturbed", tmp_path / "killed"

    def begun(folder, *killing):
        """A run of its own process, as all are: what other tests left in this one is no part of it."""
        child = processes.Process(target=train_to_the_end, args=(str(folder), *killing))
        child.start()
        return child

    for _ in range(2):  # the first also starts the fork server
        shutil.rmtree(wanted, ignore_errors=True)
        began = time.monotonic()
        begun(wanted).join()
        whole = time.monotonic() - began
    rng, reached = random.Random(0), []
    for kill in range(KILLS):
        done = reached[-1] if reached else 0
        if kill % 2:  # at any moment of a run
            child = begun(killed)
            child.join(rng.uniform(0, whole))
            child.kill()
        else:  # in a step that is yet to come, however fast this machine takes it: as it begins, or a little later
            step = rng.randint(min(done + 2, MANY["max_steps"]), MANY["max_steps"])
            child = begun(killed, Killing(step, rng.uniform(0, whole / MANY["max_steps"]) if kill % 4 else 0))
        child.join()
        reached.append(int((newest_whole_checkpoint(killed) or "-0").rpartition("-")[2]))
        assert reached[-1] >= done, "a kill cost a whole checkpoint"
        if (killed / "training_log.json").exists():  # it came to its end: from the beginning again
            assert_same_end(wanted, killed)
            shutil.rmtree(killed)
            reached.append(0)
    begun(killed).join()
    assert_same_end(wanted, killed)
    assert any(0 < step < MANY["max_steps"] for step in reached), reached


def assert_same_end(one, other):
    """Two finished runs have the same newest weights and logs."""
    logs = [json.loads((folder / "training_log.json").read_text()) for folder in (one, other)]
    assert logs[0] == logs[1]
    last = [torch.load(folder / "checkpoint-24" / "optimizer.pt", weights_only=True) for folder in (one, other)]
    assert str(last[0]) == str(last[1])
    last = [(folder / "checkpoint-24" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert last[0] == last[1]


# What the record says.


def log_of(trainer, out):
    write_training_log(trainer, Arguments())
    return json.loads((out / "training_log.json").read_text())


def test_the_log_says_what_ran_not_what_was_asked(tmp_path):
    own = {"max_steps": -1, "num_train_epochs": 9, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}

    class Stopping(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    made = of(tmp_path, **own)
    log = log_of(train(tmp_path, made, callbacks=[Stopping()], **own), tmp_path)
    assert log["trainer"]["num_train_epochs"] == 9
    # 16 images: batches of 6, 6 and 4, two a step: steps of 12 and 4 images
    assert log["ran"] == {"steps": 3, "epochs": pytest.approx(1.6667), "images_a_step": 12, "images_seen": 27}
    assert not [row for row in log["history"] if "train_runtime" in row]


def test_the_log_of_a_resumed_run_is_of_the_whole_run(tmp_path):
    made = of(tmp_path)
    whole = log_of(train(tmp_path, made), tmp_path)
    assert whole["ran"] == {"steps": 4, "epochs": 2.0, "images_a_step": 8, "images_seen": 32}
    again = log_of(train(tmp_path, made), tmp_path)
    assert again == whole


@pytest.mark.parametrize("name", ["edge_classifier", "edge_detector", "teacher_lora", "vlm_sft"])
def test_a_recipe_evaluates_every_image(name):
    recipe = runpy.run_path(f"recipes/{name}/train.py", run_name="recipe")
    own = [one for one in recipe.values() if isinstance(one, type) and issubclass(one, Trainer) and one is not Trainer]
    assert [one.get_eval_dataloader for one in own] == [training.WholeEvaluation.get_eval_dataloader]


def test_an_evaluation_is_of_every_image_whatever_is_dropped_in_training(tmp_path):
    """Of 11 rows in batches of 4, transformers' own loader leaves out 3 of an evaluation as well."""
    own = {"dataloader_drop_last": True, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    plain = trainer_of(tmp_path, of(tmp_path), **own)
    whole = type("Whole", (training.WholeEvaluation, Trainer), {})(Net(), settings(tmp_path, **own))
    seen = [sum(len(one["labels"]) for one in trainer.get_eval_dataloader(plain.train_dataset[:11]))
            for trainer in (plain, whole)]  # fmt: skip
    assert seen == [8, 11]
    assert whole.args.dataloader_drop_last


def test_dropped_batches_are_not_seen(tmp_path):
    own = {"dataloader_drop_last": True, "per_device_train_batch_size": 6, "max_steps": 4}
    ran = log_of(train(tmp_path, of(tmp_path, **own), **own), tmp_path)["ran"]
    assert ran == {"steps": 4, "epochs": 2.0, "images_a_step": 6, "images_seen": 24}


# The way up.


def test_the_trainer_s_own_pushing_is_off_and_access_is_tried_first(hub, tmp_path):
    asked = settings(tmp_path / "cells", push_to_hub=True)
    found = publication(asked)
    assert (found.repository, found.private) == ("tester/cells", True)
    assert not asked.push_to_hub
    assert publication(asked) is None
    named = {"push_to_hub": True, "hub_model_id": "acme/cells"}
    assert not publication(settings(tmp_path, hub_private_repo=False, **named)).private
    with pytest.raises(HubError, match="acme/cells is there and public"):
        publication(settings(tmp_path, **named))
    with pytest.raises(HubError, match="your token may not write there"):
        publication(settings(tmp_path, hub_token=READ_TOKEN, **named | {"hub_model_id": "acme/other"}))
    for name, value in {"hub_strategy": "checkpoint", "hub_always_push": True, "hub_revision": "v2"}.items():
        with pytest.raises(DataError, match=f"{name}: a model goes up once, when it is finished"):
            publication(settings(tmp_path, **named, **{name: value}))


def test_a_push_that_fails_says_where_the_model_lies_and_how_to_go_on(hub, tmp_path):
    for private, more in ((True, ""), (False, " --public")):
        with pytest.raises(HubError, match=rf"lies whole in .*: .* run 'hf-inspect push {tmp_path} acme/cells{more}'"):
            training.Publication("acme/cells", private).send(tmp_path)


# Sentences.


def test_processes_that_are_each_alone_are_refused_with_what_to_do(monkeypatch):
    check_processes(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match=r"^2 processes were started, 1 of them work together; start it by python\.$"):
        check_processes(1, "start it by python")


def test_a_disk_that_is_full_is_a_sentence_whoever_writes(tmp_path, monkeypatch):
    def by_safetensors():  # which would put a file in the place of /dev/full
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sys.argv", ["recipes/edge_classifier/train.py"])
    for write in (
        lambda: torch.save({"a": torch.zeros(1000)}, "/dev/full"),
        lambda: Path("/dev/full").write_text("x"),
        by_safetensors,
    ):
        with pytest.raises(SystemExit, match=r"^edge_classifier: .*the disk is full; free some space"):
            run(write)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file/out: a part of this path is a file, not a folder"):
        run(lambda: (tmp_path / "file" / "out").mkdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_disk_refuses_is_a_sentence_naming_the_place(number):
    said = sentence_of(OSError(number, "x", "some/place"))
    assert said.startswith("some/place: ")
    assert said.endswith("Then run the same command again.")


def test_the_command_line_says_it_too(monkeypatch, capsys):
    from hf_inspect import cli, reports

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "README.md"))

    monkeypatch.setattr(reports, "write_card", full)
    monkeypatch.setattr("sys.argv", ["hf-inspect", "card", "some"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("hf-inspect: some/README.md: the disk is full; free some space.")


def test_a_fault_of_the_program_keeps_its_traceback():
    assert sentence_of(KeyError("x")) is None
    assert sentence_of(FileNotFoundError(2, "No such file", "x")) is None
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_file_of_torch_is_not_whole(method, tmp_path):
    """Whatever zipfile raises on it: zlib.error, EOFError, NotImplementedError ..."""
    with zipfile.ZipFile(tmp_path / "whole.pt", "w", method) as packed:
        packed.writestr("archive/data/0", os.urandom(40) + b"weights" * 9)
    content = (tmp_path / "whole.pt").read_bytes()
    assert checkpoints._is_whole(tmp_path / "whole.pt")
    found = []
    for at in range(len(content)):
        (tmp_path / "x.pt").write_bytes(content[:at] + bytes([content[at] ^ 0x19]) + content[at + 1 :])
        found.append(checkpoints._is_whole(tmp_path / "x.pt"))
    assert found.count(False) > len(content) // 2


def test_where_no_bar_is_shown_a_line_a_minute_says_how_far_it_is(monkeypatch, capsys):
    said = lines._lines(bar=False)
    args = SimpleNamespace(
        train_batch_size=8,
        gradient_accumulation_steps=1,
        world_size=1,
        output_dir="out",
        max_steps=100,
        num_train_epochs=3,
    )
    state = SimpleNamespace(
        max_steps=100, global_step=0, epoch=0.0, is_world_process_zero=True, num_train_epochs=25, best_metric=None
    )
    clock = iter([0.0, 0.0, 0.0, 30.0, 30.0, 61.0, 61.0, 61.0, 100.0, 100.0, 125.0, 125.0])
    monkeypatch.setattr(lines, "perf_counter", lambda: next(clock))
    said.on_train_begin(args, state, None)
    for step, logs in ((10, {"loss": 3.0}), (20, {"loss": 2.0}), (30, {"loss": 1.5}), (40, {"eval_ap50": 0.5})):
        state.global_step, state.epoch = step, step / 4
        said.on_log(args, state, None, logs)
    assert capsys.readouterr().out.splitlines() == [
        "100 steps of 8 images -> out",
        "step 20 of 100: loss 2.000 (61 s)",
        "epoch 10 of 25: loss 1.500; validation ap50 0.500 (125 s)",
    ]

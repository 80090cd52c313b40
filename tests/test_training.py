"""Checkpoints bound to what made them: a run goes on from its own, and from no other's."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_inspect.errors import DataError
from hf_inspect.training import bound_checkpoints, content_of, differences, made_from, newest_whole_checkpoint
from hf_inspect.training import resume_from as resume


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


def train(out, made, **more):
    rows = [{"x": torch.rand(2), "labels": 0} for _ in range(16)]
    trainer = Trainer(Net(), settings(out, **more), train_dataset=rows, callbacks=[bound_checkpoints(made)])
    trainer.train(resume_from_checkpoint=resume(out, made))
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

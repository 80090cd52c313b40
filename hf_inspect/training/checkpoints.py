"""Checkpoints: bound to the data and settings that made them, looked at before a run goes on from one of them."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.training.lines import say_in_lines
from hf_inspect.training.sharding import refuse_shared

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainingArguments

_STATE = "trainer_state.json"  # of a checkpoint
_LONGEST = 60  # letters of a value that a refusal names
_PIECES = {  # what a Trainer goes on from; by itself, from FSDP and from DeepSpeed
    "weights": ("*.safetensors", "pytorch_model_fsdp*", "global_step*"),
    "state of the optimizer": ("optimizer*", "global_step*"),
    "state of the schedule": ("scheduler.pt", "global_step*"),
}
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def made_from(fingerprint: str, arguments: Any, training: "TrainingArguments") -> dict[str, Any]:
    """What decides a training's weights, as plain JSON values: {"data": fingerprint, "settings": {name: value}}.

    `arguments` are the recipe's own, a dataclass. Files and folders among them stand by their content, wherever they
    lie; settings that only say where, how often and how loud are left out, the number of processes is not.
    """
    own = {name: _by_content(name, value) for name, value in asdict(arguments).items() if name not in _PLACES}
    left_out = _NOT_DECIDING | (frozenset() if training.load_best_model_at_end else _CADENCE)
    theirs = {name: value for name, value in training.to_dict().items() if name not in left_out}
    settings = own | theirs | {"processes": training.world_size, "devices_a_process": max(1, training.n_gpu)}
    return json.loads(json.dumps({"data": fingerprint, "settings": settings}, default=str))


def fit_made_from(fingerprint: str, arguments: Any, left_out: Iterable[str]) -> dict[str, Any]:
    """`made_from` of a recipe without a Trainer; `left_out` are its settings that change no result."""
    own = {name: value for name, value in asdict(arguments).items() if name not in ("data", *left_out)}
    settings = {name: _by_content(name, value) for name, value in own.items()}
    return json.loads(json.dumps({"data": fingerprint, "settings": settings}, default=str))


def bound_checkpoints(made: Mapping[str, Any]) -> "TrainerCallback":
    """A Trainer's callback that keeps what `made_from` gave in every checkpoint, for `resume_from` to compare.

    It lies in trainer_state.json, which is written last and whole. The best checkpoint is looked for where the run's
    folder is now; DataError at the end when it is gone, as the Trainer would save other weights under its score.
    """
    from transformers.trainer_callback import ExportableState, TrainerCallback

    class BoundCheckpoints(TrainerCallback, ExportableState):
        def __init__(self, made_from: Mapping[str, Any]) -> None:
            self.made_from = made_from

        def state(self) -> dict[str, Any]:
            return {"args": {"made_from": self.made_from}, "attributes": {}}

        def on_train_begin(self, args: "TrainingArguments", state: Any, control: Any, **kwargs: Any) -> None:
            if state.best_model_checkpoint:
                state.best_model_checkpoint = str(Path(args.output_dir) / Path(state.best_model_checkpoint).name)

        def on_train_end(self, args: "TrainingArguments", state: Any, control: Any, **kwargs: Any) -> None:
            best = state.best_model_checkpoint
            if args.load_best_model_at_end and best and not Path(best).is_dir():
                raise DataError(f"{best}, the best checkpoint, is gone; remove {args.output_dir} to train anew.")

    return BoundCheckpoints(made)


def train(trainer: "Trainer", made: Mapping[str, Any]) -> None:
    """Train, from the newest whole checkpoint of the run's folder on; a run that has come to its end does no step.

    DataError as of `resume_from` and of `refuse_shared`.
    """
    refuse_shared(trainer)
    checkpoint = resume_from(Path(trainer.args.output_dir), made)
    trainer.args.restore_callback_states_from_checkpoint = True  # the patience that is left
    state = json.loads((Path(checkpoint) / _STATE).read_text()) if checkpoint else {}
    asked = trainer.args.max_steps
    say_in_lines(trainer)
    if state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {}).get("should_training_stop"):
        trainer.args.max_steps = state["global_step"]  # else a run that stopped early would do an epoch more each time
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.args.max_steps = asked


def resume_from(folder: Path, made: Mapping[str, Any]) -> str | None:
    """The newest whole checkpoint, None without one: what `Trainer.train` is told to go on from.

    Those that are passed over, because a kill or a disk cut them short, are named in a line each. DataError when the
    folder holds one of other data or settings than `made` (of `made_from`), naming what differs.
    """
    whole = []
    for checkpoint in _newest_first(folder):
        if reason := torn(checkpoint):
            _say(f"{checkpoint} is passed over: {reason}.")
            continue
        if unlike := differences(_made_from(checkpoint), made):
            raise DataError(
                f"{checkpoint} was made from other data or settings ({'; '.join(unlike)}); give another --output_dir, "
                f"or remove {folder} to train anew."
            )
        whole.append(str(checkpoint))
    return whole[0] if whole else None


def newest_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is `torn` nowhere; None without one."""
    return next((str(path) for path in _newest_first(folder) if torn(path) is None), None)


def torn(checkpoint: Path) -> str | None:
    """Why a run cannot go on from a checkpoint, None for a whole one; nothing is unpickled.

    Every JSON file is parsed, the header of every safetensors file compared with its size, every file of torch, which
    is a zip, with its checksums. Without the optimizer's state a Trainer would silently begin with a fresh one.
    """
    try:
        state = json.loads((checkpoint / _STATE).read_text())
    except (OSError, ValueError):
        return f"its {_STATE} is missing or cut short"
    for piece, patterns in _PIECES.items():
        if not any(path for pattern in patterns for path in checkpoint.glob(pattern)):
            return f"its {piece} is missing"
    numbers = ["rng_state.pth"] if (n := _processes(state)) == 1 else [f"rng_state_{i}.pth" for i in range(n)]
    if missing := [name for name in numbers if not (checkpoint / name).is_file()]:
        return f"its {missing[0]} is missing"
    if cut := _cut_short(checkpoint, ("*",)):
        return f"its {cut} is cut short"
    best = checkpoint.with_name(Path(state.get("best_model_checkpoint") or checkpoint).name)
    if _settings(state).get("load_best_model_at_end") and (not best.is_dir() or _cut_short(best, _WEIGHTS)):
        return f"{best.name}, the best of its run, is gone or cut short"
    return None


def differences(then: Mapping[str, Any], now: Mapping[str, Any], under: str = "") -> list[str]:
    """What two JSON records hold differently, to be read: `learning_rate 0.001 there, 0.002 here`."""
    found = []
    for name in dict.fromkeys((*then, *now)):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{under}{name}." if under or name != "settings" else "")
        elif old != new:
            found.append(f"{under}{name} {_brief(old)} there, {_brief(new)} here")
    return found


def content_of(path: Path) -> str:
    """SHA-256 (hex) of a file, or over the names and contents of the files right in a folder that decide.

    A card, results and logs beside a model do not decide.
    """
    if path.is_file():
        return files.sha256(path)
    deciding = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _DECIDE and p.name not in _BESIDE)
    listed = [[p.name, files.sha256(p)] for p in deciding]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _by_content(name: str, value: Any) -> Any:
    """A setting that is a file or a folder by what it holds, any other as it is."""
    if isinstance(value, Path) or (name in _PARTS and isinstance(value, str)):
        return f"content {content_of(Path(value))}" if Path(value).exists() else str(value)
    return value


_PLACES = ("data", "answers")  # arguments that say where things lie whose contents decide, or are computed
_PARTS = ("base", "adapter", "student")  # arguments that may be a folder or a name
_DECIDE = (".json", ".safetensors", ".bin", ".jinja", ".txt", ".model", ".yaml")
_BESIDE = ("training_log.json", "trained_on.json", "results.json", "trainer_state.json")
_CADENCE = frozenset({"save_strategy", "save_steps"})  # where the best checkpoint is kept, it is one of those saved
_NOT_DECIDING = frozenset(
    {
        "output_dir", "logging_dir", "resume_from_checkpoint", "do_train", "do_eval", "do_predict",
        "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
        "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name",
        "project", "trackio_space_id", "skip_memory_metrics", "debug", "include_for_metrics",
        "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
        "hub_revision",
        "save_only_model", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint",
        "per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object",
        "batch_eval_metrics",
        "use_cpu", "local_rank", "ddp_backend", "ddp_timeout", "torch_empty_cache_steps", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "activation_offloading",
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
        "dataloader_prefetch_factor", "dataset_num_proc",
    }
)  # fmt: skip


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, whole or not."""
    numbered = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)


def _say(line: str) -> None:
    """Print a line, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def _made_from(checkpoint: Path) -> Mapping[str, Any]:
    """What `bound_checkpoints` kept in a checkpoint; DataError for one of an older version, which kept nothing."""
    kept = _kept(json.loads((checkpoint / _STATE).read_text()))
    if kept is None:
        raise DataError(
            f"{checkpoint} does not say which data and settings made it (an older version wrote it); give another "
            f"--output_dir, or remove {checkpoint.parent} to train anew."
        )
    return kept


def _kept(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
    bound = state.get("stateful_callbacks", {}).get("BoundCheckpoints")
    return bound and bound["args"]["made_from"]


def _settings(state: Mapping[str, Any]) -> Mapping[str, Any]:
    return (_kept(state) or {}).get("settings", {})


def _processes(state: Mapping[str, Any]) -> int:
    return int(_settings(state).get("processes", 1))


def _brief(value: Any) -> str:
    """A value of a record in a few letters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _cut_short(folder: Path, patterns: Iterable[str]) -> str | None:
    """The first file of these patterns, by its path in the folder, that is not whole; None where all are."""
    found = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
    return next((str(path.relative_to(folder)) for path in found if not _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    """Whether a file of a checkpoint can be read to its end; true of kinds that cannot be told."""
    from safetensors import safe_open

    try:
        if path.name.endswith(".index.json"):
            return all((path.parent / name).is_file() for name in json.loads(path.read_text())["weight_map"].values())
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, "np"):  # reads the header, and compares the file's size with it
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as packed:
                return packed.testzip() is None
    except Exception:  # whatever the readers raise on a damaged one
        return False
    return True

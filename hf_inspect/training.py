"""What both kinds of recipe need around a transformers Trainer: augmentation, where to resume, a log of the run."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.errors import DataError, InspectError

if TYPE_CHECKING:
    from torchvision.transforms import v2
    from transformers import Trainer, TrainerCallback, TrainingArguments

LOG = "training_log.json"
_STATE = "trainer_state.json"  # of a checkpoint
_LONGEST = 60  # letters of a value that a refusal names


def parsed(*classes: Any) -> tuple[Any, ...]:
    """Settings from the command line over `--config FILE.yaml`, a value a class; DataError for unknown ones."""
    from trl.scripts.utils import TrlParser
    from yaml import YAMLError

    try:
        return tuple(TrlParser(classes).parse_args_and_config())
    except (ValueError, OSError, YAMLError) as error:
        raise DataError(f"these settings cannot be used ({error}); mend the YAML or the command.") from None


def run(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; what this package refuses is one sentence, and exits with 1."""
    try:
        main()
    except InspectError as error:
        raise SystemExit(f"{Path(sys.argv[0]).parent.name}: {error}") from None


def augmentation(side: int, jitter: float, min_crop: float) -> "v2.Compose":
    """uint8 (3, h, w) -> uint8 (3, side, side): the eight turns and mirrors of a square, a crop, light and contrast.

    `jitter` is the largest change of brightness and of contrast, `min_crop` the smallest share of the area kept.
    """
    from torchvision.transforms import v2

    transpose = v2.RandomApply([v2.Lambda(lambda x: x.transpose(-1, -2))], p=0.5)
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), transpose]
    crop = v2.RandomResizedCrop(side, scale=(min_crop, 1.0), ratio=(0.9, 1.1), antialias=True)
    return v2.Compose([*flips, crop, v2.ColorJitter(jitter, jitter)])


def check_processes(joined: int) -> None:
    """DataError when a launcher started several processes and each is alone: they would write the same files."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != joined:
        raise DataError(f"{started} processes were started, {joined} of them work together; give --use_cpu true.")


def made_from(fingerprint: str, arguments: Any, training: "TrainingArguments") -> dict[str, Any]:
    """What decides a training's weights, as plain JSON values: {"data": fingerprint, "settings": {name: value}}.

    `arguments` are the recipe's own, a dataclass. Files and folders among them stand by their content, wherever they
    lie; settings that only say where, how often and how loud are left out, the number of processes is not.
    """
    own = {name: _by_content(name, value) for name, value in asdict(arguments).items() if name != "data"}
    left_out = _NOT_DECIDING | (frozenset() if training.load_best_model_at_end else _CADENCE)
    theirs = {name: value for name, value in training.to_dict().items() if name not in left_out}
    settings = own | theirs | {"processes": training.world_size, "devices_a_process": max(1, training.n_gpu)}
    return json.loads(json.dumps({"data": fingerprint, "settings": settings}, default=str))


def bound_checkpoints(made: Mapping[str, Any]) -> "TrainerCallback":
    """A Trainer's callback that keeps what `made_from` gave in every checkpoint, for `resume_from` to compare.

    It lies in trainer_state.json, which is written last and whole: no kill leaves a checkpoint without it.
    """
    from transformers.trainer_callback import ExportableState, TrainerCallback

    class BoundCheckpoints(TrainerCallback, ExportableState):
        def __init__(self, made_from: Mapping[str, Any]) -> None:
            self.made_from = made_from

        def state(self) -> dict[str, Any]:
            return {"args": {"made_from": self.made_from}, "attributes": {}}

    return BoundCheckpoints(made)


def resume_from(folder: Path, made: Mapping[str, Any]) -> str | None:
    """The newest checkpoint a kill did not cut short, None without one: what `Trainer.train` is told to go on from.

    DataError when the folder holds one of other data or settings than `made` (of `made_from`), naming what differs.
    """
    for checkpoint in _whole_checkpoints(folder):
        if unlike := differences(_made_from(checkpoint), made):
            raise DataError(
                f"{checkpoint} was made from other data or settings ({'; '.join(unlike)}); give another --output_dir, "
                f"or remove {folder} to train anew."
            )
    return newest_whole_checkpoint(folder)


def newest_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint a kill did not cut short: the Trainer writes trainer_state.json last. None without one."""
    return next((str(path) for path in _whole_checkpoints(folder)), None)


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


def write_training_log(trainer: "Trainer", arguments: Any) -> None:
    """Write training_log.json: the recipe's own arguments, the trainer's, the versions, every log line."""
    value = {
        "recipe": {k: files.portable_name(v) if isinstance(v, str | Path) else v for k, v in asdict(arguments).items()},
        "trainer": {k: getattr(trainer.args, k) for k in _KEPT},
        "versions": _versions(),
        "device": _device(),
        "processes": trainer.args.world_size,
        "best": {"checkpoint_step": trainer.state.best_global_step, "score": trainer.state.best_metric},
        "history": trainer.state.log_history,
    }
    files.write_json(Path(trainer.args.output_dir) / LOG, json.loads(json.dumps(value, default=str)))


_KEPT = (
    "seed", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "weight_decay", "warmup_steps", "bf16", "metric_for_best_model",
)  # fmt: skip


def _versions() -> dict[str, str]:
    """What trained it; Ultralytics, of which there are two distributions, where it took part."""
    found = {name: version(name) for name in ("torch", "transformers", "timm", "peft", "trl")}
    ultralytics = sys.modules.get("ultralytics")
    return found | ({"ultralytics": ultralytics.__version__} if ultralytics else {})


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"


def _by_content(name: str, value: Any) -> Any:
    """A setting that is a file or a folder by what it holds, any other as it is."""
    if isinstance(value, Path) or (name in _PARTS and isinstance(value, str)):
        return f"content {content_of(Path(value))}" if Path(value).exists() else str(value)
    return value


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


def _whole_checkpoints(folder: Path) -> Iterator[Path]:
    """The whole checkpoints of a run, newest first."""
    numbered = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    newest_first = sorted(numbered, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    return (path for path in newest_first if _is_whole(path))


def _made_from(checkpoint: Path) -> Mapping[str, Any]:
    """What `bound_checkpoints` kept in a checkpoint; DataError for one of an older version, which kept nothing."""
    kept = json.loads((checkpoint / _STATE).read_text()).get("stateful_callbacks", {}).get("BoundCheckpoints")
    if kept is None:
        raise DataError(
            f"{checkpoint} does not say which data and settings made it (an older version wrote it); give another "
            f"--output_dir, or remove {checkpoint.parent} to train anew."
        )
    return kept["args"]["made_from"]


def _brief(value: Any) -> str:
    """A value of a record in a few letters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE).read_text())
    except (OSError, ValueError):
        return False
    return True

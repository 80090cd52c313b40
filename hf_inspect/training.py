"""What both kinds of recipe need around a transformers Trainer: augmentation, where to resume, a log of the run."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.errors import DataError, InspectError

if TYPE_CHECKING:
    from torchvision.transforms import v2
    from transformers import Trainer

LOG = "training_log.json"


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


def newest_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint a kill did not cut short: the Trainer writes trainer_state.json last. None without one."""
    numbered = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    newest_first = sorted(numbered, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    return next((str(p) for p in newest_first if _is_whole(p)), None)


def write_training_log(trainer: "Trainer", arguments: Any) -> None:
    """Write training_log.json: the recipe's own arguments, the trainer's, the versions, every log line."""
    value = {
        "recipe": {k: files.told(v) if isinstance(v, str | Path) else v for k, v in asdict(arguments).items()},
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


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True

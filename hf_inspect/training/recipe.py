"""What both kinds of recipe need around a transformers Trainer: settings, refusals, augmentation, a log of the run."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import files
from hf_inspect.data import SPLITS, read_head
from hf_inspect.errors import DataError, sentence_of
from hf_inspect.others import quieten
from hf_inspect.schema import DEFECT, GOOD, TaskSpec

if TYPE_CHECKING:
    from torchvision.transforms import v2
    from transformers import Trainer

LOG = "training_log.json"


def parsed(*classes: Any) -> tuple[Any, ...]:
    """Settings from the command line over `--config FILE.yaml`, a value a class; DataError for unknown ones.

    `--lora.r 32` is the entry `r` of the setting `lora`, which holds several, over what the YAML says of it.
    """
    from trl.scripts.utils import TrlParser
    from yaml import YAMLError

    plain, dotted = _dotted(sys.argv[1:])
    try:
        found = tuple(TrlParser(classes).parse_args_and_config(plain))
        for name, key, value in dotted:
            _holding(found, name)[key] = value
    except (ValueError, OSError, YAMLError) as error:
        raise DataError(f"these settings cannot be used ({error}); mend the YAML or the command.") from None
    return found


def run(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; what this package or the disk refuses is one sentence, and exits with 1."""
    quieten()
    try:
        main()
    except Exception as error:
        said = sentence_of(error)
        if said is None:
            raise
        raise SystemExit(f"{Path(sys.argv[0]).resolve().parent.name}: {said}") from None


def augmentation(side: int, jitter: float, min_crop: float) -> "v2.Compose":
    """uint8 (3, h, w) -> uint8 (3, side, side): the eight turns and mirrors of a square, a crop, light and contrast.

    `jitter` is the largest change of brightness and of contrast, `min_crop` the smallest share of the area kept.
    """
    from torchvision.transforms import v2

    transpose = v2.RandomApply([v2.Lambda(lambda x: x.transpose(-1, -2))], p=0.5)
    flips = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), transpose]
    crop = v2.RandomResizedCrop(side, scale=(min_crop, 1.0), ratio=(0.9, 1.1), antialias=True)
    return v2.Compose([*flips, crop, v2.ColorJitter(jitter, jitter)])


def check_processes(joined: int, otherwise: str = "give --use_cpu true") -> None:
    """DataError when a launcher started several processes and each is alone: they would write the same files.

    `otherwise` is what to do instead.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != joined:
        raise DataError(f"{started} processes were started, {joined} of them work together; {otherwise}.")


def check_classes(task: TaskSpec, train: Sequence[int], validation: Sequence[int]) -> None:
    """DataError unless every class has an image to train on, and good and defect one to validate on.

    `train` and `validation` are class ids in the task's order. A checkpoint is chosen by how it tells good from defect;
    without both there is no score, and the loss of one class alone teaches nothing.
    """
    counts = np.bincount(train, minlength=len(task.classes))
    if missing := [name for name, n in zip(task.classes, counts, strict=True) if n == 0]:
        raise DataError(
            f"none of the {len(train)} images to train on is {' or '.join(missing)}; raise max_rows, or build the data "
            "set with other shares or more images of it."
        )
    defects = int(task.is_defect[np.asarray(validation, np.int64)].sum())
    if defects in (0, len(validation)):
        side = GOOD if defects else DEFECT
        raise DataError(
            f"none of the {len(validation)} images to validate on is a {side} one; raise max_rows, or build the data "
            "set with other shares."
        )


def check_splits(data: Path) -> None:
    """DataError unless a built data set can train, stop, calibrate and test a cascade."""
    there = {split for splits in read_head(data)["counts"].values() for split in splits}
    if missing := set(SPLITS) - there:
        raise DataError(
            f"{data} has no split {', '.join(sorted(missing))}; build it with --shares 55/10/15/20 or of more images, "
            "or mvtec_inspect with --calibration-share 0.15."
        )


def recipe_log(arguments: Any) -> dict[str, Any]:
    """What training_log.json holds of any recipe: its arguments, a dataclass, and with what it ran."""
    return {
        "recipe": {k: files.portable_name(v) if isinstance(v, str | Path) else v for k, v in asdict(arguments).items()},
        "versions": _versions(),
        "device": _device(),
    }


def write_training_log(trainer: "Trainer", arguments: Any, more: Mapping[str, Any] = {}) -> None:
    """Write training_log.json: what was asked (the recipe's own arguments, the trainer's), what ran, and `more`.

    The Trainer's closing line is left out: after a resume it divides the last part's loss and seconds by all steps.
    """
    state = trainer.state
    value = {
        **recipe_log(arguments),
        "trainer": {k: getattr(trainer.args, k) for k in _KEPT},
        "ran": _ran(trainer),
        "processes": trainer.args.world_size,
        **more,
        "best": {"checkpoint_step": state.best_global_step, "score": state.best_metric},
        "history": [row for row in state.log_history if "train_runtime" not in row],
    }
    files.write_json(Path(trainer.args.output_dir) / LOG, json.loads(json.dumps(value, default=str)))


_KEPT = (
    "seed", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "weight_decay", "warmup_steps", "bf16", "metric_for_best_model",
)  # fmt: skip


def _ran(trainer: "Trainer") -> dict[str, Any]:
    """Steps, epochs, images a step and images seen of the whole run, its resumed parts included.

    Images are those of the batches that were whole or, where the last one of an epoch is not dropped, of all.
    """
    args, state = trainer.args, trainer.state
    batch = (state.train_batch_size or trainer._train_batch_size) * args.world_size  # one process's GPUs are in it
    n = len(trainer.train_dataset)
    an_epoch = n - n % batch if args.dataloader_drop_last else n
    epochs = state.epoch or 0.0
    return {
        "steps": state.global_step,
        "epochs": round(epochs, 4),
        "images_a_step": batch * args.gradient_accumulation_steps,
        "images_seen": round(epochs * an_epoch),
    }


def _dotted(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str, Any]]]:
    """A command's arguments without `--name.key value` and `--name.key=value`, and these: name, key, value."""
    import yaml

    plain, dotted, rest = list[str](), list[tuple[str, str, Any]](), iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        name, dot, key = option.removeprefix("--").partition(".")
        if not (option.startswith("--") and dot and name.isidentifier() and key):
            plain.append(argument)
        else:
            dotted.append((name, key, yaml.safe_load(value if equals else next(rest, ""))))
    return plain, dotted


def _holding(found: Sequence[Any], name: str) -> dict[str, Any]:
    """The parsed setting `name`, a copy of which stands in its place; ValueError where it holds no entries."""
    for one in found:
        if isinstance(getattr(one, name, None), dict):
            setattr(one, name, dict(getattr(one, name)))
            return getattr(one, name)
    raise ValueError(f"--{name} holds no entries to set one by one")


def _versions() -> dict[str, str]:
    """What trained it; Ultralytics, of which there are two distributions, where it took part."""
    found = {name: version(name) for name in ("torch", "transformers", "timm", "peft", "trl")}
    ultralytics = sys.modules.get("ultralytics")
    return found | ({"ultralytics": ultralytics.__version__} if ultralytics else {})


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"

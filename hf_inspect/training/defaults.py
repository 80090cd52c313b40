"""How many images there are, of how many classes, of which size -> the settings that a training starts with.

Arithmetic, once `amount_of` has counted: the epochs follow from a budget of optimiser steps; few images are seen more
often, in smaller batches, at a lower rate, and disturbed more. recipes/README.md has what came of it on which data.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_inspect import images
from hf_inspect.data import class_column, read_task, stream
from hf_inspect.errors import DataError

STRIDE = 32  # pixels that become one position of the last feature map; sides are multiples of it
SIDES = (192, 320)
EDGE_STEPS, VLM_STEPS = 540, 360  # of batches of EDGE_BATCH and VLM_BATCH
EDGE_BATCH, VLM_BATCH = 32, 16
FEW, MANY = 320, 1280  # images to learn from, between which the disturbance goes from strong to mild
EDGE_EPOCHS, VLM_EPOCHS = (4, 40), (2, 12)


@dataclass(frozen=True, slots=True)
class Amount:
    """What there is to learn from: images to train on by class, and the (width, height) of some or all in pixels."""

    counts: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.counts.values(), default=0) < 1:
            raise DataError(
                f"there are {dict(self.counts)} images to train on, of {len(self.sizes)} known sizes; at least one of "
                "each class is wanted."
            )

    @property
    def images(self) -> int:
        """How many images there are to train on."""
        return sum(self.counts.values())

    @property
    def median_side(self) -> float:
        """The middle one of the images' sides: the side in pixels of a square as large as each."""
        sides = sorted(math.sqrt(width * height) for width, height in self.sizes)
        middle = len(sides) // 2
        return sides[middle] if len(sides) % 2 else (sides[middle - 1] + sides[middle]) / 2


def amount_of(data: Path) -> Amount:
    """What the train split of a built data set holds; of its images the headers alone are read."""
    task = read_task(data)
    column, counts, sizes = class_column(task), dict.fromkeys(task.classes, 0), list[tuple[int, int]]()
    for rows in stream(data, "train", ["image", column]):
        for row in rows:
            counts[row[column]] += 1
            sizes.append(images.header(row["image"]["bytes"])[1:])
    return Amount(counts, [size for size in sizes if min(size)])


def side_of(amount: Amount) -> int:
    """The images' median side in whole strides, within SIDES: more shows finer cracks, and costs its square in time."""
    return _within(STRIDE * round(amount.median_side / STRIDE), SIDES)


def edge_settings(amount: Amount, side: int | None = None, steps: int | None = None) -> dict[str, Any]:
    """Settings of recipes/edge_classifier for square images of `side` pixels and about `steps` whole batches.

    None: `side_of` the images, and EDGE_STEPS. The classes are weighed by how unequal they are.
    """
    n, strength = amount.images, _strength(amount.images)
    batch = _batch(n, EDGE_BATCH)
    epochs = _epochs(n, batch, steps or EDGE_STEPS, EDGE_EPOCHS, steps)
    unequal = max(amount.counts.values()) / min(amount.counts.values())
    return {
        "side": side or side_of(amount),
        "drop_path": round(0.2 + 0.1 * strength, 2),
        "balance": 0.5 if unequal < 10 else 0.7,
        "patience": epochs,
        "per_device_eval_batch_size": 32,
        "learning_rate": _rate(1e-3, batch, EDGE_BATCH, strength),
        "weight_decay": 0.02,
        "torch_compile": _pays(n, batch, epochs),
        **_common(n, batch, epochs),
    }


def vlm_settings(amount: Amount, side: int | None = None, steps: int | None = None) -> dict[str, Any]:
    """Settings of recipes/vlm_sft for an adapter on a base with a convolutional tower (demo-base, tiny-base).

    As of `edge_settings`; its tower starts from a student of the same images.
    """
    n, strength = amount.images, _strength(amount.images)
    batch = _batch(n, VLM_BATCH)
    epochs = _epochs(n, batch, steps or VLM_STEPS, VLM_EPOCHS, steps)
    peaks = {"vision_tower": 2e-4, "multi_modal_projector": 1e-3, "lora_": 5e-4}
    compiled = r".*(vision_tower\.modules_to_save\.default|language_model\.layers\.\d+)"
    return {
        "side": side or side_of(amount),
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_targets": r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        "full_modules": ["vision_tower", "multi_modal_projector"],
        "learning_rates": {name: _rate(peak, batch, VLM_BATCH, strength) for name, peak in peaks.items()},
        "float32_tower": "base_model.model.model.vision_tower.modules_to_save.default",
        **({"compiled": compiled} if _pays(n, batch, epochs) else {}),
        "attention": "eager",
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_eval_batch_size": 16,
        "learning_rate": _rate(5e-4, batch, VLM_BATCH, strength),
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        **_common(n, batch, epochs),
    }


def reasons(amount: Amount, settings: Mapping[str, Any]) -> str:
    """What the settings follow from, in a line to read."""
    batch, epochs = settings["per_device_train_batch_size"], settings["num_train_epochs"]
    return (
        f"{amount.images} images of {len(amount.counts)} classes, median side {amount.median_side:.0f} px -> side "
        f"{settings['side']} px, {epochs} epochs of {amount.images // batch} steps of {batch} images, learning rate "
        f"{settings['learning_rate']:g}, smallest crop {settings['min_crop']:g}, light {settings['jitter']:g}"
    )


def _common(n: int, batch: int, epochs: int) -> dict[str, Any]:
    """What both trainings have: their course, how much images are disturbed, and how they are saved and judged."""
    strength = _strength(n)
    return {
        "num_train_epochs": epochs, "per_device_train_batch_size": batch, "warmup_steps": _warmup(n, batch, epochs),
        "lr_scheduler_type": "cosine", "soft_labels": True, "jitter": round(0.2 + 0.1 * strength, 2),
        "min_crop": round(0.8 - 0.1 * strength, 2),
        "seed": 0, "dataloader_drop_last": True, "eval_strategy": "epoch", "save_strategy": "epoch",
        "save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "auroc", "logging_steps": 5,
        "report_to": "none",
    }  # fmt: skip


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], value))


def _batch(n: int, usual: int) -> int:
    """The usual batch, or half of it where an epoch would have fewer than 20 such; never more than there are images."""
    return min(n, usual if n >= 20 * usual else usual // 2)


def _epochs(n: int, batch: int, steps: int, bounds: tuple[int, int], asked: int | None) -> int:
    """As many epochs as `steps` batches make, within `bounds` unless the steps were asked for."""
    epochs = max(1, round(steps / (n // batch)))
    return epochs if asked else _within(epochs, bounds)


def _strength(n: int) -> float:
    """1 where images are few, 0 where they are many, by their logarithm between."""
    return min(1.0, max(0.0, math.log(MANY / n) / math.log(MANY / FEW)))


def _rate(peak: float, batch: int, usual: int, strength: float) -> float:
    """The peak for the usual batch, by the root of the batch; down to 0.7 of it where images are few."""
    return float(f"{peak * math.sqrt(batch / usual) * (1 - 0.3 * strength):.2g}")


def _warmup(n: int, batch: int, epochs: int) -> int:
    """A twelfth of the steps."""
    return epochs * (n // batch) // 12


def _pays(n: int, batch: int, epochs: int) -> bool:
    """Whether a minute or more of compiling is earned back."""
    return epochs * (n // batch) >= 200

"""What of a model trains, and how fast: patterns over its parameters' names, each with a learning rate."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import torch

_FROZEN_COPY = ".original_module."  # PEFT keeps the untrained twin of each module it trains fully


def train_only(model: "torch.nn.Module", rates: Mapping[str, float]) -> None:
    """Freeze every parameter that no pattern of `rates` finds: fine-tuning without LoRA."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in rates))


def what_trains(model: "torch.nn.Module", rates: Mapping[str, float]) -> dict[str, list[str]]:
    """Names of the trainable parameters under the first pattern of `rates` that finds them.

    DataError when a parameter trains under no pattern, when a pattern finds nothing, or when it finds a frozen one.
    """
    groups: dict[str, list[str]] = {pattern: [] for pattern in rates}
    for name, parameter in model.named_parameters():
        pattern = next((pattern for pattern in rates if re.search(pattern, name)), None)
        if parameter.requires_grad and pattern is None:
            raise DataError(f"{name} trains, but no pattern of learning_rates names it: {', '.join(rates)}.")
        if pattern is not None and not parameter.requires_grad and _FROZEN_COPY not in name:
            raise DataError(f"learning_rates names {name} by {pattern!r}, but it is frozen; add it to what trains.")
        if parameter.requires_grad and pattern is not None:
            groups[pattern].append(name)
    if empty := [pattern for pattern, names in groups.items() if not names]:
        raise DataError(f"learning_rates has {', '.join(map(repr, empty))}, which matches no trainable parameter.")
    return groups


def describe_training(model: "torch.nn.Module", rates: Mapping[str, float]) -> str:
    """One line a group of `what_trains`: pattern, tensors, parameters, rate."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    lines = [
        f"{pattern}: {len(names)} tensors, {sum(map(sizes.__getitem__, names)):,} parameters, rate {rates[pattern]:g}"
        for pattern, names in what_trains(model, rates).items()
    ]
    return "\n".join([*lines, f"frozen: the rest of {total:,} parameters"])


def optimizer_groups(
    model: "torch.nn.Module", rates: Mapping[str, float], decayed: Sequence[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: each pattern's rate, weight decay only on the `decayed` names."""
    parameters, keep = dict(model.named_parameters()), set(decayed)
    groups = []
    for pattern, names in what_trains(model, rates).items():
        for decay in (True, False):
            chosen = [parameters[name] for name in names if (name in keep) == decay]
            wd = weight_decay if decay else 0.0
            groups.append({"params": chosen, "lr": rates[pattern], "weight_decay": wd, "name": pattern})
    return [group for group in groups if group["params"]]

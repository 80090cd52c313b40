"""What the fine-tuning recipe needs of this package: rows for TRL's collator, groups of learning rates with a
checked list of what trains, a fast vision tower on a CPU, and the adapter's folder.
"""

import functools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files, images, prompts
from hf_inspect.errors import DataError
from hf_inspect.vlm.model import outside_autocast

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

Augment = Callable[["torch.Tensor"], "torch.Tensor"]
_FROZEN_COPY = ".original_module."  # PEFT keeps the untrained twin of each module it trains fully


def chat_rows(
    batch: Mapping[str, list[Any]], task: prompts.Task, *, soft_labels: bool = False, augment: Augment | None = None
) -> dict[str, list[Any]]:
    """Rows of a built data set -> columns images, prompt, completion; for `Dataset.with_transform`.

    Images are uint8 tensors (3, h, w). With `soft_labels` the answer is drawn anew each time by the row's
    probability of class 1, else it is the label's.
    """
    import torch

    pixels = [torch.from_numpy(images.load(row["bytes"]).rgb).permute(2, 0, 1) for row in batch["image"]]
    labels = batch["label"]
    if soft_labels:
        labels = (torch.rand(len(pixels)) < torch.tensor(batch["probability"])).int().tolist()
    messages = [prompts.render(task, label) for label in labels]
    return {
        "images": [[augment(p) if augment else p] for p in pixels],
        "prompt": [m["prompt"] for m in messages],
        "completion": [m["completion"] for m in messages],
    }


def start_tower_from(tower: Any, student: Path) -> None:
    """Load a trained student's body (a folder of `recipes/edge_classifier`) into a `TimmWrapperModel`, in its dtype.

    DataError unless the two are of one architecture; the student's two-class head is left out.
    """
    from safetensors.torch import load_file

    if not (student / "model.safetensors").is_file():
        raise DataError(f"{student} holds no trained student; train recipes/edge_classifier first.")
    own = tower.timm_model.state_dict()  # a student is saved under timm's names
    body = {name: value for name, value in load_file(student / "model.safetensors").items() if name in own}
    if missing := [name for name in own if name not in body or body[name].shape != own[name].shape]:
        raise DataError(f"{student} is of another architecture than the vision tower ({missing[0]} does not fit).")
    tower.timm_model.load_state_dict(body)


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


def float32_where_trained(model: "torch.nn.Module") -> None:
    """Give every module that holds a trainable parameter float32 parameters and buffers (batch norms' statistics)."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own):
            module.float()


def answer_loss(
    model: "torch.nn.Module", inputs: Mapping[str, "torch.Tensor"], n_tokens: "torch.Tensor | int | None" = None
) -> "torch.Tensor":
    """Mean cross-entropy over the tokens whose label is not -100; `n_tokens` counts those of a whole step.

    The head runs from the first answer's position on. TRL's own loss scores every position on a CPU, which takes as
    long as all the rest of the step.
    """
    import torch
    from torch.nn.functional import cross_entropy

    labels = inputs["labels"]
    start = int((labels != -100).any(0).nonzero()[0, 0])
    given = {name: value for name, value in inputs.items() if name != "labels"}
    kept = torch.arange(start - 1, labels.shape[1] - 1, device=labels.device)  # not a slice: 200 times slower on a CPU
    logits = model(**given, use_cache=False, logits_to_keep=kept).logits.float().flatten(0, 1)
    wanted = labels[:, start:].flatten()
    total = cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
    return total / ((wanted != -100).sum() if n_tokens is None else n_tokens)


def compile_training(model: "torch.nn.Module", pattern: str) -> int:
    """Compile the modules whose names match `pattern` whole, for training steps; returns how many.

    About twice as fast on a CPU, where small operations cost the most. Evaluation stays uncompiled, so that no other
    batch size compiles again. Without a C++ compiler all stays as it is, and a line says so.
    """
    import torch

    found = [module for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    if not found:
        raise DataError(f"compiled is {pattern!r}, which matches no module; print model.named_modules() for the names.")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        print("No C++ compiler found: training runs uncompiled, at about half the speed.")
        return 0
    for module in found:
        plain, fast = module.forward, torch.compile(module.forward)
        module.forward = functools.partial(_by_mode, module, plain, fast)
    return len(found)


def convolutions_in_float32(tower: "torch.nn.Module") -> None:
    """Run `tower` in float32 inside autocast, channels last: on a CPU, its backward gains nothing from bfloat16."""
    import torch

    tower.to(memory_format=torch.channels_last)
    outside_autocast(tower)


def save_adapter(model: "PeftModel", folder: Path, base: str) -> None:
    """Write the adapter of a trained model: matrices and kernels in bfloat16, vectors and statistics as they are.

    `base` is the name other people know the base by. The embeddings, tied to the head, are not in it.
    """
    import torch
    from safetensors.torch import load_file, save_file

    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    small = {k: v.to(torch.bfloat16) if v.ndim > 1 else v for k, v in weights.items()}
    save_file(small, path, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card knows nothing of this run
    config = files.read_json(folder / "adapter_config.json")
    files.write_json(folder / "adapter_config.json", {**config, "inference_mode": True})


def _by_mode(
    module: "torch.nn.Module", plain: Callable[..., Any], fast: Callable[..., Any], *args: Any, **kw: Any
) -> Any:
    return (fast if module.training else plain)(*args, **kw)

"""LoRA on a frozen base: attached and checked, saved, loaded and merged; what was frozen is bit-equal afterwards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_OURS = ("lora_", ".modules_to_save.")  # in the names of parameters that an adapter trains
_NAMED = 3  # parameters an error names


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter is: rank `r`, scale `alpha` / r, and the pattern of the layers that get one.

    A higher r learns more from more images, and the adapter grows with it. `whole` modules are trained beside it.
    """

    r: int
    alpha: int
    targets: str
    dropout: float = 0.0
    whole: tuple[str, ...] = ()

    def changed(self, given: Mapping[str, Any]) -> "Lora":
        """These settings with some changed, as a YAML gives them; DataError for those that are not there."""
        own: dict[str, Any] = {name: tuple(value) if name == "whole" else value for name, value in given.items()}
        try:
            found = replace(self, **own)
        except TypeError:
            known = ", ".join(self.__dataclass_fields__)
            raise DataError(f"lora has the settings {', '.join(given)}; it takes {known}.") from None
        if not (isinstance(found.r, int) and found.r > 0):
            raise DataError(f"lora.r is {found.r!r}; a whole number above 0 is wanted.")
        return found


def attach(model: "PreTrainedModel", lora: Lora) -> "PeftModel":
    """The model with a fresh adapter, all else frozen; DataError where `targets` match no layer."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
        modules_to_save=list(lora.whole) or None,
    )  # fmt: skip
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise DataError(
            f"lora.targets is {lora.targets!r}, which matches no layer that takes an adapter ({error}); print "
            "model.named_modules() for the names."
        ) from None
    check_frozen(adapted)
    return adapted


def check_frozen(model: "torch.nn.Module") -> None:
    """DataError unless something trains, and nothing but the adapter and the modules that are trained beside it."""
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    if not trained:
        raise DataError("nothing of the model trains: it has no adapter, or a frozen one; attach it anew.")
    if strange := [name for name in trained if not any(mark in name for mark in _OURS)]:
        raise DataError(f"{len(strange)} parameters of the base train, such as {', '.join(strange[:_NAMED])}.")


def described(model: "torch.nn.Module") -> str:
    """`trains 0.10 M of 173.20 M parameters (0.06 %)`: what is frozen is the rest."""
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, own = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
    return f"trains {own / 1e6:.2f} M of {total / 1e6:.2f} M parameters ({own / total:.2%})"


def frozen_digests(model: "torch.nn.Module") -> dict[str, str]:
    """SHA-256 (hex) of every parameter that does not train and of every buffer, by name."""
    frozen = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    return {name: _digest(one) for name, one in (*frozen.items(), *model.named_buffers())}


def refuse_moved(before: Mapping[str, str], model: "torch.nn.Module") -> None:
    """DataError unless every tensor that `frozen_digests` told of is what it was, bit for bit."""
    after = frozen_digests(model)
    if moved := sorted(name for name in {*before, *after} if before.get(name) != after.get(name)):
        raise DataError(
            f"{len(moved)} frozen tensors are not what they were before the training, such as "
            f"{', '.join(moved[:_NAMED])}; nothing was saved."
        )


def save(model: "PeftModel", folder: Path, base: str) -> None:
    """Write the adapter alone; `base` is the name that others know the base by."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card knows nothing of this run
    config = files.read_json(folder / CONFIG)
    files.write_json(folder / CONFIG, {**config, "inference_mode": True})


def load(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The model with the adapter of a folder, frozen; DataError where there is none."""
    from peft import PeftModel

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise DataError(f"{folder} holds no adapter; give a folder that recipes/teacher_lora/train.py wrote.")
    return PeftModel.from_pretrained(model, str(folder), local_files_only=True).eval()


def merged(model: "PeftModel") -> "PreTrainedModel":
    """The base with the adapter worked into its own weights: as fast as the base alone."""
    return model.merge_and_unload().eval()


def sizes(folder: Path, base: Path) -> str:
    """`adapter 0.10 MB, base 2.30 MB: a 23rd`, by the weight files in the two folders."""
    own = (folder / WEIGHTS).stat().st_size
    whole = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return f"adapter {own / 1e6:.2f} MB, base {whole / 1e6:.2f} MB: 1 to {whole / own:.1f}"


def _digest(tensor: "torch.Tensor") -> str:
    import torch

    plain = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()

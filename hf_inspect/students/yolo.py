"""Ultralytics' YOLO11 classifiers as a `PreTrainedModel`: a name -> a network, which transformers saves and loads.

transformers' base classes are needed at the top; Ultralytics is imported when a network is built. Its code and weights
are AGPL-3.0, and so is a student made of them: the config says so, and cards and inspect.json repeat it.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_inspect.data import cache_folder
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import Preprocess
from hf_inspect.others import left_alone
from hf_inspect.students.start import Start, config_of_task

LICENCE = "AGPL-3.0"
NETWORKS = tuple(f"yolo11{scale}-cls" for scale in "nsmlx")
_YAML = "cfg/models/11/yolo11-cls.yaml"  # in Ultralytics' package; a `yolo11n-cls.yaml` in the working folder is not it
_SAVED_AS = 'torch.save(YOLO("FILE.pt").model.state_dict(), "WEIGHTS.pt")'


class YoloStudentConfig(PretrainedConfig):
    """Which of NETWORKS it is and the side of its square images, pixels; `licence` is that of the network's code."""

    model_type = "yolo_student"

    def __init__(
        self, network: str = NETWORKS[0], image_size: int = 224, licence: str = LICENCE, **kwargs: Any
    ) -> None:
        """Fields of another model's config.json go on to transformers."""
        self.network, self.image_size, self.licence = network, image_size, licence
        super().__init__(**kwargs)


class YoloStudentForImageClassification(PreTrainedModel):
    """Images (n, 3, side, side) with values in [0, 1] -> logits (n, labels)."""

    config_class = YoloStudentConfig
    main_input_name = "pixel_values"

    def __init__(self, config: YoloStudentConfig) -> None:
        """Build the network with random weights; MissingExtraError without Ultralytics."""
        super().__init__(config)
        self.yolo = _network(config.network, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits, and the cross-entropy against `labels` (n,) where they are given."""
        found = self.yolo(pixel_values)
        logits = found if self.training else found[1]  # outside training: (probabilities, logits)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """Make a fresh head; Ultralytics has initialised everything else as it builds the network."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()


AutoConfig.register(YoloStudentConfig.model_type, YoloStudentConfig)
AutoModelForImageClassification.register(YoloStudentConfig, YoloStudentForImageClassification)


def new_yolo(start: Start) -> YoloStudentForImageClassification:
    """One of NETWORKS with a fresh head, its body random or from a file of weights (`read_weights`).

    DataError for weights of another network, and for settings that are of timm's.
    """
    _refuse_model_args(start)
    model = YoloStudentForImageClassification(YoloStudentConfig(start.base, start.side, **config_of_task(start.task)))
    if start.weights is not None:
        stored = read_weights(start.weights, start.weights_sha256)
        _load_body(model.yolo, stored, f"{start.weights} does not fit {start.base}")
    return model


def yolo_from_folder(
    folder: Path, config: PretrainedConfig, start: Start, keep_head: bool
) -> YoloStudentForImageClassification:
    """An earlier YOLO student at another size, its head kept or made anew."""
    _refuse_model_args(start)
    own = YoloStudentConfig(config.network, start.side, **config_of_task(start.task))
    model = YoloStudentForImageClassification.from_pretrained(folder, config=own, ignore_mismatched_sizes=True)
    if not keep_head:
        model.yolo.model[-1].linear.reset_parameters()
    return model


def read_weights(path: Path, sha256: str | None) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a pickle of tensors alone whose SHA-256 the caller knows.

    Nothing is ever unpickled but tensors. DataError for a pickle without SHA-256, another content, or whole models,
    as Ultralytics' own .pt files are.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .safetensors file or a state dict saved by torch.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise DataError(f"{path} has SHA-256 {found}, wanted {sha256.lower()}; copy the file again from its source.")
    if path.suffix == ".safetensors":
        return _from_safetensors(content, path)
    if sha256 is None:
        raise DataError(
            f"{path} is a pickle, which can run programs as it is read; give the SHA-256 its source states "
            f"(weights_sha256), or a .safetensors file."
        )
    return _from_pickle(content, path)


def yolo_preprocess(config: YoloStudentConfig) -> Preprocess:
    """YOLO's rule, values in [0, 1] without mean and std, on the whole image squashed: a crop may cut a defect off."""
    return Preprocess(config.image_size, config.image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def yolo_processor(config: YoloStudentConfig) -> Any:
    """The same rule as a transformers image processor, for `pipeline` and Optimum."""
    from transformers import ViTImageProcessorPil

    size = {"height": config.image_size, "width": config.image_size}
    none = {"do_normalize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return ViTImageProcessorPil(size=size, resample=2, **none)  # 2: bilinear


def ultralytics_version() -> str:
    """The version of the Ultralytics package that builds the networks."""
    with quietly():
        import ultralytics
    return ultralytics.__version__


def _refuse_model_args(start: Start) -> None:
    """DataError for settings of timm's networks: here they would do nothing."""
    if start.model_args:
        raise DataError(f"{start.base} takes no {', '.join(start.model_args)}; these are settings of timm's networks.")


def _network(name: str, labels: int) -> nn.Module:
    """The network of Ultralytics' own YAML, on the CPU even while `from_pretrained` builds on `meta`."""
    import yaml

    if name not in NETWORKS:
        raise DataError(f"YOLO network {name!r} came; wanted is one of {', '.join(NETWORKS)}.")
    with quietly():
        import ultralytics
        from ultralytics.nn.tasks import ClassificationModel
    stated = yaml.safe_load((Path(ultralytics.__file__).parent / _YAML).read_text())
    scale = name.removeprefix("yolo11").removesuffix("-cls")
    with torch.device("cpu"):
        return ClassificationModel(stated | {"scale": scale, "nc": labels}, verbose=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Import Ultralytics offline, its settings in our cache folder, and take back what it sets for the process.

    Some of its classes hold tensors, which would have no content if `from_pretrained` were what imports it first.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # it would ask pip for what an unknown image might need
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_folder() / "ultralytics"))
    with left_alone(), torch.device("cpu"):
        try:
            yield
        except ImportError as error:
            raise MissingExtraError("A YOLO student needs Ultralytics: pip install 'hf-inspect[yolo]'") from error


def _load_body(network: nn.Module, stored: Mapping[str, torch.Tensor], problem: str) -> None:
    """Load every tensor but the last layer's, which stays fresh: nobody knows what its classes were."""
    own = {name: value for name, value in network.state_dict().items() if ".linear." not in name}
    given = {name: value for name, value in stored.items() if ".linear." not in name}
    wrong = own.keys() ^ given.keys() | {n for n in own.keys() & given.keys() if own[n].shape != given[n].shape}
    if wrong:
        raise DataError(f"{problem}: {len(wrong)} tensors differ, such as {min(wrong)}; give the weights of this one.")
    network.load_state_dict(given, strict=False)


def _from_safetensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DataError(f"{path} is no whole safetensors file ({error}); copy it again.") from None


def _from_pickle(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises a different error for each way in which a file is not tensors alone
        stored = None
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise DataError(
            f"{path} holds more than tensors (or is cut off) and was not loaded; where you trust it, save its weights "
            f"alone: {_SAVED_AS}"
        )
    return stored

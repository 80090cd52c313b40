"""What differs between families of detection models: a row each, found by `model_type` or by a base's name."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.detectors import fcos, mobile_sam, yolo
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.schema import DETECTION, SEGMENTATION, TaskSpec
from hf_inspect.students.start import config_of_task
from hf_inspect.students.timm_wrapper import PYPI, RANDOM
from hf_inspect.students.yolo import LICENCE, read_weights, ultralytics_version
from hf_inspect.tasks.detection import Decoding

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_DETR = ("rt_detr_v2", "d_fine")  # transformers' model types
STEM = 4  # stride up to which ImageNet's weights are kept unless told: edges and spots are everywhere alike
PROTOTYPES = 32  # of masks, YOLACT's own
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training starts: a base, what it is to answer, the size of its images, and arguments of its network.

    `weights` is a file to start from, `weights_sha256` its content.
    """

    base: str
    task: TaskSpec
    height: int
    width: int
    arguments: dict[str, Any]
    weights: Path | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What one forward of a model gives that another can learn from, or be held against.

    `logits` (n, q, k): of the classes at fixed places, before the sigmoid; None of a family without such places.
    `features`: stride in pixels -> (n, c, h / stride, w / stride). `losses`: the model's own against labels, of
    `detection` and, where it has masks, `segmentation`; besides `classes`, what of the detection loss is of the logits.
    """

    logits: "torch.Tensor | None"
    features: "dict[int, torch.Tensor]"
    losses: "dict[str, torch.Tensor]"


Labels = Sequence[Mapping[str, Any]]  # of each image, as `training.to_inputs` gives them


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of network.

    `is_base`: whether a base's name is one that `new` builds without a folder. `from_folder`: an earlier model, as
    another task asks for it. `answers`: pixels (n, 3, h, w) -> scores (n, q, k) in [0, 1]; boxes (n, q, 4), xyxy as
    shares of the image; and coefficients (n, q, m) and prototypes (n, m, h, w) of masks. `parts`: pixels, and labels or
    None -> what distillation reads. `kind`: of the task that a network answers. `load`: a folder's model. `decoding`:
    how boxes become findings, before a threshold is fitted. `licence`: of its code and weights where they ask for more
    than its images do. `made_with`: what builds it. `takes_weights`: whether a base may start from a file.
    """

    is_base: Callable[[str], bool]
    new: Callable[[Start], "PreTrainedModel"]
    from_folder: Callable[[Path, "PretrainedConfig", Start], "PreTrainedModel"]
    load: Callable[[Path], "PreTrainedModel"]
    answers: Callable[["PreTrainedModel", "torch.Tensor"], "tuple[torch.Tensor, ...]"]
    parts: Callable[["PreTrainedModel", "torch.Tensor", Labels | None], Parts]
    network: Callable[["PretrainedConfig"], str]
    preprocess: Callable[[str, int, int], Preprocess]
    decoding: Decoding
    made_with: Callable[[], dict[str, str]]
    kind: Callable[["PretrainedConfig"], str] = lambda config: DETECTION
    takes_weights: Callable[[str], bool] = lambda base: False
    licence: str | None = None


def _is_fcos(base: str) -> bool:
    """Whether a base is of `PYPI`, MobileSAM's encoder, or a random network of timm's."""
    timm = base.startswith(RANDOM) and base.removeprefix(RANDOM) not in _DETR
    return base in PYPI or base == mobile_sam.BASE or timm


def _new_fcos(start: Start) -> "PreTrainedModel":
    """`random:<timm architecture>` with random weights, one of `PYPI` with ImageNet's, or MobileSAM's encoder."""
    sam = start.base == mobile_sam.BASE
    architecture = mobile_sam.ARCHITECTURE if sam else PYPI.get(start.base) or start.base.removeprefix(RANDOM)
    kept = {"last_stride": mobile_sam.LAST_STRIDE} if sam else {}
    pretrained = start.base in PYPI or start.weights is not None
    model = fcos.FcosForInspectionDetection(
        _fcos_config(architecture, start, kept | {"frozen": STEM if pretrained else 0})
    )
    if start.base in PYPI:
        fcos.load_imagenet(model)
    if start.weights is not None:
        mobile_sam.load_encoder(model.network, read_weights(start.weights, start.weights_sha256), start.weights)
    return model


def _fcos_config(architecture: str, start: Start, kept: Mapping[str, Any]) -> fcos.FcosConfig:
    """The config of a task: masks where that asks for them."""
    prototypes = {"prototypes": PROTOTYPES if start.task.kind == SEGMENTATION else 0}
    given = prototypes | dict(kept) | start.arguments
    return fcos.FcosConfig(architecture, start.height, start.width, **given, **config_of_task(start.task))


def _fcos_from_folder(folder: Path, config: "PretrainedConfig", start: Start) -> "PreTrainedModel":
    names = ("channels", "convolutions", "radius", "frozen", "reach", "last_stride", "widths")
    kept = {name: getattr(config, name) for name in names}
    if start.task.kind == SEGMENTATION and config.prototypes:
        kept["prototypes"] = config.prototypes
    fresh = fcos.FcosForInspectionDetection(_fcos_config(config.timm_architecture, start, kept))
    return _with_weights_of(folder, fresh)


def _with_weights_of(folder: Path, fresh: "PreTrainedModel") -> "PreTrainedModel":
    """A new model with the weights of an earlier one that fit it; of other classes, or of masks, they stay its own."""
    earlier, own = type(fresh).from_pretrained(folder, local_files_only=True).state_dict(), fresh.state_dict()
    fitting = {name: value for name, value in earlier.items() if name in own and own[name].shape == value.shape}
    fresh.load_state_dict(fitting, strict=False)
    return fresh


def _answers(model: "PreTrainedModel", pixel_values: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    """Scores and boxes, and what masks are made of where a network of ours gives it."""
    found = model(pixel_values=pixel_values)
    masks = () if found.coefficients is None else (found.coefficients, found.prototypes)
    return found.scores, found.boxes, *masks


def _fcos_parts(model: "PreTrainedModel", pixel_values: "torch.Tensor", labels: Labels | None) -> Parts:
    found = model(pixel_values=pixel_values, labels=labels)
    losses = {} if labels is None else _named(found.loss, found.losses, "segmentation", "classification")
    return Parts(found.logits, dict(zip(fcos.LEVELS, found.features, strict=True)), losses)


def _named(
    whole: "torch.Tensor", losses: "Mapping[str, torch.Tensor]", masks: str, classes: str
) -> "dict[str, torch.Tensor]":
    """A network's losses as distillation calls them: of masks, of all else, and of the classes alone."""
    of_masks = {"segmentation": losses[masks]} if masks in losses else {}
    return {"detection": whole - sum(of_masks.values()), "classes": losses[classes], **of_masks}


def _new_detr(start: Start) -> "PreTrainedModel":
    """`random:rt_detr_v2` or `random:d_fine`: random weights, of the size that `arguments` of the config give."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    model_type = start.base.removeprefix(RANDOM)
    config = AutoConfig.for_model(model_type, **start.arguments, **config_of_task(start.task))
    return AutoModelForObjectDetection.from_config(_of_any_size(config))


def _detr_from_folder(folder: Path, config: "PretrainedConfig", start: Start) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForObjectDetection

    own = AutoConfig.from_pretrained(folder, **start.arguments, **config_of_task(start.task))
    return AutoModelForObjectDetection.from_pretrained(folder, config=_of_any_size(own), ignore_mismatched_sizes=True)


def _of_any_size(config: "PretrainedConfig") -> "PretrainedConfig":
    """The config without the places of queries that it would keep for images of another size."""
    config.anchor_image_size = None
    return config


def _detr_answers(model: "PreTrainedModel", pixel_values: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    import torch

    found = model(pixel_values=pixel_values)
    centre, half = found.pred_boxes[..., :2], found.pred_boxes[..., 2:] / 2
    return found.logits.sigmoid(), torch.cat([centre - half, centre + half], -1)


def _detr_parts(model: "PreTrainedModel", pixel_values: "torch.Tensor", labels: Labels | None) -> Parts:
    """The encoder's maps; queries are at no fixed places."""
    found = model(pixel_values=pixel_values, labels=labels)
    maps = dict(zip(model.config.feat_strides, found.encoder_last_hidden_state, strict=True))
    return Parts(None, maps, {} if labels is None else {"detection": found.loss})


def _load_detr(folder: Path) -> "PreTrainedModel":
    from transformers import AutoModelForObjectDetection

    return AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)


def _detr(model_type: str) -> Family:
    return Family(
        is_base=f"{RANDOM}{model_type}".__eq__,
        new=_new_detr,
        from_folder=_detr_from_folder,
        load=_load_detr,
        answers=_detr_answers,
        parts=_detr_parts,
        network=lambda config: config.model_type,
        preprocess=lambda base, height, width: Preprocess(height, width, (0.0,) * 3, (1.0,) * 3),
        decoding=Decoding(overlap=None),
        made_with=lambda: {"transformers": version("transformers")},
    )


def _new_yolo(start: Start) -> "PreTrainedModel":
    """One of Ultralytics' networks, random or from a file of weights."""
    if start.arguments:
        raise DataError(f"{start.base} takes no {', '.join(start.arguments)}; leave out the network's arguments.")
    config = yolo.YoloConfig(start.base, start.height, start.width, **config_of_task(start.task))
    model = yolo.YoloForInspectionDetection(config)
    if start.weights is not None:
        fresh = yolo.load_weights(model, read_weights(start.weights, start.weights_sha256), start.weights)
        if fresh:
            warnings.warn(
                f"{start.weights} is of other classes: {len(fresh)} tensors of {start.base}, such as {fresh[0]}, begin "
                "anew",
                stacklevel=2,
            )
    return model


def _yolo_from_folder(folder: Path, config: "PretrainedConfig", start: Start) -> "PreTrainedModel":
    own = yolo.YoloConfig(config.network, start.height, start.width, **config_of_task(start.task))
    return _with_weights_of(folder, yolo.YoloForInspectionDetection(own))


def _yolo_parts(model: "PreTrainedModel", pixel_values: "torch.Tensor", labels: Labels | None) -> Parts:
    found = model(pixel_values=pixel_values, labels=labels)
    losses = {} if labels is None else _named(found.loss, found.losses, "seg_loss", "cls_loss")
    return Parts(found.logits, dict(zip(fcos.STRIDES, found.features, strict=True)), losses)


FAMILIES: Mapping[str, Family] = {
    fcos.FcosConfig.model_type: Family(
        is_base=_is_fcos,
        new=_new_fcos,
        from_folder=_fcos_from_folder,
        load=lambda folder: fcos.FcosForInspectionDetection.from_pretrained(folder, local_files_only=True),
        answers=_answers,
        parts=_fcos_parts,
        network=lambda config: config.timm_architecture,
        preprocess=lambda base, height, width: Preprocess(
            height, width, *(((0.5,) * 3, (0.5,) * 3) if base in PYPI else _IMAGENET)
        ),
        decoding=Decoding(),
        made_with=lambda: {name: version(name) for name in ("timm", "torchvision")},
        kind=lambda config: SEGMENTATION if config.prototypes else DETECTION,
        takes_weights=mobile_sam.BASE.__eq__,
    ),
    yolo.YoloConfig.model_type: Family(
        is_base=yolo.NETWORKS.__contains__,
        new=_new_yolo,
        from_folder=_yolo_from_folder,
        load=lambda folder: yolo.YoloForInspectionDetection.from_pretrained(folder, local_files_only=True),
        answers=_answers,
        parts=_yolo_parts,
        network=lambda config: config.network,
        preprocess=lambda base, height, width: Preprocess(height, width, (0.0,) * 3, (1.0,) * 3),
        decoding=Decoding(overlap=0.7),
        made_with=lambda: {"ultralytics": ultralytics_version()},
        kind=lambda config: SEGMENTATION if config.network.endswith("-seg") else DETECTION,
        takes_weights=yolo.NETWORKS.__contains__,
        licence=LICENCE,
    ),
    **{model_type: _detr(model_type) for model_type in _DETR},
}


def family_of(config: "PretrainedConfig") -> Family:
    """The family of a model by its config; DataError for one that finds nothing."""
    if config.model_type not in FAMILIES:
        raise DataError(
            f"a model of type {config.model_type!r} came; those that find things are {', '.join(FAMILIES)}."
        )
    return FAMILIES[config.model_type]


def family_named(base: str) -> Family | None:
    """The family that builds `base` from its name alone; None for folders and repositories."""
    return next((family for family in FAMILIES.values() if family.is_base(base)), None)

"""Ultralytics' YOLO11 and YOLOv8 detectors and segmenters as `PreTrainedModel`s: a name -> a network, saved and loaded.

Its code and weights are AGPL-3.0, and so is a model made of them. The loss is Ultralytics' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_inspect.errors import DataError
from hf_inspect.students.yolo import LICENCE, quietly

NETWORKS = tuple(f"{name}{scale}{kind}" for name in ("yolo11", "yolov8") for scale in "nsmlx" for kind in ("", "-seg"))
_OF = {"yolo11": "cfg/models/11", "yolov8": "cfg/models/v8"}  # in Ultralytics' package
_FIT = 0.9  # share of a file's tensors that a network must have


@dataclass
class YoloOutput(ModelOutput):
    """Scores (n, q, k), boxes (n, q, 4), xyxy as shares; of a segmenter coefficients (n, q, m) and prototypes
    (n, m, h, w); and the loss where targets came.

    Besides `logits` (n, q, k) of the classes, `features`, what the head looks at, and the `losses` that the loss sums.
    """

    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    coefficients: torch.Tensor | None = None
    prototypes: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    losses: dict[str, torch.Tensor] | None = None


class YoloConfig(PretrainedConfig):
    """Which of NETWORKS it is, and the size of its images in pixels; `licence` is that of the network's code."""

    model_type = "inspection_yolo"

    def __init__(
        self,
        network: str = NETWORKS[0],
        height: int = 640,
        width: int = 640,
        licence: str = LICENCE,
        **kwargs: Any,
    ) -> None:
        self.network, self.height, self.width, self.licence = network, height, width, licence
        super().__init__(**kwargs)


class YoloForInspectionDetection(PreTrainedModel):
    """Images (n, 3, height, width) with values in [0, 1] -> `YoloOutput`."""

    config_class = YoloConfig
    main_input_name = "pixel_values"

    def __init__(self, config: YoloConfig) -> None:
        """Build the network with random weights; MissingExtraError without Ultralytics."""
        super().__init__(config)
        network: Any = _network(config.network, config.num_labels)
        self.yolo = network
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: Sequence[Mapping[str, torch.Tensor]] | None = None
    ) -> YoloOutput:
        """Scores and boxes; while it trains, the loss against `labels`, and none of these.

        Those are, for each image, `class_labels` (m,), `boxes` (m, 4), centre and size as shares of the image, and of a
        segmenter `masks` (m, height, width).
        """
        head: Any = self.yolo.model[-1]
        # Else what it keeps of a size makes another graph each time.
        head.export = head.dynamic = torch.jit.is_tracing()  # type: ignore[attr-defined]
        found = self.yolo(pixel_values)
        if self.training:
            losses = None if labels is None else self._losses(found, pixel_values, labels)
            loss = None if losses is None else torch.stack(list(losses.values())).sum()
            return YoloOutput(loss=loss, losses=losses, **_looked_at(found))
        first = found if head.export else found[0]
        rows, prototypes = first if isinstance(first, tuple | list) else (first, None)
        height, width = pixel_values.shape[-2:]
        rows = rows.transpose(1, 2)
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        corners = torch.cat([centre - half, centre + half], -1) / rows.new_tensor((width, height, width, height))
        of_classes = rows[..., 4 : 4 + self.config.num_labels]
        coefficients = None if prototypes is None else rows[..., 4 + self.config.num_labels :]
        more = {} if head.export else _looked_at(found[1])
        return YoloOutput(scores=of_classes, boxes=corners, coefficients=coefficients, prototypes=prototypes, **more)

    def _losses(
        self, found: Any, pixel_values: torch.Tensor, labels: Sequence[Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Ultralytics' losses by name, the mean over images."""
        with quietly():
            from ultralytics.cfg import get_cfg
            from ultralytics.utils.loss import v8DetectionLoss, v8SegmentationLoss
        masks = self.config.network.endswith("-seg")
        settings: Any = get_cfg(overrides={"overlap_mask": False})
        self.yolo.args = settings
        boxes = torch.cat([one["boxes"] for one in labels]).to(pixel_values)
        batch = {
            "img": pixel_values,
            "batch_idx": torch.cat([torch.full((len(one["boxes"]),), i) for i, one in enumerate(labels)]).to(boxes),
            "cls": torch.cat([one["class_labels"] for one in labels]).to(boxes)[:, None],
            "bboxes": boxes,
        }
        if masks:
            batch["masks"] = torch.cat([one["masks"] for one in labels]).to(boxes)
        losses, named = (v8SegmentationLoss if masks else v8DetectionLoss)(self.yolo)(found, batch)
        return dict(zip(named, losses / len(labels), strict=True))

    def _init_weights(self, module: nn.Module) -> None:
        """Ultralytics has initialised everything as it builds the network."""


def _looked_at(found: Mapping[str, Any]) -> dict[str, Any]:
    """Logits of the classes and the maps below them, of what the network gives before it is decoded."""
    return {"logits": found["scores"].transpose(1, 2), "features": tuple(found["feats"])}


def load_weights(model: YoloForInspectionDetection, stored: Mapping[str, torch.Tensor], where: Path) -> list[str]:
    """Load the tensors of a file that fit the network, and name those that begin anew: branches of other classes.


    FastSAM's are those of a YOLOv8 segmenter of one class. DataError where fewer than nine in ten fit: it is of another
    network.
    """
    own = model.yolo.state_dict()
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < _FIT * len(own):
        raise DataError(
            f"{where} fits {len(fitting)} of {len(own)} tensors of {model.config.network}; it is of another."
        )
    model.yolo.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


def _network(name: str, labels: int) -> nn.Module:
    """The network of Ultralytics' own YAML, on the CPU even while `from_pretrained` builds on `meta`."""
    import yaml

    if name not in NETWORKS:
        raise DataError(f"YOLO network {name!r} came; wanted is one of {', '.join(NETWORKS)}.")
    with quietly():
        import ultralytics
        from ultralytics.nn.tasks import DetectionModel, SegmentationModel
    masks, plain = name.endswith("-seg"), name.removesuffix("-seg")
    folder = Path(ultralytics.__file__).parent / _OF[plain[:-1]]
    stated = yaml.safe_load((folder / f"{plain[:-1]}{'-seg' if masks else ''}.yaml").read_text())
    with torch.device("cpu"):
        made = SegmentationModel if masks else DetectionModel
        return made(stated | {"scale": plain[-1], "nc": labels}, verbose=False)


AutoConfig.register(YoloConfig.model_type, YoloConfig)

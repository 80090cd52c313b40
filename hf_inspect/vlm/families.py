"""What differs between the families of vision-language models: where their parts are, and how an image is sized.

One table, by transformers' `model_type`; a new family is one more row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.prompts import PIXELS, THOUSANDTHS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin

_ATTENTION = r"self_attn\.(q|k|v|o)_proj"


@dataclass(frozen=True, slots=True)
class Family:
    """The parts of one family's model, by the names of its modules.

    `sizes` gives the image processor's settings for a side in pixels, `lora` the layers that get LoRA unless a recipe
    names others: the language model's attention and the projector.
    """

    tower: str
    projector: str
    sizes: Callable[[int], dict[str, Any]]
    lora: str
    one_side: bool = False  # the vision tower's positions fit the side it was built for, and no other
    timm_tower: bool = False  # the tower is timm's network: a student's may take its place, and OpenVINO run it
    frame: str = THOUSANDTHS  # of the numbers that its boxes are said in
    uncast: bool = False  # transformers puts what the projector makes among the embeddings as it is, in its own dtype

    @property
    def kept_whole(self) -> list[str]:
        """Modules that stay out of 4 bits: they see, and they choose among near logits."""
        return [self.tower, self.projector, "lm_head"]


def _squashed(side: int) -> dict[str, Any]:
    """side x side whatever the shape; nothing is cut off, since a defect may lie at the edge."""
    return {"size": {"height": side, "width": side}}


def _tiled(side: int) -> dict[str, Any]:
    """The longer edge is `side`, shown in tiles of the vision tower's own size and once as a whole."""
    return {"size": {"longest_edge": side}}


def _bounded(side: int) -> dict[str, Any]:
    """In shape, with at most side x side pixels, and at least a sixteenth of that."""
    return {"size": {"shortest_edge": side * side // 16, "longest_edge": side * side}}


_LLAVA_LORA = rf".*(language_model.*{_ATTENTION}|multi_modal_projector\.linear_[12])$"
_TILED = Family(
    tower="model.vision_model",
    projector="model.connector",
    sizes=_tiled,
    lora=rf".*(text_model.*{_ATTENTION}|connector\.modality_projection\.proj)$",
    uncast=True,
)
FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(
        tower="model.visual",
        projector="model.visual.merger",
        sizes=_bounded,
        lora=rf".*(language_model.*{_ATTENTION}|visual\.merger\.mlp\.[02])$",
        frame=PIXELS,
    ),
    "qwen3_vl": Family(
        tower="model.visual",
        projector="model.visual.merger",
        sizes=_bounded,
        lora=rf".*(language_model.*{_ATTENTION}|visual\.merger\.linear_fc[12])$",
    ),
    "smolvlm": _TILED,
    "idefics3": _TILED,
    "llava": Family(
        tower="model.vision_tower",
        projector="model.multi_modal_projector",
        sizes=lambda side: _squashed(side) | {"do_center_crop": False},
        lora=_LLAVA_LORA,
        one_side=True,
    ),
    "fast_vlm": Family(
        tower="model.vision_tower",
        projector="model.multi_modal_projector",
        sizes=_squashed,
        lora=_LLAVA_LORA,
        timm_tower=True,
    ),
}


def family_of(config: "PretrainedConfig") -> Family:
    """The row of a model's configuration; DataError for a family that the table does not hold."""
    if config.model_type not in FAMILIES:
        raise DataError(
            f"the base is of type {config.model_type!r}; give one of {', '.join(FAMILIES)}, or add its row to "
            "hf_inspect/vlm/families.py."
        )
    return FAMILIES[config.model_type]


def set_side(processor: "ProcessorMixin", config: "PretrainedConfig", side: int) -> None:
    """Make `processor` size images by the family's rule for `side` pixels; DataError where the tower takes another."""
    family = family_of(config)
    if family.one_side and side != config.vision_config.image_size:
        raise DataError(f"side is {side}, but this base sees {config.vision_config.image_size} pixels; set side to it.")
    for name, value in family.sizes(side).items():
        setattr(processor.image_processor, name, value)

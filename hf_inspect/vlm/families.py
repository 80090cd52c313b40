"""What differs between the families of vision-language models: where their parts are.

One table, by transformers' `model_type`; a new family is one more row, here and in `prompts.families`, which says how
an image is sized and a box said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.prompts.families import SHOWINGS, Showing

if TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin

_ATTENTION = r"self_attn\.(q|k|v|o)_proj"


@dataclass(frozen=True, slots=True)
class Family:
    """The parts of one family's model, by the names of its modules.

    `showing` says how it is shown an image, `lora` the layers that get LoRA unless a recipe names others: the language
    model's attention and the projector.
    """

    tower: str
    projector: str
    showing: Showing
    lora: str
    one_side: bool = False  # the vision tower's positions fit the side it was built for, and no other
    timm_tower: bool = False  # the tower is timm's network: a student's may take its place, and OpenVINO run it
    uncast: bool = False  # transformers puts what the projector makes among the embeddings as it is, in its own dtype

    @property
    def sizes(self) -> Callable[[int], dict[str, Any]]:
        """The image processor's settings for a side in pixels."""
        return self.showing.sizes

    @property
    def frame(self) -> str:
        """The numbers that its boxes are said in."""
        return self.showing.frame

    @property
    def kept_whole(self) -> list[str]:
        """Modules that stay out of 4 bits: they see, and they choose among near logits."""
        return [self.tower, self.projector, "lm_head"]


_LLAVA_LORA = rf".*(language_model.*{_ATTENTION}|multi_modal_projector\.linear_[12])$"
_TILED = partial(
    Family,
    tower="model.vision_model",
    projector="model.connector",
    lora=rf".*(text_model.*{_ATTENTION}|connector\.modality_projection\.proj)$",
    uncast=True,
)
FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(
        tower="model.visual",
        projector="model.visual.merger",
        showing=SHOWINGS["qwen2_5_vl"],
        lora=rf".*(language_model.*{_ATTENTION}|visual\.merger\.mlp\.[02])$",
    ),
    "qwen3_vl": Family(
        tower="model.visual",
        projector="model.visual.merger",
        showing=SHOWINGS["qwen3_vl"],
        lora=rf".*(language_model.*{_ATTENTION}|visual\.merger\.linear_fc[12])$",
    ),
    "smolvlm": _TILED(showing=SHOWINGS["smolvlm"]),
    "idefics3": _TILED(showing=SHOWINGS["idefics3"]),
    "llava": Family(
        tower="model.vision_tower",
        projector="model.multi_modal_projector",
        showing=SHOWINGS["llava"],
        lora=_LLAVA_LORA,
        one_side=True,
    ),
    "fast_vlm": Family(
        tower="model.vision_tower",
        projector="model.multi_modal_projector",
        showing=SHOWINGS["fast_vlm"],
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

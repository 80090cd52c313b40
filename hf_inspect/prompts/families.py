"""How each family of VLMs is shown an image, and in which numbers it says a box; no model is needed to know it.

One table, by transformers' `model_type`; `vlm.families` says where the parts of the same families are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hf_inspect.errors import DataError
from hf_inspect.prompts.boxes import PIXELS, THOUSANDTHS
from hf_inspect.prompts.sizing import Sizing, sizing_of


@dataclass(frozen=True, slots=True)
class Showing:
    """`sizes` gives the image processor's settings for a side in pixels, `frame` the numbers that boxes are said in.

    `processor` holds the further settings that sizes follow from, as those of the family's published models.
    """

    sizes: Callable[[int], dict[str, Any]]
    processor: Mapping[str, Any]
    frame: str = THOUSANDTHS

    def sizing(self, side: int) -> Sizing:
        """The resize of the family's published models at a side in pixels; DataError for a side below their patch."""
        least = self.processor.get("patch_size", 1) * self.processor.get("merge_size", 1)
        if side < least:
            raise DataError(f"A side of {side} pixels came; this family sees {least} at least.")
        return sizing_of({**self.processor, **self.sizes(side)})


def _squashed(side: int) -> dict[str, Any]:
    """side x side whatever the shape; nothing is cut off, since a defect may lie at the edge."""
    return {"size": {"height": side, "width": side}}


def _uncropped(side: int) -> dict[str, Any]:
    return _squashed(side) | {"do_center_crop": False}


def _tiled(side: int) -> dict[str, Any]:
    """The longer edge is `side`, shown in tiles of the vision tower's own size and once as a whole."""
    return {"size": {"longest_edge": side}}


def _bounded(side: int) -> dict[str, Any]:
    """In shape, with at most side x side pixels, and at least a sixteenth of that."""
    return {"size": {"shortest_edge": side * side // 16, "longest_edge": side * side}}


_BICUBIC, _LANCZOS = {"resample": int(Image.Resampling.BICUBIC)}, {"resample": int(Image.Resampling.LANCZOS)}
SHOWINGS: Mapping[str, Showing] = {
    "qwen2_5_vl": Showing(_bounded, _BICUBIC | {"patch_size": 14, "merge_size": 2}, PIXELS),
    "qwen3_vl": Showing(_bounded, _BICUBIC | {"patch_size": 16, "merge_size": 2}),
    "smolvlm": Showing(_tiled, _LANCZOS),
    "idefics3": Showing(_tiled, _LANCZOS),
    "llava": Showing(_uncropped, _BICUBIC),
    "fast_vlm": Showing(_squashed, _BICUBIC),
}


def showing_of(family: str) -> Showing:
    """The row of a family; DataError for one that the table does not hold."""
    if family not in SHOWINGS:
        raise DataError(f"The family {family!r} is not known; there are {', '.join(SHOWINGS)}.")
    return SHOWINGS[family]

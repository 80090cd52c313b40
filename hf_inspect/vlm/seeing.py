"""What a VLM's language model is given of an image: the vectors of its vision tower after the projector, and where in
the image each of them lies. The detection head reads these.

Of a family that shows an image in tiles and once as a whole, these are the vectors of all of them: small things are
seen in the tiles alone, and large ones as a whole.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.vlm.families import family_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

PLACES, PRESENT, COUNTS = "places", "present", "image_tokens"  # of the head's inputs
_TILED = 5  # dimensions of pixels that come as tiles


def places(
    processor: "ProcessorMixin", vision: Mapping[str, "torch.Tensor"], size: tuple[int, int], tokens: int
) -> "torch.Tensor":
    """Where the vectors of an image lie (t, 4): centre x, centre y, width and height, as shares of it.

    The image is the last one that `vision` holds, what the processor made of one row; it was given at `size`, height
    and width. `tokens` is how many vectors all images of the row have, of as many each, unless the family says.
    """
    import torch

    grids = vision.get("image_grid_thw")
    if grids is not None:
        merge = processor.image_processor.merge_size
        return _grid(int(grids[-1, 1]) // merge, int(grids[-1, 2]) // merge)
    pixels = vision["pixel_values"]
    if pixels.ndim != _TILED:
        side = math.isqrt(tokens // len(pixels))
        return _grid(side, side)
    side = math.isqrt(processor.image_seq_len)
    _, rows, columns = processor.image_processor.get_number_of_image_patches(*size, {})
    tiles = [_within(_grid(side, side), tile) for tile in _grid(rows, columns)]
    return torch.cat([*tiles, _grid(side, side)])


def look(processor: "ProcessorMixin", images: Sequence[Rgb]) -> dict[str, "torch.Tensor"]:
    """What `head.find` takes of n RGB images uint8 (h, w, 3), each at the size it is shown at."""
    import torch

    shown = [_shown(processor, image) for image in images]
    given: dict[str, torch.Tensor] = dict(
        processor.image_processor(images=[[image] for image in images], return_tensors="pt")
    )
    return {name: value for name, value in given.items() if isinstance(value, torch.Tensor)} | gathered(shown)


def gathered(shown: Sequence["torch.Tensor"], tokens: Sequence[int] | None = None) -> dict[str, "torch.Tensor"]:
    """The places of n images, each (t, 4), in one batch: places (n, t, 4), present (n, t), image_tokens (n,).

    `tokens` are how many vectors each row has in all; those of its image come last. None: no others.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(one) for one in shown])
    return {
        PLACES: pad_sequence(list(shown), batch_first=True),
        PRESENT: torch.arange(int(lengths.max()))[None] < lengths[:, None],
        COUNTS: lengths if tokens is None else torch.tensor(list(tokens)),
    }


@contextmanager
def watched(model: "PreTrainedModel") -> Iterator[list["torch.Tensor"]]:
    """What the projector makes while a forward runs in here: vectors (all of the batch's, d), one entry a forward."""
    family, seen = family_of(model.config), list["torch.Tensor"]()
    inside = family.projector.startswith(f"{family.tower}.")  # the tower puts them in order after it

    def keep(module: Any, inputs: Any, output: Any) -> None:
        vectors = output.pooler_output if inside else output
        seen.append(vectors.reshape(-1, vectors.shape[-1]))

    hook = model.get_submodule(family.tower if inside else family.projector).register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def vectors_of(model: "PreTrainedModel", inputs: Mapping[str, "torch.Tensor"]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The vectors float32 (n, t, d) of the images that `look` prepared, and which are there (n, t); without gradients.

    A model laid out in bfloat16 sees them by its own autocast, which is of its whole forward alone.
    """
    import torch

    low = any(weight.dtype == torch.bfloat16 for weight in model.parameters())

    given = {name: value.to(model.device) for name, value in inputs.items()}
    pixels = {name: value for name, value in given.items() if name not in (PLACES, PRESENT, COUNTS)}
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=low)
    with torch.inference_mode(), autocast, watched(model) as seen:
        model.get_image_features(**pixels)
        return rows_of(seen[0].float(), given), given[PRESENT]


def rows_of(vectors: "torch.Tensor", given: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
    """Vectors of a whole batch (all, d) -> of each row's last image (n, t, d), zeros where it has fewer.

    DataError where they are not as many as the inputs of `gathered` say.
    """
    present, ends = given[PRESENT], given[COUNTS].cumsum(0)
    if int(ends[-1]) != len(vectors):
        raise DataError(
            f"The vision tower gave {len(vectors)} vectors where {int(ends[-1])} are wanted; show each image at the "
            "size that its sizing gives."
        )
    found = vectors.new_zeros(*present.shape, vectors.shape[-1])
    starts = ends - present.sum(1)
    at = (starts[:, None] + present.cumsum(1) - 1)[present]
    found[present] = vectors[at]
    return found


def _shown(processor: "ProcessorMixin", image: Rgb) -> "torch.Tensor":
    vision = dict(processor.image_processor(images=[[image]], return_tensors="pt"))
    tokens = 0
    if "image_grid_thw" not in vision and vision["pixel_values"].ndim != _TILED:
        tokens = processor(images=[[image]], text=[processor.image_token])["input_ids"][0].count(
            processor.image_token_id
        )
    return places(processor, vision, (image.shape[0], image.shape[1]), tokens)


def _grid(rows: int, columns: int) -> "torch.Tensor":
    """The cells of a grid over an image, row by row (rows * columns, 4)."""
    import torch

    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack([(x + 0.5) / max(columns, 1), (y + 0.5) / max(rows, 1)], -1)
    sides = torch.tensor([1 / max(columns, 1), 1 / max(rows, 1)]).expand_as(centres)
    return torch.cat([centres, sides], -1).reshape(-1, 4)


def _within(cells: "torch.Tensor", tile: "torch.Tensor") -> "torch.Tensor":
    """Cells of a tile (t, 4), as shares of it -> as shares of the image that it is a tile of."""
    import torch

    corner = tile[:2] - tile[2:] / 2
    return torch.cat([corner + cells[:, :2] * tile[2:], cells[:, 2:] * tile[2:]], 1)

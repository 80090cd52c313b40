"""SAM and SAM 2, prompted by boxes: rows -> what their mask decoder learns from, its loss, boxes -> masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, Rgb
from hf_inspect.schema import Box, Finding
from hf_inspect.teachers.lora import Lora

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

LORA = Lora(  # every linear layer of the mask decoder, and its two transposed convolutions whole: LoRA takes none
    8,
    16,
    r"mask_decoder\.(transformer\..*\.(q_proj|k_proj|v_proj|o_proj|out_proj|lin1|lin2|proj_in|proj_out)"
    r"|(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.(proj_in|proj_out|layers\.\d+))",
    whole=("upscale_conv1", "upscale_conv2"),
)
_MODEL_TYPES = ("sam", "sam2", "sam2_video")  # SAM 2's published weights are of the video model, and hold this one's
_AT_ONCE = 64  # boxes that the decoder is asked about together
_STRIDE = 4  # the masks' positions to one of the image's embedding


def load(folder: Path) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model in float32 and its processor; DataError for a folder of another kind of model."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskGeneration, AutoProcessor, Sam2Model, Sam2Processor

    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind not in _MODEL_TYPES:
        raise DataError(f"{folder} holds a {kind}; give one of {', '.join(_MODEL_TYPES)}.")
    given = {"local_files_only": True}
    if kind == "sam":
        model = AutoModelForMaskGeneration.from_pretrained(folder, dtype=torch.float32, **given)
        return model, AutoProcessor.from_pretrained(folder, **given)
    return Sam2Model.from_pretrained(folder, dtype=torch.float32, **given), Sam2Processor.from_pretrained(folder)


def mask_side(config: Any) -> int:
    """Positions of a mask along a side, over the square that the model sees."""
    prompts = config.prompt_encoder_config
    return _STRIDE * prompts.image_size // prompts.patch_size


def has_masks(objects: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a row of a built data set has an object with polygons that is no crowd."""
    return any(polygons and not crowd for polygons, crowd in _pairs(objects))


def to_targets(rows: Mapping[str, Sequence[Any]], processor: Any, reading: Reading, side: int) -> dict[str, list[Any]]:
    """Rows of a built data set -> pixels and boxes as the model takes them, and masks (n, side, side), 0 or 1.

    For `Dataset.with_transform`. Objects without polygons and crowds are left out.
    """
    pixels, boxes, masks = [], [], []
    for image, objects in zip(rows["image"], rows["objects"], strict=True):
        rgb = images.load(image["bytes"], reading).rgb
        kept = [i for i, (polygons, crowd) in enumerate(_pairs(objects)) if polygons and not crowd]
        given, frame, scale = _prompted(rgb, [tuple(objects["bbox"][i]) for i in kept], processor)
        pixels.append(given["pixel_values"][0])
        boxes.append(given["input_boxes"][0])
        shares = side / frame * scale
        masks.append(np.stack([_drawn(objects["polygons"][i], shares, side) for i in kept]))
    return {"pixel_values": pixels, "input_boxes": boxes, "labels": masks}


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Some of `to_targets` -> a batch: boxes (b, n, 4) and masks (b, n, side, side), of images with fewer filled up.

    What is filled up has the mask -1. The decoder looks at each box by itself.
    """
    import torch

    most = max(len(row["input_boxes"]) for row in rows)
    boxes, masks = torch.zeros(len(rows), most, 4), torch.full((len(rows), most, *rows[0]["labels"].shape[1:]), -1.0)
    for i, row in enumerate(rows):
        n = len(row["input_boxes"])
        boxes[i, :n], masks[i, :n] = row["input_boxes"], torch.from_numpy(row["labels"])
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "input_boxes": boxes, "labels": masks}


def loss(model: Any, batch: Mapping[str, Any]) -> tuple["torch.Tensor", Any]:
    """BCE + dice of the masks + squared error of the overlap that the model predicts; and its outputs."""
    from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

    out = model(pixel_values=batch["pixel_values"], input_boxes=batch["input_boxes"], multimask_output=False)
    there = batch["labels"].flatten(2).amin(-1) >= 0
    logits, wanted = out.pred_masks[:, :, 0][there].flatten(1), batch["labels"][there].flatten(1)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * wanted).sum(1) + 1) / (p.sum(1) + wanted.sum(1) + 1)
    inside = logits.detach() > 0
    both, either = (inside & (wanted > 0)).sum(1), (inside | (wanted > 0)).sum(1)
    overlap = mse_loss(out.iou_scores[:, :, 0][there], both / either.clamp(min=1))
    return binary_cross_entropy_with_logits(logits, wanted) + dice.mean() + overlap, out


def masked(model: Any, processor: Any, rgb: Rgb, findings: Sequence[Finding]) -> list[Finding]:
    """An image's findings with the mask that the model sees in each box; without one where it sees nothing there."""
    import torch

    if not findings:
        return []
    given, frame, scale = _prompted(rgb, [one.box for one in findings], processor)
    side = mask_side(model.config)
    with torch.inference_mode():
        seen = model.get_image_embeddings(given["pixel_values"].to(model.device))
        chunks = given["input_boxes"].to(model.device).split(_AT_ONCE, 1)
        logits = [
            model(image_embeddings=seen, input_boxes=chunk, multimask_output=False).pred_masks[0, :, 0]
            for chunk in chunks
        ]
    every = torch.cat(logits).float().cpu().numpy()
    return [_with_mask(one, every[i], side / frame * scale) for i, one in enumerate(findings)]


def _pairs(objects: Mapping[str, Sequence[Any]]) -> Any:
    return zip(objects["polygons"], objects["iscrowd"], strict=True)


def _prompted(rgb: Rgb, boxes: Sequence[Box], processor: Any) -> tuple[Any, int, NDArray[np.float64]]:
    """The model's inputs, the side of the square that it sees, and its pixels to one of the image, along x and y."""
    height, width = rgb.shape[:2]
    whole = [0.0, 0.0, float(width), float(height)]  # shows how the processor scales: SAM pads, SAM 2 squashes
    given = processor(images=rgb, input_boxes=[[*map(list, boxes), whole]], return_tensors="pt")
    scaled = given["input_boxes"].float()
    scale = scaled[0, -1, 2:].double().numpy() / (width, height)
    return (
        {"pixel_values": given["pixel_values"], "input_boxes": scaled[:, :-1]},
        given["pixel_values"].shape[-1],
        scale,
    )


def _drawn(polygons: Sequence[Sequence[float]], shares: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Polygons x, y, x, y, ... in pixels of the image -> their pixels (side, side) of the model's mask, 0 or 1."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (side, side))
    for one in polygons:
        points = np.asarray(one, np.float64).reshape(-1, 2) * shares - 0.5  # from corners of pixels to their centres
        ImageDraw.Draw(picture).polygon([*map(tuple, points)], fill=1, outline=1)
    return np.asarray(picture, np.float32)


def _with_mask(found: Finding, logits: NDArray[np.float32], shares: NDArray[np.float64]) -> Finding:
    """A finding with the mask (h, w) of its box's pixels from the logits (side, side) over all that the model sees."""
    from PIL import Image

    (top, left), (rows, columns) = found.corner, found.extent
    limits = np.minimum(np.array([left, top, left + columns, top + rows]) * np.tile(shares, 2), len(logits))
    part = tuple(limits.tolist())
    inside = np.asarray(Image.fromarray(logits).resize((columns, rows), Image.Resampling.BILINEAR, box=part)) > 0
    return Finding(found.name, found.score, found.box, inside) if inside.any() else found

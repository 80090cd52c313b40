"""Grounding DINO and MM-Grounding-DINO: rows -> what they learn from, their own set loss, images -> boxes by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, Rgb
from hf_inspect.schema import DETECTION, TaskSpec
from hf_inspect.teachers.lora import Lora
from hf_inspect.teachers.phrases import Prompt, Scores, class_scores

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

LORA = Lora(  # the attention projections of encoder and decoder; the boxes' own layers are tied, and merge wrongly
    16,
    32,
    r"model\.(encoder|decoder)\.layers\..*\.(query|key|value|out_proj|value_proj|output_proj|vision_proj|text_proj|"
    r"values_vision_proj|values_text_proj|out_vision_proj|out_text_proj)",
)
_MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
_BOUNDS = (0, 101, 102, 1012, 1029)  # ids of padding, CLS, SEP, "." and "?", between which the model sees phrases


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as the model takes it: its tokens, and which of them speak for each class, bool (k, max_text_len)."""

    inputs: Mapping[str, "torch.Tensor"]
    class_map: NDArray[np.bool_]

    def repeated(self, n: int) -> dict[str, "torch.Tensor"]:
        """The tokens for n images: one text for all of a batch."""
        return {name: one.expand(n, -1) for name, one in self.inputs.items()}


def load(folder: Path) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model in float32 and its processor; DataError for a folder of another kind of model."""
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in _MODEL_TYPES:
        raise DataError(f"{folder} holds a {config.model_type}; give one of {', '.join(_MODEL_TYPES)}.")
    config.auxiliary_loss = False  # of layers in between, whose boxes are not among the outputs
    import torch

    model = AutoModelForZeroShotObjectDetection.from_pretrained(
        folder, config=config, local_files_only=True, dtype=torch.float32
    )
    words = model.model.text_backbone.embeddings.word_embeddings
    model.get_input_embeddings = lambda: words  # PEFT asks, and transformers does not find them by itself
    return model, AutoProcessor.from_pretrained(folder, local_files_only=True)


def text_of(prompt: Prompt, n_classes: int, processor: Any, config: Any) -> Text:
    """The prompt's tokens; DataError where there are more than the model reads."""
    width = config.max_text_len
    said = processor.tokenizer(prompt.text, return_offsets_mapping=True, return_tensors="pt")
    offsets = said.pop("offset_mapping")[0].tolist()
    most = min(width, config.text_config.max_position_embeddings)
    if len(offsets) > most:
        raise DataError(
            f"the prompt of {len(prompt.phrases)} phrases has {len(offsets)} tokens, and the model reads {most}; give "
            "fewer or shorter synonyms, or fewer classes."
        )
    class_map, ids = prompt.class_map(offsets, n_classes, width), said["input_ids"][0].numpy()
    if np.isin(ids[class_map.nonzero()[1]], _BOUNDS).any():
        raise DataError(
            f"the prompt {prompt.text!r} holds a word that ends a phrase; give its class others by synonyms."
        )
    return Text(dict(said), class_map)


def to_targets(rows: Mapping[str, Sequence[Any]], processor: Any, reading: Reading) -> dict[str, list[Any]]:
    """Rows of a built data set -> pixels as the model takes them, and boxes (x, y of the centre, w, h in shares).

    For `Dataset.with_transform`. Crowds are left out.
    """
    import torch

    pixels, labels = [], []
    for image, objects in zip(rows["image"], rows["objects"], strict=True):
        rgb = images.load(image["bytes"], reading).rgb
        kept = [i for i, crowd in enumerate(objects["iscrowd"]) if not crowd]
        height, width = rgb.shape[:2]
        corners = torch.tensor([objects["bbox"][i] for i in kept]).reshape(-1, 4)
        corners = corners / torch.tensor([width, height, width, height])
        sides = corners[:, 2:] - corners[:, :2]
        boxes = torch.cat([corners[:, :2] + sides / 2, sides], 1)
        pixels.append(_pixels(rgb, processor))
        labels.append({"class_labels": torch.tensor([objects["category"][i] for i in kept]).long(), "boxes": boxes})
    return {"pixel_values": pixels, "labels": labels}


def collate(rows: Sequence[Mapping[str, Any]], text: Text) -> dict[str, Any]:
    """Some of `to_targets` -> a batch, smaller images padded at their right and lower side."""
    import torch

    pixels = [row["pixel_values"] for row in rows]
    height, width = (max(one.shape[side] for one in pixels) for side in (1, 2))
    batch, mask = torch.zeros(len(rows), 3, height, width), torch.zeros(len(rows), height, width, dtype=torch.long)
    for i, one in enumerate(pixels):
        batch[i, :, : one.shape[1], : one.shape[2]], mask[i, : one.shape[1], : one.shape[2]] = one, 1
    labels = [row["labels"] for row in rows]
    return {"pixel_values": batch, "pixel_mask": mask, **text.repeated(len(rows)), "labels": labels}


def loss(model: Any, batch: Mapping[str, Any], class_map: NDArray[np.bool_]) -> tuple["torch.Tensor", Any]:
    """The model's own set loss of a batch of `collate`, and its outputs; all phrases of a class are right answers.

    Its `forward` would find the phrases by the dots of the text, one a class.
    """
    import torch

    out = model(**{name: one for name, one in batch.items() if name != "labels"})
    alone = getattr(model, "module", model)  # of several processes
    base = alone.get_base_model() if hasattr(alone, "get_base_model") else alone
    logits, read = out.logits, batch["attention_mask"].bool()
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[..., : read.shape[1]] = read[:, None]
    maps = (torch.from_numpy(class_map).to(logits.device).long(),) * len(logits)
    total, _, _ = base.loss_function(
        logits, batch["labels"], logits.device, out.pred_boxes, base.config, maps, mask,
        encoder_logits=out.encoder_logits, encoder_pred_boxes=out.encoder_pred_boxes,
    )  # fmt: skip
    return total, out


def found(
    model: Any, processor: Any, text: Text, rgbs: Sequence[Rgb], batch_size: int
) -> list[tuple[Scores, NDArray[np.float64]]]:
    """Images -> of each the scores (q, k) of its boxes by class, and the boxes (q, 4), x0, y0, x1, y1 in shares.

    Images that the model sees at one size go together: padding beside a larger one would change what it sees.
    """
    import torch

    pixels = [_pixels(rgb, processor) for rgb in rgbs]
    together: dict[Any, list[int]] = {}
    for i, one in enumerate(pixels):
        together.setdefault(one.shape, []).append(i)
    answers: dict[int, tuple[Scores, NDArray[np.float64]]] = {}
    for own in together.values():
        for chunk in (own[start : start + batch_size] for start in range(0, len(own), batch_size)):
            given = {"pixel_values": torch.stack([pixels[i] for i in chunk]), **text.repeated(len(chunk))}
            with torch.inference_mode():
                out = model(**{name: one.to(model.device) for name, one in given.items()})
            scores = class_scores(out.logits.sigmoid().double().cpu().numpy(), text.class_map)
            boxes = out.pred_boxes.double().cpu().numpy()
            corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
            answers |= {i: (scores[n], corners[n]) for n, i in enumerate(chunk)}
    return [answers[i] for i in range(len(rgbs))]


def as_detection(task: TaskSpec) -> TaskSpec:
    """A task of boxes and masks, of its boxes alone."""
    return TaskSpec(task.classes, task.dispositions, DETECTION)


def _pixels(rgb: Rgb, processor: Any) -> "torch.Tensor":
    """An image (3, h, w) at the size and on the scale that the model takes, not padded."""
    return processor.image_processor(rgb, do_pad=False, return_tensors="pt")["pixel_values"][0]

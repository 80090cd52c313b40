"""Model inputs of one question about n images -> log-probability of each answer.

System text, image and question run once; the answers are scored together on their cache. Also the crops and the views
of an image.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.vlm.asking import CROPS

if TYPE_CHECKING:
    import torch

CROP_SHARE = 7 / 8  # of each side that a crop shows: 448 of 512, 224 of 256


def option_scores(model: Any, inputs: Mapping[str, Any], options: Sequence[Sequence[int]]) -> "torch.Tensor":
    """log P(option | image, prompt), float32 (n, n_options), a sum over the option's tokens.

    The longest option runs with the prompt; those of the others that have several tokens follow in one forward on its
    cache. `inputs` are padded on the left.
    """
    import torch

    length = inputs["input_ids"].shape[1]
    longest = max(range(len(options)), key=lambda i: len(options[i]))
    others = [i for i, ids in enumerate(options) if len(ids) > 1 and i != longest]
    given = _append(inputs, options[longest][:-1])
    if given["attention_mask"].all():
        given["attention_mask"] = None  # causal attention needs no mask, and takes half the time without
    kept = torch.arange(length - 1, given["input_ids"].shape[1], device=model.device)  # see answer_loss
    with torch.inference_mode():
        out = model(**given, use_cache=bool(others), logits_to_keep=kept)
        log_p = out.logits.float().log_softmax(-1)
        scores = log_p[:, 0, [ids[0] for ids in options]]
        scores[:, longest] += _of_each(log_p[:, 1:], options[longest][1:]).sum(1)
        if others:
            out.past_key_values.crop(length)
            some = [options[i] for i in others]
            scores[:, others] += _on_cache(model, inputs["attention_mask"], some, out.past_key_values)
    return scores


def crops_of(rgb: Rgb, crops: int) -> list[Rgb]:
    """The image itself (1), or its four corners and centre (5), each 7/8 of both sides."""
    if crops not in CROPS:
        raise DataError(f"crops is {crops}; 1 shows the whole image, 5 its corners and centre.")
    if crops == 1:
        return [rgb]
    height, width = rgb.shape[:2]
    h, w = (max(1, round(side * CROP_SHARE)) for side in (height, width))
    y, x = height - h, width - w
    return [rgb[top : top + h, left : left + w] for top, left in ((0, 0), (0, x), (y, 0), (y, x), (y // 2, x // 2))]


def views_of(rgb: Rgb, views: int) -> list[Rgb]:
    """The first `views` of the image's eight orientations: itself turned by 0, 90, 180, 270 degrees, then mirrored."""
    sides = (rgb, rgb[:, ::-1])
    return [np.ascontiguousarray(np.rot90(sides[i // 4], i % 4)) for i in range(views)]


def scored_ids(answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """The answers without the end they share, as far as none then begins another: 'good' ends before 'good part'."""
    ends = min(len(ids) for ids in answers) - 1
    while ends and len({tuple(ids[-ends:]) for ids in answers}) > 1:
        ends -= 1
    while ends:
        cut = [list(ids[:-ends]) for ids in answers]
        if not any(a is not b and b[: len(a)] == a for a in cut for b in cut):
            return cut
        ends -= 1
    return [list(ids) for ids in answers]


def _on_cache(model: Any, mask: "torch.Tensor", options: Sequence[Sequence[int]], cache: Any) -> "torch.Tensor":
    """log P of each option's tokens after its first -> (n, n_options); `cache` holds the prompts of `mask` (n, length).

    All options lie one after the other in a row; each sees the prompt and itself.
    """
    import torch

    device, n = mask.device, len(mask)
    sizes = [len(ids) - 1 for ids in options]
    owner = torch.repeat_interleave(torch.arange(len(options)), torch.tensor(sizes)).to(device)
    step = torch.cat([torch.arange(size) for size in sizes]).to(device)
    own = (owner[:, None] == owner) & (step[:, None] >= step)
    seen = torch.cat([mask.bool()[:, None].expand(-1, len(step), -1), own.expand(n, -1, -1)], dim=2)
    given = torch.tensor([token for ids in options for token in ids[:-1]], device=device).expand(n, -1)
    mask_4d = seen[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":  # which adds its mask, where others select by it
        mask_4d = torch.zeros(mask_4d.shape, device=device).masked_fill(~mask_4d, torch.finfo(torch.float32).min)
    out = model(
        input_ids=given, attention_mask=mask_4d, position_ids=_positions(model, mask, step),
        past_key_values=cache, use_cache=True,
    )  # fmt: skip
    wanted = [token for ids in options for token in ids[1:]]
    each = _of_each(out.logits.float().log_softmax(-1), wanted)
    return torch.stack([part.sum(1) for part in each.split(sizes, dim=1)], dim=1)


def _positions(model: Any, mask: "torch.Tensor", step: "torch.Tensor") -> "torch.Tensor":
    """Where tokens stand `step` (t,) after the prompts of `mask` (n, length) -> (n, t), or Qwen's (3, n, t)."""
    n, length = mask.shape
    deltas = next((module.rope_deltas for module in model.modules() if hasattr(module, "rope_deltas")), None)
    if deltas is None:
        return (length + step).expand(n, -1)
    return (mask.sum(1, keepdim=True) + deltas.to(mask.device) + step).long().expand(3, -1, -1)


def _append(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Model inputs with the same tokens put after every row; masks get ones, token types zeros (text)."""
    import torch

    shape = inputs["input_ids"].shape
    tails = {"input_ids": torch.tensor([list(ids)], dtype=torch.long), "attention_mask": torch.ones(1, len(ids))}
    given = dict(inputs)
    for name in (name for name, value in inputs.items() if value.shape == shape):
        tail = tails.get(name, torch.zeros(1, len(ids))).to(inputs[name])
        given[name] = torch.cat([inputs[name], tail.expand(shape[0], -1)], dim=1)
    return given


def _of_each(log_p: "torch.Tensor", ids: Sequence[int]) -> "torch.Tensor":
    """log-probability (n, t, vocabulary) of one token at each of the t positions -> (n, t)."""
    import torch

    return log_p[:, torch.arange(len(ids)), list(ids)]

"""Greedy answers to open questions, a batch at a time: each stops by itself, and what all questions begin with is read
once.

A batch gives what one at a time would: rows are padded on the left, and every token stands where it would stand alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_inspect.vlm.conversation import Conversation, padded

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, slots=True)
class Generated:
    """The token ids of an answer, without its end, and the probability of each; `ended`: it was not cut off."""

    ids: tuple[int, ...]
    p: tuple[float, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """What every question of a batch begins with, read once: the keys and values of its tokens."""

    conversation: Conversation
    cache: "Cache"


def read_prefix(model: "PreTrainedModel", processor: "ProcessorMixin", prefix: Conversation) -> Prefix:
    """Read what questions begin with."""
    import torch

    given = _on(model, padded([prefix], processor))
    with torch.inference_mode():
        positions = _positions(model, given)
        out = model(**given, position_ids=positions, use_cache=True, logits_to_keep=1)
    return Prefix(prefix, out.past_key_values)


def generate(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    asked: Sequence[Conversation],
    most: int,
    prefix: Prefix | None = None,
) -> list[Generated]:
    """The greedy answer to each conversation, of `most` tokens at most.

    With a `prefix`, which every conversation begins with, only what follows it is read.
    """
    import torch

    ends = torch.tensor(sorted(stop_ids(model, processor)), device=model.device)
    begun = 0 if prefix is None else len(prefix.conversation.turns)
    given = _on(model, padded([Conversation(one.turns[begun:]) for one in asked], processor))
    own = given.pop("attention_mask")
    with torch.inference_mode():
        at = (
            _positions(model, given | {"attention_mask": own})
            if prefix is None
            else _following(prefix, asked, own, model, processor)
        )
        mask = own if prefix is None else torch.cat([own.new_ones(len(own), len(prefix.conversation.ids)), own], 1)
        cache = None if prefix is None else _copies(prefix, len(asked))
        out = model(
            **given,
            attention_mask=_needed(mask),
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        last = at[..., -1].amax(0) if at.ndim == 3 else at[:, -1]
        return _steps(model, out, mask, last, ends, most)


def stop_ids(model: "PreTrainedModel", processor: "ProcessorMixin") -> set[int]:
    """Tokens that end an answer: those that the model states, and the tokenizer's own."""
    stated = model.generation_config.eos_token_id
    found = {stated} if isinstance(stated, int) else set(stated or ())
    return found | {
        one for one in (processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id) if one is not None
    }


def _steps(
    model: "PreTrainedModel", out: Any, mask: "torch.Tensor", last: "torch.Tensor", ends: "torch.Tensor", most: int
) -> list[Generated]:
    """Token after token of every row; a row that has ended is read no more."""
    import torch

    n = len(mask)
    ids, p = [list[int]() for _ in range(n)], [list[float]() for _ in range(n)]
    ended, open_rows = [False] * n, torch.arange(n, device=mask.device)
    cache = out.past_key_values
    three = _by_axes(model)
    for step in range(most):
        said = out.logits[:, -1].float().softmax(-1).max(-1)
        over = torch.isin(said.indices, ends)
        for row, token, sure, end in zip(
            *(x.tolist() for x in (open_rows, said.indices, said.values, over)), strict=True
        ):
            if end:
                ended[row] = True
            else:
                ids[row].append(token)
                p[row].append(sure)
        if bool(over.all()) or step == most - 1:
            break
        tokens = said.indices
        if bool(over.any()):
            keep = (~over).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            open_rows, mask, last, tokens = open_rows[keep], mask[keep], last[keep], tokens[keep]
        mask, last = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), last + 1
        at = last[:, None].expand(3, -1, -1) if three else last[:, None]
        out = model(
            input_ids=tokens[:, None],
            attention_mask=_needed(mask),
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
        )
    return [Generated(tuple(ids[i]), tuple(p[i]), ended[i]) for i in range(n)]


def _needed(mask: "torch.Tensor") -> "torch.Tensor | None":
    """The mask (n, t) where anything is hidden: without one, attention copies no keys for its groups of heads."""
    return None if bool(mask.all()) else mask


def _copies(prefix: Prefix, n: int) -> "Cache":
    import copy

    cache = copy.deepcopy(prefix.cache)
    cache.batch_repeat_interleave(n)
    return cache


def _following(
    prefix: Prefix,
    asked: Sequence[Conversation],
    own: "torch.Tensor",
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
) -> "torch.Tensor":
    """The positions of what follows the prefix in each row (.., n, t)."""
    if not _by_axes(model):
        return (own.cumsum(1) - 1).clamp(min=0) + len(prefix.conversation.ids)
    whole = _positions(model, _on(model, padded(asked, processor)))
    return whole[..., -own.shape[1] :]  # rows are padded on the left: where one's own padding is, none looks


def _positions(model: "PreTrainedModel", given: Mapping[str, "torch.Tensor"]) -> "torch.Tensor":
    """Where each token stands in its own conversation (n, t), or Qwen's (3, n, t)."""
    mask = given["attention_mask"]
    if not _by_axes(model):
        return (mask.cumsum(1) - 1).clamp(min=0)
    named = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    positions, _ = model.model.get_rope_index(**{name: given[name] for name in named})
    return positions


def _by_axes(model: "PreTrainedModel") -> bool:
    """Whether a token stands by time, height and width, as Qwen's do."""
    return hasattr(model.model, "get_rope_index")


def _on(model: "PreTrainedModel", given: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    return {name: value.to(model.device) for name, value in given.items()}

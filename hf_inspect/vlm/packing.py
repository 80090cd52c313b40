"""Conversations of any lengths in one row, so that nothing is padded: each sees itself alone, and stands where it would
stand by itself.

transformers keeps conversations apart by positions that begin anew: in eager and sdpa attention by a block-diagonal
mask, in flash attention by their lengths. So no attention mask is given.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_inspect.vlm.conversation import IGNORED, Conversation, joined, token_types

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


def packed(
    conversations: Sequence[Conversation], model: "PreTrainedModel", processor: "ProcessorMixin", kinds: Sequence[int]
) -> dict[str, "torch.Tensor"]:
    """Inputs (1, t) of n conversations one after the other, with `labels` of the tokens of these kinds.

    The first token of each has no label: the one before it is another's. Give them to a model without a cache.
    """
    import torch

    ids, parts = (torch.cat([getattr(one, name) for one in conversations])[None] for name in ("ids", "parts"))
    labels = torch.where(torch.isin(parts, torch.tensor(kinds, dtype=torch.long)), ids, IGNORED)
    starts = torch.tensor([0, *(len(one.ids) for one in conversations)]).cumsum(0)[:-1]
    labels[0, starts] = IGNORED
    vision = joined([one.vision for one in conversations])
    positions = torch.cat([positions_of(one, model, processor) for one in conversations], -1)
    return {"input_ids": ids, "position_ids": positions, "labels": labels} | vision


def positions_of(one: Conversation, model: "PreTrainedModel", processor: "ProcessorMixin") -> "torch.Tensor":
    """Where the tokens of a conversation stand (1, t); of Qwen's four ways (4, 1, t), of which the first is that."""
    import torch

    ids, vision = one.ids[None], one.vision
    plain = torch.arange(ids.shape[1])[None]
    if not hasattr(model.model, "get_rope_index"):
        return plain
    by_axes, _ = model.model.get_rope_index(
        input_ids=ids, image_grid_thw=vision.get("image_grid_thw"), **token_types(ids, processor)
    )
    return torch.cat([plain[None], by_axes])

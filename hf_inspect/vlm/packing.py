"""Conversations of any lengths in one row, so that nothing is padded: each sees itself alone, and stands where it would
stand by itself.

transformers keeps conversations apart by positions that begin anew: in eager and sdpa attention by a block-diagonal
mask, in flash attention by their lengths. So no attention mask is given. sdpa would work through the whole mask, the
square of the row's length; `attend_apart` has it go from conversation to conversation.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_inspect.vlm.conversation import IGNORED, Conversation, joined, token_types

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

APART = "sdpa_apart"


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


def attend_apart(model: "PreTrainedModel") -> None:
    """Have the language model of a VLM attend by sdpa, in a packed row to one conversation after the other."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(APART, _sdpa_apart)
    AttentionMaskInterface.register(APART, sdpa_mask)
    model.set_attn_implementation({"text_config": APART})


def _sdpa_apart(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    position_ids: "torch.Tensor | None" = None,
    **given: Any,
) -> tuple["torch.Tensor", None]:
    """transformers' sdpa attention of queries, keys and values (n, heads, t, size) -> (n, t, heads, size).

    A row of several conversations is one that has a mask, no cache, and positions that begin anew.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    tokens = query.shape[2]
    starts = [0]
    if attention_mask is not None and position_ids is not None and len(query) == 1 and key.shape[2] == tokens:
        starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    if len(starts) < 2 or starts[0]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    lengths = [end - start for start, end in zip(starts, [*starts[1:], tokens], strict=True)]
    each = zip(*(whole.split(lengths, 2) for whole in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *one, None, **given)[0] for one in each], 1), None

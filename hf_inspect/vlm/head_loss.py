"""What a detection head learns from: its guesses matched to what is there, and the language model saying what each
matched query has found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from hf_inspect.vlm.head import Guess, Head

BOXES, KINDS, CAPTIONS = "boxes", "class_labels", "captions"  # of what is there in an image
_NOTHING = 0.1  # weight of a query that finds nothing: DETR's
_MATCHING = {"class_cost": 1.0, "bbox_cost": 5.0, "giou_cost": 2.0}  # DETR's
_IGNORED = -100
_TERMS = {"objectness": "loss_ce", "bbox": "loss_bbox", "giou": "loss_giou"}  # ours, and the library's
There = Mapping[str, Any]  # boxes (m, 4) centre x, centre y, width, height as shares; class_labels (m,); captions


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """How much each term counts; a caption is learned of `captions` things a step at most, so that it stays cheap.

    `place` has the image's vectors themselves tell where they lie: those of a convolutional tower hardly do, and a
    language model, which has the order of its tokens alone, then finds no box.
    """

    bbox: float = 10.0
    giou: float = 2.0
    objectness: float = 1.0
    caption: float = 1.0
    captions: int = 8
    place: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise DataError(f"{self} came; weights are 0 or more.")


def head_terms(
    head: "Head", guess: "Guess", there: Sequence[There], weights: HeadWeights, say: Callable[..., "torch.Tensor"]
) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
    """The weighted loss of a guess, and its terms: objectness (with the class), bbox (L1), giou, caption, place.

    All layers count in the loss, the terms are the last one's. `say` takes vectors (m, features) and m captions (token
    ids), and gives the language model's loss of these. DataError where boxes are not finite.
    """
    import torch
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    if not torch.isfinite(guess.boxes).all():
        raise DataError("The detection head's boxes are not finite any more; train with lower rates.")
    matcher = HungarianMatcher(**_MATCHING)
    criterion = ImageLoss(matcher, len(head.config.classes), _NOTHING, ["labels", "boxes"]).to(guess.boxes.device)
    layers = [{"logits": logits, "pred_boxes": boxes} for logits, boxes in zip(guess.logits, guess.boxes, strict=True)]
    targets = [{name: one[name].to(guess.boxes.device) for name in (BOXES, KINDS)} for one in there]
    losses = criterion(layers[-1] | {"auxiliary_outputs": layers[:-1]}, targets)
    terms = {name: losses[key] for name, key in _TERMS.items()}
    of_layers = {name: sum(value for key, value in losses.items() if key.startswith(_TERMS[name])) for name in _TERMS}
    total = sum(getattr(weights, name) * value for name, value in of_layers.items())
    terms["caption"] = _caption(head, guess, there, matcher(layers[-1], targets), weights, say)
    terms["place"] = guess.apart
    return total + weights.caption * terms["caption"] + weights.place * guess.apart, terms


def captions_of(processor: "ProcessorMixin", names: Sequence[str], descriptions: Sequence[str]) -> list[list[int]]:
    """Token ids of what is said of things: the label, the description where there is one, and the end of a turn."""
    tokenizer = processor.tokenizer
    texts = [f"{name}: {said}" if said else name for name, said in zip(names, descriptions, strict=True)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]  # none at all is no batch to it
    return [[*one, tokenizer.eos_token_id] for one in ids]


def said_loss(
    model: "PreTrainedModel", forward: Callable[..., Any], tokens: "torch.Tensor", captions: Sequence[Sequence[int]]
) -> "torch.Tensor":
    """Mean cross-entropy of m captions (token ids), each said after one soft token (m, features).

    `forward` is the model's own.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(one, device=tokens.device) for one in captions]
    wanted = pad_sequence(ids, batch_first=True, padding_value=_IGNORED)
    words = model.get_input_embeddings()(wanted.clamp(min=0))
    embedded = torch.cat([tokens[:, None].to(words.dtype), words[:, :-1]], 1)
    positions = torch.arange(embedded.shape[1], device=tokens.device).expand(len(ids), -1)
    out = forward(
        inputs_embeds=embedded, attention_mask=(wanted != _IGNORED).long(), position_ids=positions, use_cache=False
    )
    return cross_entropy(out.logits.float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)


def _caption(
    head: "Head",
    guess: "Guess",
    there: Sequence[There],
    matched: Sequence[tuple["torch.Tensor", "torch.Tensor"]],
    weights: HeadWeights,
    say: Callable[..., "torch.Tensor"],
) -> "torch.Tensor":
    """The loss of captions of some matched queries, drawn anew each time; 0 where nothing is there."""
    import torch

    pairs = [
        (row, int(q), int(t))
        for row, (queries, things) in enumerate(matched)
        for q, t in zip(queries, things, strict=True)
    ]
    if not weights.captions:
        return 0 * head.say(guess.vectors).sum()  # every parameter has a gradient, as several processes need
    if not pairs:
        return 0 * say(head.say(guess.vectors[0, :1]), [[0]])  # nor may one process alone run the language model
    drawn = [pairs[i] for i in torch.randperm(len(pairs))[: weights.captions].tolist()]
    vectors = torch.stack([guess.vectors[row, query] for row, query, _ in drawn])
    return say(head.say(vectors), [there[row][CAPTIONS][thing] for row, _, thing in drawn])

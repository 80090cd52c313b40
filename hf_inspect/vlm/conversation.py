"""Turns about one or several images -> token ids and pixels: the one rendering of open questions, for training, for
inference, and for the fingerprint that holds both together.

Each turn is tokenised by itself, so that an answer's tokens are the same wherever it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.prompts import Message

if TYPE_CHECKING:
    import torch
    from transformers import BatchFeature, ProcessorMixin

ASKED, EXEMPLAR, ANSWER = 0, 1, 2  # whose tokens they are: the question's, an exemplar's answer's, the answer's
IGNORED = -100  # the label of a token that no loss is taken of
_TILED = 5  # dimensions of pixels that come as tiles of an image: a row's images follow each other in the second


@dataclass(frozen=True, slots=True)
class Turn:
    """Token ids (t,) of one kind, and what the processor made of the image that is asked about with them, if any.

    `vision` holds the model's inputs that are of images, of a batch of one.
    """

    ids: "torch.Tensor"
    kind: int
    vision: Mapping[str, "torch.Tensor"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model reads about one image, turn by turn; exemplars come first, each with its answer."""

    turns: tuple[Turn, ...]

    @property
    def ids(self) -> "torch.Tensor":
        """Token ids of all turns (t,), int64."""
        import torch

        return torch.cat([turn.ids for turn in self.turns])

    @property
    def parts(self) -> "torch.Tensor":
        """Whose each token is (t,): `ASKED`, `EXEMPLAR` or `ANSWER`."""
        import torch

        return torch.cat([torch.full_like(turn.ids, turn.kind) for turn in self.turns])

    @property
    def vision(self) -> dict[str, "torch.Tensor"]:
        """The model's inputs that are of images, of all turns in order, as the processor gives them for one row."""
        return joined([turn.vision for turn in self.turns])

    def before_last(self) -> "Conversation":
        """All but the last turn: of a guided question the exemplars."""
        return Conversation(self.turns[:-1])


def conversation(
    processor: "ProcessorMixin", messages: Mapping[str, Sequence[Message]], images: Sequence[Rgb]
) -> Conversation:
    """The turns of `prompts.ground`'s messages about RGB images uint8 (h, w, 3), each at the size it is shown at.

    Without a completion, up to where the answer begins. DataError for a processor without a chat template.
    """
    import torch

    pictures, turns = iter(images), list[Turn]()
    for text, kind in _pieces(processor, messages):
        if kind == ASKED:
            turns.append(_asked(processor, text, next(pictures)))
        else:
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            turns.append(Turn(torch.tensor(ids, dtype=torch.long), kind))
    if next(pictures, None) is not None:
        raise DataError(f"{len(images)} images came with fewer questions; give one for each.")
    return Conversation(tuple(turns))


def padded(
    conversations: Sequence[Conversation], processor: "ProcessorMixin", side: str = "left", kinds: Sequence[int] = ()
) -> dict[str, "torch.Tensor"]:
    """Model inputs of n conversations (n, t), padded on a side, `left` to generate and `right` to learn.

    With `kinds`, `labels` of the tokens of these.
    """
    import torch

    longest = max(len(one.ids) for one in conversations)
    pad = processor.tokenizer.pad_token_id
    shape = (len(conversations), longest)
    given = {"input_ids": torch.full(shape, pad), "attention_mask": torch.zeros(shape, dtype=torch.long)}
    labels = torch.full(shape, IGNORED)
    for row, one in enumerate(conversations):
        ids, parts = one.ids, one.parts
        place = slice(longest - len(ids), longest) if side == "left" else slice(0, len(ids))
        given["input_ids"][row, place], given["attention_mask"][row, place] = ids, 1
        labels[row, place] = torch.where(torch.isin(parts, torch.tensor(kinds, dtype=torch.long)), ids, IGNORED)
    given |= token_types(given["input_ids"] * given["attention_mask"], processor)
    return given | _stacked([one.vision for one in conversations]) | ({"labels": labels} if kinds else {})


def token_types(ids: "torch.Tensor", processor: "ProcessorMixin") -> dict[str, "torch.Tensor"]:
    """Which tokens are of images, for the families whose processors say so (Qwen's); nothing for the others."""
    if "mm_token_type_ids" not in processor.model_input_names:
        return {}
    return {"mm_token_type_ids": (ids == processor.image_token_id).int()}


def joined(visions: Sequence[Mapping[str, "torch.Tensor"]]) -> dict[str, "torch.Tensor"]:
    """Inputs that are of images, put one after the other as if one row had them all."""
    import torch

    held = [one for one in visions if one]
    if not held:
        return {}
    tiled = held[0]["pixel_values"].ndim == _TILED
    found = {}
    for name in held[0]:
        found[name] = torch.cat([one[name] for one in held], dim=1 if tiled else 0)
    return found


def _stacked(visions: Sequence[Mapping[str, "torch.Tensor"]]) -> dict[str, "torch.Tensor"]:
    """Inputs that are of images, of several rows; tiles are padded with such as are all zero, which no model sees."""
    import torch
    from torch.nn.functional import pad

    if visions[0]["pixel_values"].ndim != _TILED:
        return joined(visions)
    most = max(one["pixel_values"].shape[1] for one in visions)

    def filled(value: torch.Tensor) -> torch.Tensor:
        return pad(value, [0, 0] * (value.ndim - 2) + [0, most - value.shape[1]])

    return {name: torch.cat([filled(one[name]) for one in visions]) for name in visions[0]}


def _asked(processor: "ProcessorMixin", text: str, image: Rgb) -> Turn:
    """A question about one image."""
    given: BatchFeature = processor(images=[[image]], text=[text], add_special_tokens=False, return_tensors="pt")
    of_tokens = given["input_ids"].shape
    vision = {name: value for name, value in given.items() if value.shape != of_tokens}
    return Turn(given["input_ids"][0], ASKED, vision)


def _pieces(processor: "ProcessorMixin", messages: Mapping[str, Sequence[Message]]) -> list[tuple[str, int]]:
    """The text, cut where answers begin and end, and whose each piece is.

    An answer ends where its turn does; what a template puts between it and the next turn is the next one's.
    """
    if not processor.chat_template:
        raise DataError("the base's processor has no chat template; give an instruction-tuned base, which has one.")
    prompt, completion = list(messages["prompt"]), list(messages.get("completion", ()))
    every = prompt + completion
    whole = _text(processor, every, not completion)
    found, at = list[tuple[str, int]](), 0
    for i in (i for i, one in enumerate(every) if one["role"] == "assistant"):
        begin = _same(_text(processor, every[:i], True), whole)
        end = _same(_text(processor, every[: i + 1], False), whole)
        last = i == len(every) - 1
        found += [(whole[at:begin], ASKED), (whole[begin:end], ANSWER if last else EXEMPLAR)]
        at = end
    return found if completion else [*found, (whole[at:], ASKED)]


def _text(processor: "ProcessorMixin", messages: Sequence[Message], answer_next: bool) -> str:
    text: Any = processor.apply_chat_template(messages, add_generation_prompt=answer_next, tokenize=False)
    return str(text)


def _same(begin: str, whole: str) -> int:
    """How many characters both begin with."""
    pairs = zip(begin, whole, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(begin), len(whole)))

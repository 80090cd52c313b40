"""What the recipe of grounded VLMs needs of this package: rows as conversations, some after exemplars; batches, packed
or padded; a detection head inside the model's own forward.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import data as sets
from hf_inspect import images, prompts
from hf_inspect.data.pool import Exemplar, Pool, read_pool
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, Rgb
from hf_inspect.metrics.findings import Thing
from hf_inspect.prompts.sizing import Sizing
from hf_inspect.schema import TaskSpec
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.conversation import ANSWER, ASKED, EXEMPLAR, IGNORED, Conversation, conversation, padded
from hf_inspect.vlm.guiding import NUM, RATIO, for_training, row_rng
from hf_inspect.vlm.head_loss import BOXES, CAPTIONS, KINDS, HeadWeights, captions_of, head_terms, said_loss
from hf_inspect.vlm.packing import packed
from hf_inspect.vlm.seeing import COUNTS, PLACES, PRESENT, gathered, places, rows_of, watched

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from hf_inspect.vlm.head import Head

HEAD = "detection"  # the head's name in the model, by which its parameters are found
THERE, SHOWN_BEFORE = "there", "exemplar_labels"  # of a batch
HEAD_LOSS = "head_loss"  # of what a model with a head gives
_HEAD_INPUTS = (PLACES, PRESENT, COUNTS)


@dataclass(frozen=True, slots=True)
class Sample:
    """A row as a conversation, what is there in its image (`head_loss.There`), and where its vectors lie (t, 4)."""

    conversation: Conversation
    there: Mapping[str, Any]
    places: "torch.Tensor"


@dataclass
class GroundedRows:
    """The rows of a split as samples. With a `pool`, a share `ratio` of them carry `num` exemplars as earlier turns.

    With `mirrored`, half of the images are shown as in a mirror. What is drawn follows from the seed, the `epoch` and
    the row's number alone; what is a crowd is left out.
    """

    rows: "datasets.Dataset"
    question: prompts.Grounding
    processor: "ProcessorMixin"
    reading: Reading
    sizing: Sizing
    fingerprint: str
    pool: Pool | None = None
    ratio: float = RATIO
    num: int = NUM
    mirrored: bool = False
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Sample:
        row, rng = self.rows[int(number)], row_rng(self.seed, self.epoch, int(number))
        rgb, things = self.read(row)
        exemplars = self._exemplars(row, rng)
        if self.mirrored and rng.random() < 0.5:
            rgb, things = mirrored(rgb, things)
        pairs = [(one.rgb, present(one.things)) for one in exemplars] + [(rgb, things)]
        shown = [self.sizing.fit(one) for one, _ in pairs]
        told = [
            prompts.Told(said, prompts.View(one.shape[:2], fitted.shape[:2], self.question.frame))
            for (one, said), fitted in zip(pairs, shown, strict=True)
        ]
        turns = conversation(self.processor, prompts.ground(self.question, told[-1], told[:-1]), shown)
        asked = next(one for one in reversed(turns.turns) if one.kind == ASKED)
        tokens = int((asked.ids == self.processor.image_token_id).sum())
        where = places(self.processor, asked.vision, shown[-1].shape[:2], tokens)
        return Sample(turns, there(things, rgb.shape[:2], self.question.task, self.processor), where)

    def read(self, row: Mapping[str, Any]) -> tuple[Rgb, tuple[Thing, ...]]:
        """A row's image, uint8 (h, w, 3), and what it shows, without crowds."""
        rgb = images.load(row["image"]["bytes"], self.reading).rgb
        return rgb, present(sets.things_of(row["objects"], self.names))

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the classes of the data set's objects, in the order of its own ids."""
        return list(self.rows.features["objects"]["category"].feature.names)

    def longest(self) -> tuple[int, int]:
        """Tokens of the longest conversation that may come, exemplars and all, and of the longest answer.

        A blank image of every size that occurs is prepared to count its tokens.
        """
        sizes = list[tuple[int, int]]()
        answers = list[int]()
        for row in self.rows.select_columns(["image", "objects"]):
            width, height = images.header(row["image"]["bytes"])[1:]
            sizes.append((height, width))
            answers.append(self._answer(present(sets.things_of(row["objects"], self.names)), (height, width)))
        asked = {size: self._asked(size) for size in set(sizes)}
        own = max(asked[size] + answer for size, answer in zip(sizes, answers, strict=True))
        shown = self.pool.exemplars if self.pool else ()
        before = sorted(self._asked(one.size) + self._answer(present(one.things), one.size) for one in shown)
        return own + sum(before[-self.num :] if before else ()), max(answers)

    def _exemplars(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Exemplar, ...]:
        if self.pool is None:
            return ()
        return for_training(
            self.pool, rng, fingerprint=self.fingerprint, group=int(row["group"]),
            sha256=hashlib.sha256(row["image"]["bytes"]).hexdigest(), ratio=self.ratio, num=self.num,
        )  # fmt: skip

    def _asked(self, size: tuple[int, int]) -> int:
        blank = self.sizing.fit(np.zeros((*size, 3), np.uint8))
        return len(conversation(self.processor, prompts.ground(self.question), [blank]).ids)

    def _answer(self, things: Sequence[Thing], size: tuple[int, int]) -> int:
        shown = size if self.sizing.size is None else self.sizing.size(*size)
        view = prompts.View(size, shown, self.question.frame)
        text = prompts.render_answer(things, view, describe=self.question.describe)
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1  # and its end


def present(things: Sequence[Thing]) -> tuple[Thing, ...]:
    """Things that are no crowds: those that an answer tells of."""
    return tuple(one for one in things if not one.crowd)


def mirrored(rgb: Rgb, things: Sequence[Thing]) -> tuple[Rgb, tuple[Thing, ...]]:
    """An image and its things, left for right; polygons are left out."""
    width = rgb.shape[1]
    turned = (
        replace(one, box=(width - one.box[2], one.box[1], width - one.box[0], one.box[3]), polygons=())
        for one in things
    )
    return np.ascontiguousarray(rgb[:, ::-1]), tuple(turned)


def there(
    things: Sequence[Thing], size: tuple[int, int], task: TaskSpec, processor: "ProcessorMixin"
) -> dict[str, Any]:
    """What a detection head is to find in an image of a height and a width: boxes, classes and captions."""
    import torch

    height, width = size
    corners = torch.tensor([one.box for one in things], dtype=torch.float32).reshape(-1, 4)
    shares = corners / torch.tensor([width, height, width, height])
    captions = captions_of(processor, [one.name for one in things], [one.description for one in things])
    return {
        BOXES: torch.cat([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1),
        KINDS: torch.tensor([task.index(one.name) for one in things], dtype=torch.long),
        CAPTIONS: captions,
    }


def collated(
    samples: Sequence[Sample],
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    *,
    in_one_row: bool,
    head: bool,
    text: bool = True,
    exemplars: bool = False,
) -> dict[str, Any]:
    """A batch: packed `in_one_row`, or padded; labels of the answers, and with `exemplars` of theirs as well.

    `exemplar_labels` are those of the exemplars' answers alone, whose loss is told of. With a `head`, what it looks at
    and is to find; without `text`, that alone.
    """
    import torch

    turns = [one.conversation for one in samples]
    if not text:
        seen = padded(turns, processor)
        own = {name: seen[name] for name in turns[0].vision}
        return own | gathered([one.places for one in samples]) | {THERE: [one.there for one in samples]}
    kinds = (EXEMPLAR, ANSWER)
    given: dict[str, Any] = (
        packed(turns, model, processor, kinds) if in_one_row else padded(turns, processor, "right", kinds)
    )
    whose = _parts(turns, given["labels"])
    every = given["labels"]
    given[SHOWN_BEFORE] = torch.where(whose == EXEMPLAR, every, IGNORED)
    given["labels"] = every if exemplars else torch.where(whose == ANSWER, every, IGNORED)
    if head:
        tokens = [int((one.ids == processor.image_token_id).sum()) for one in turns]
        given |= gathered([one.places for one in samples], tokens) | {THERE: [one.there for one in samples]}
    return given


def head_for(model: "PreTrainedModel", base: str | Path, task: TaskSpec, sizes: Mapping[str, int]) -> "Head":
    """The head of a base that was trained with one; else a random one, of these sizes.

    DataError where the base's is of other classes, or of other sizes than are asked for.
    """
    from hf_inspect.vlm.head import has_head, load_head, new_head

    folder = base_folder(base)
    if not has_head(folder):
        return new_head(model, task.classes, **sizes)
    head = load_head(folder, model).train()
    stated = head.config.to_dict()
    if other := [name for name, size in sizes.items() if stated.get(name) != size]:
        raise DataError(f"the base's detection head has {other[0]} {stated.get(other[0])}; leave head out, to go on.")
    if head.config.classes != task.classes:
        raise DataError(
            f"the base's detection head finds {', '.join(head.config.classes)}, the data show "
            f"{', '.join(task.classes)}; start from a base without one."
        )
    return head


def with_head(model: "PreTrainedModel", head: "Head", weights: HeadWeights) -> None:
    """Put a detection head into a model: given what is there, its forward gives the head's loss and its terms, and
    logits where there are words to read.

    All in one forward, so that several processes, a checkpoint's adapter and gradient checkpointing take it as part of
    the model.
    """
    plain = model.forward
    model.add_module(HEAD, head)

    @functools.wraps(plain)
    def forward(*args: Any, there: Any = None, **kwargs: Any) -> Any:
        if there is None:
            return plain(*args, **kwargs)
        looked = {name: kwargs.pop(name) for name in _HEAD_INPUTS}
        with watched(model) as seen:
            out = plain(*args, **kwargs) if "input_ids" in kwargs else model.get_image_features(**kwargs)
        own: Any = own_head(model)
        guess = own(rows_of(seen[0], looked), looked[PLACES], looked[PRESENT])
        total, terms = head_terms(own, guess, there, weights, functools.partial(said_loss, model, plain))
        return {HEAD_LOSS: total, **terms} | ({"logits": out.logits} if "input_ids" in kwargs else {})

    model.forward = forward
    model.whole_forward = plain


def take_head(model: "PreTrainedModel") -> "Head":
    """Take the head out of a model that `with_head` put it into, under an adapter or not; the model is as before."""
    head: Any = own_head(model)
    delattr(model, HEAD)
    model.forward = model.whole_forward
    del model.whole_forward
    for config in getattr(model, "peft_config", {}).values():
        config.modules_to_save = [name for name in config.modules_to_save or () if name != HEAD] or None
    return head


def own_head(model: "PreTrainedModel") -> "Head | None":
    """The head of a model that learns, None where it has none; PEFT keeps the untrained twin of a whole module."""
    held: Any = getattr(model, HEAD, None)
    return held.modules_to_save["default"] if hasattr(held, "modules_to_save") else held


def token_losses(
    logits: "torch.Tensor", labels: "torch.Tensor", *others: "torch.Tensor"
) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
    """Cross-entropy of logits (n, t, v), summed over the tokens that some labels (n, t) each want, and their number.

    Where two of them want a token, it is the same.
    """
    import torch
    from torch.nn.functional import cross_entropy

    wanted = labels
    for other in others:
        wanted = torch.where(wanted == IGNORED, other, wanted)
    each = cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none")
    each = each.view(labels.shape)
    return [(each[one != IGNORED].sum(), (one != IGNORED).sum()) for one in (labels, *others)]


def rows_of_split(data: Path, split: str, max_rows: int | None = None) -> "datasets.Dataset":
    """The rows of a split of a built data set; with `max_rows` so many of them, sampled from a fixed seed."""
    rows = sets.load_split(data, split)
    return rows.shuffle(seed=0).select(range(min(max_rows, len(rows)))) if max_rows else rows


def pool_for(folder: Path | None, task: TaskSpec, num: int) -> Pool | None:
    """The pool of exemplars in a folder; DataError where it is of other classes, or gives a row none but itself."""
    if folder is None:
        return None
    pool = read_pool(folder)
    task.refuse_other(replace(pool.task, kind=task.kind), "the data set", f"the exemplars of {folder.name}")
    if not 1 <= num < len(pool.exemplars):
        raise DataError(
            f"{folder} has {len(pool.exemplars)} exemplars, of which {num} are to come before an image; give fewer, or "
            "choose more by 'hf-inspect data pool'."
        )
    return pool


def check_rows(rows: "datasets.Dataset", task: TaskSpec, data: Path) -> None:
    """DataError unless each class of the task is there in an image to train on: one that is nowhere is not learnt."""
    names, found = list(rows.features["objects"]["category"].feature.names), set[str]()
    for row in rows.select_columns(["objects"]):
        found |= {names[i] for i in row["objects"]["category"]}
    if missing := [name for name in task.classes if name not in found]:
        raise DataError(
            f"no image to train on in {data} shows a {missing[0]}; raise max_rows, or build it with other shares."
        )


def check_lengths(train: GroundedRows, validation: GroundedRows, max_length: int | None) -> tuple[int, int]:
    """Tokens of the longest sample and of the longest answer; DataError if `max_length` would cut it."""
    longest, answer = map(max, zip(train.longest(), validation.longest(), strict=True))
    if max_length is not None and longest > max_length:
        raise DataError(
            f"max_length is {max_length}, but the longest sample takes {longest} tokens; set max_length to {longest} "
            "or null, lower side, or show fewer exemplars."
        )
    return longest, answer


def _parts(turns: Sequence[Conversation], like: "torch.Tensor") -> "torch.Tensor":
    """Whose each token of a batch is, laid out as its labels: in one row, or padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    parts = [one.parts for one in turns]
    return torch.cat(parts)[None] if len(like) == 1 else pad_sequence(parts, batch_first=True)

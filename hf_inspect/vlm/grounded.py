"""Images -> what is found in them, in a VLM's own words: boxes, labels and descriptions, each with a confidence."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, prompts
from hf_inspect.cascade import CASCADE
from hf_inspect.errors import DataError, ParseError
from hf_inspect.images import Reading, Rgb, check_rgb
from hf_inspect.prompts.reading import Said
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import Finding, History, Prediction, TaskSpec
from hf_inspect.tasks.detection import Decoding, box_overlap, decode, severity_of
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.conversation import Conversation, conversation
from hf_inspect.vlm.generating import Generated, Prefix, generate, read_prefix
from hf_inspect.vlm.guiding import Guide
from hf_inspect.vlm.identity import identity_of
from hf_inspect.vlm.learned import LEARNED, Learned
from hf_inspect.vlm.model import VLM, load_parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from hf_inspect.vlm.head import Head

BATCH = 8
_ROOM = 2  # times the longest answer of the training that an answer may have


class Shown(Protocol):
    """An exemplar: an image RGB uint8 (h, w, 3), and what it shows, with boxes in its pixels."""

    @property
    def rgb(self) -> Rgb:
        """Its pixels, upright."""
        ...

    @property
    def things(self) -> Sequence[prompts.Named]:
        """What it shows."""
        ...


class Guiding(Protocol):
    """Where exemplars come from. `identity` is the SHA-256 of all that decides which; `history` what they were of."""

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the exemplars and of how they are chosen."""
        ...

    @property
    def history(self) -> History:
        """The exemplars' images, on which nothing guided by them may be measured."""
        ...

    @property
    def shared(self) -> bool:
        """Whether all images have the same exemplars, or nearly all."""
        ...

    def for_image(self, rgb: Rgb) -> Sequence[Shown]:
        """The exemplars for an image, the first shown first."""
        ...

    def with_features(self, features: Callable[[Sequence[Rgb]], NDArray[np.floating[Any]]]) -> "Guiding":
        """The same, once it is known how whoever asks sees images: n of them -> (n, d)."""
        ...


BY = ("text", "head", "both")  # what findings are read from
_SAME = 0.6  # IoU from which what the text and the head say of a class is one thing


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about an image, how that is shown, and the exemplars before it."""

    conversation: Conversation
    view: prompts.View
    exemplars: tuple[Shown, ...] = ()


class GroundedVLM:
    """A `Predictor` that says what it finds, where, and how sure it is.

    `model` and `processor` are transformers' own, float32 or laid out by `vlm.model`. Findings have the labels that
    were said, which may be no classes of the task. A `guide` shows it exemplars first. With a detection `head` it may
    say boxes without a word: `by` is `text`, `head` or `both`. Threads may share one, processes may not, as `VLM`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        question: prompts.Grounding,
        *,
        learned: Learned = Learned(),  # noqa: B008 - frozen
        history: History | None = None,
        parts: Mapping[str, Path] | None = None,
        reading: Reading | None = None,
        guide: Guiding | None = None,
        head: "Head | None" = None,
        by: str | None = None,
        batch_size: int = BATCH,
        most: int | None = None,
    ) -> None:
        """`batch_size` is of images, and changes speed and memory alone; `most` the tokens of an answer.

        By default twice as many as the longest answer of its training had, and findings of both text and head where
        there is a head. DataError for `by` without one.
        """
        if by not in (None, *BY) or (by not in (None, "text") and head is None):
            raise DataError(
                f"Findings by {by!r} were asked for; give text" + (", head or both." if head else ": it has no head.")
            )
        self.head, self.by = head, by or ("text" if head is None else "both")
        if batch_size < 1 or (most is not None and most < 1):
            raise DataError(f"batch_size is {batch_size} and most is {most}; give one or more.")
        self.model, self.processor, self.question, self.learned = model, processor, question, learned
        self.parts, self.reading, self.batch_size = parts, reading, batch_size
        self.guide = None if guide is None else guide.with_features(self.features)
        self.most = most or learned.longest * _ROOM
        self._own_history = history or History()
        self._sizing = sizing_of(parity.image_settings(processor))
        self._loaded_here, self._preparing, self._answering = LoadedHere("A VLM"), Lock(), Lock()
        self._prefix: tuple[tuple[int, ...], Prefix] | None = None

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        *,
        question: prompts.Grounding | None = None,
        guide: Guiding | None = None,
        by: str | None = None,
        batch_size: int = BATCH,
        most: int | None = None,
        dtype: "torch.dtype | None" = None,
    ) -> "GroundedVLM":
        """Load a base and its adapter as `VLM.from_pretrained`; without an adapter it is asked `question`.

        DataError for an adapter that was trained on a closed question.
        """
        found = load_parts(base, adapter, question, None, dtype)
        if not isinstance(found.question, prompts.Grounding):
            raise DataError(f"{adapter or base} was trained to name a class, not where things are; use 'eval vlm'.")
        learned, head = Learned(), None
        if found.trained is not None:
            from hf_inspect.vlm.head import has_head, load_head

            record = found.trained / parity.PROMPT
            learned = Learned.from_dict(files.read_json(record).get(LEARNED), record)
            head = load_head(found.trained, found.model) if has_head(found.trained) else None
        return cls(
            found.model, found.processor, found.question, learned=learned, history=found.history, parts=found.parts,
            reading=found.reading, guide=guide, head=head, by=by, batch_size=batch_size, most=most,
        )  # fmt: skip

    @property
    def task(self) -> TaskSpec:
        """What it looks for."""
        return self.question.task

    @property
    def told(self) -> float:
        """The score from which on what it finds is told of."""
        return self.learned.told

    @property
    def history(self) -> History:
        """What it and its ancestors were trained on, and its exemplars."""
        return self._own_history if self.guide is None else self._own_history.union(self.guide.history)

    @functools.cached_property
    def decides(self) -> dict[str, Any]:
        """As `VLM.decides`, and the guide's identity."""
        if self.parts is None:
            raise DataError("A VLM put together in memory has no files to know it by; load one with from_pretrained.")
        return {
            "files": hub.file_hashes(self.parts),
            "question": self.question.to_dict(),
            "most": self.most,
            "by": self.by,
            "guide": None if self.guide is None else self.guide.identity,
            "dtypes": sorted({str(weight.dtype) for weight in self.model.parameters()}),
            "device": self.model.device.type,
        }

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of `decides`."""
        return identity_of(self.decides)

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """What is found in each RGB uint8 (h, w, 3) image of any size, in order, the surest first.

        Severity is the highest score of a defect, as the task's `score` has it; None where nothing of the answer can be
        read, or it breaks off before a defect was found.
        """
        self._loaded_here.check()
        for image in images:
            check_rgb(image)
        order = sorted(range(len(images)), key=lambda i: images[i].shape)  # like sizes together: less padding
        batches = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        ask = {"text": self._by_text, "head": self._by_head, "both": self._by_both}[self.by]
        said: dict[int, Prediction] = {}
        for batch in batches:
            said |= dict(zip(batch, ask([images[i] for i in batch]), strict=True))
        return [said[i] for i in range(len(images))]

    def prepare(self, image: Rgb) -> Asked:
        """What is asked about an image, after its exemplars, and how it is shown."""
        exemplars = tuple(self.guide.for_image(image)) if self.guide is not None else ()
        strange = {thing.name for one in exemplars for thing in one.things} - set(self.task.classes)
        if strange:
            raise DataError(
                f"The exemplars show {', '.join(sorted(strange))}, and the question is of {self.task}; choose some of "
                "its classes, by 'hf-inspect data pool'."
            )
        told = [prompts.Told(tuple(one.things), self.view(one.rgb)) for one in exemplars]
        messages = prompts.ground(self.question, None, told)
        pictures = [self._sizing.fit(one) for one in (*(one.rgb for one in exemplars), image)]
        with self._preparing:  # a tokenizer keeps its padding in itself
            return Asked(conversation(self.processor, messages, pictures), self.view(image), exemplars)

    def features(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """How it sees n images: the mean of the vectors that the language model is given of each (n, d)."""
        from hf_inspect.vlm import seeing

        with self._preparing:
            given = seeing.look(self.processor, [self._sizing.fit(image) for image in images])
        with self._answering:
            vectors, present = seeing.vectors_of(self.model, given)
        mean = (vectors * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        return np.asarray(mean.double().cpu().numpy())

    def view(self, image: Rgb) -> prompts.View:
        """How an image is shown, and its boxes are said."""
        height, width = image.shape[:2]
        shown = (height, width) if self._sizing.size is None else self._sizing.size(height, width)
        return prompts.View((height, width), shown, self.question.frame)

    def generate(self, asked: Sequence[Asked]) -> list[Generated]:
        """Greedy answers; exemplars that a guide shows all images are read once for all calls."""
        found: dict[int, Generated] = {}
        shared = self.guide is not None and self.guide.shared
        with self._answering:
            for alike in _alike([one.exemplars if shared else () for one in asked]):
                own = [asked[i].conversation for i in alike]
                prefix = self._read_once(asked[alike[0]]) if shared else None
                found |= dict(zip(alike, generate(self.model, self.processor, own, self.most, prefix), strict=True))
        return [found[i] for i in range(len(asked))]

    def read(self, answer: Generated, view: prompts.View) -> Prediction:
        """An answer as what was found."""
        ids = list(answer.ids)
        with self._preparing:
            text, ends = _text(self.processor, ids)
        try:
            read = prompts.read_answer(text, view)
        except ParseError as error:
            return Prediction(None, unreadable=str(error), findings=())
        raw = np.array([_sureness(one, ends, answer.p) for one in read.said])
        scores = raw if self.learned.confidence is None else self.learned.confidence.severity(raw)
        found = [
            Finding(one.name, float(min(max(score, 0.0), 1.0)), one.box, description=one.description)
            for one, score in zip(read.said, scores, strict=True)
        ]
        found.sort(key=lambda one: -one.score)
        cut = read.cut or not answer.ended
        notes = (*read.left_out, *read.mended, *([f"the answer breaks off after {len(found)} objects"] if cut else []))
        if cut and all(one.name in self.task.good for one in found):
            return Prediction(
                None, unreadable=f"the answer breaks off: {notes[-1]}", findings=tuple(found), notes=notes
            )
        severity = severity_of(found, self.task, Decoding().least)
        return Prediction(severity, findings=tuple(found), notes=notes)

    def _by_text(self, images: Sequence[Rgb]) -> list[Prediction]:
        asked = [self.prepare(image) for image in images]
        return [self.read(answer, one.view) for answer, one in zip(self.generate(asked), asked, strict=True)]

    def _by_head(self, images: Sequence[Rgb]) -> list[Prediction]:
        from hf_inspect.vlm import seeing
        from hf_inspect.vlm.head import find

        assert self.head is not None
        with self._preparing:
            given = seeing.look(self.processor, [self._sizing.fit(image) for image in images])
        with self._answering:
            outputs = find(self.model, self.head, given)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return decode(outputs, self.task, sizes, Decoding(told=self.learned.told).to_dict())

    def _by_both(self, images: Sequence[Rgb]) -> list[Prediction]:
        pairs = zip(self._by_text(images), self._by_head(images), strict=True)
        return [merged(text, head, self.task) for text, head in pairs]

    def _read_once(self, asked: Asked) -> Prefix:
        """What all that is asked with these exemplars begins with."""
        own = tuple(map(id, asked.exemplars))
        if self._prefix is None or self._prefix[0] != own:
            self._prefix = own, read_prefix(self.model, self.processor, asked.conversation.before_last())
        return self._prefix[1]


def merged(text: Prediction, head: Prediction, task: TaskSpec) -> Prediction:
    """What an answer says and what a detection head finds, as one: of a thing that both know, the surer score and the
    answer's words. An answer that could not be read, or broke off, stays so unless the head finds a defect.
    """
    kept, others = list[Finding](), list(head.findings or ())
    for one in text.findings or ():
        same = [other for other in others if other.name == one.name and box_overlap(other.box, one.box) >= _SAME]
        others = [other for other in others if other not in same]
        surest = max([one, *same], key=lambda finding: finding.score)
        kept.append(replace(surest, description=one.description))
    found = sorted([*kept, *others], key=lambda one: -one.score)
    notes = (*text.notes, *head.notes)
    if text.severity is None and all(one.name in task.good or one.score < Decoding().told for one in found):
        return Prediction(None, unreadable=text.unreadable, findings=tuple(found), notes=notes)
    return Prediction(severity_of(found, task, Decoding().least), findings=tuple(found), notes=notes)


def _alike(exemplars: Sequence[tuple[Shown, ...]]) -> list[list[int]]:
    """Numbers of the images that have the same exemplars, together."""
    held: dict[tuple[int, ...], list[int]] = {}
    for i, own in enumerate(exemplars):
        held.setdefault(tuple(map(id, own)), []).append(i)
    return list(held.values())


def load(base: str | Path, adapter: str | Path | None = None, guide: Guiding | None = None) -> VLM | GroundedVLM:
    """A base and its adapter as what they were trained to be; DataError for a guide where exemplars are not shown."""
    folder = base_folder(base) if adapter is None else hub.resolve(adapter)
    if parity.is_grounded(folder):
        return GroundedVLM.from_pretrained(base, adapter, guide=guide)
    if guide is not None:
        raise DataError(f"{adapter or base} names a class, and is shown no exemplars; leave them out.")
    return VLM.from_pretrained(base, adapter)


def load_of_cascade(folder: Path, stated: Mapping[str, Any]) -> VLM | GroundedVLM:
    """The VLM that lies in a cascade's folder, or that its cascade.json names, shown the exemplars that it names."""
    roles = hub.parts_of(stated, folder / CASCADE).keys() - {"edge"}
    found = {role: hub.part_of(folder, stated, role, base_folder) for role in roles}
    guide = None
    if "exemplars" in found:
        guide = Guide.from_states(found["exemplars"], stated["vlm"]["states"], folder / CASCADE)
    return load(found["base"], found.get("adapter"), guide)


def _text(processor: "ProcessorMixin", ids: Sequence[int]) -> tuple[str, list[int]]:
    """An answer's text, and up to which of its characters each token reaches."""
    decode: Any = functools.partial(processor.tokenizer.decode, skip_special_tokens=True)
    return decode(ids), [len(decode(ids[: i + 1])) for i in range(len(ids))]


def _sureness(said: Said, ends: Sequence[int], p: Sequence[float]) -> float:
    """The mean probability of the tokens of an object's label and coordinates."""
    begins = [0, *ends[:-1]]
    spans = [said.label_at, *said.numbers_at]
    own = [
        p[i]
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if any(begin < last and end > first for first, last in spans)
    ]
    return float(np.mean(own)) if own else 0.0

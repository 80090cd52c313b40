"""Images -> what is found in them, in a VLM's own words: boxes, labels and descriptions, each with a confidence."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hf_inspect import files, hub, prompts
from hf_inspect.errors import DataError, ParseError
from hf_inspect.images import Reading, Rgb, check_rgb
from hf_inspect.prefetch import prefetched
from hf_inspect.prompts.reading import Said
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import Finding, History, Meaning, Prediction, TaskSpec
from hf_inspect.tasks.detection import Decoding, severity_of
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.conversation import Conversation, conversation
from hf_inspect.vlm.families import FAMILIES
from hf_inspect.vlm.generating import Generated, Prefix, generate, read_prefix
from hf_inspect.vlm.identity import identity_of
from hf_inspect.vlm.model import VLM, load_parts
from hf_inspect.vlm.sizing import sizing_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

BATCH = 8
MOST = 512  # tokens of an answer where its training does not say
_ROOM = 2  # times the longest answer of the training that an answer may have


@dataclass(frozen=True, slots=True)
class Shown:
    """An exemplar: an image RGB uint8 (h, w, 3), and what it shows, with boxes in its pixels."""

    rgb: Rgb
    things: tuple[prompts.Named, ...]


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
        """Whether all images have the same exemplars."""
        ...

    def for_image(self, rgb: Rgb) -> Sequence[Shown]:
        """The exemplars for an image, the first shown first."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What the training of a grounded VLM states beside its prompt.

    `confidence` turns the mean probability of an object's tokens into that of its being right, `told` is the score from
    which findings are told of; `longest` are the tokens of the longest answer.
    """

    confidence: Meaning | None = None
    told: float = Decoding().told
    longest: int = MOST // _ROOM

    @classmethod
    def from_dict(cls, value: Any, where: Path) -> "Learned":
        """What `to_dict` wrote into the record `where`; DataError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {"confidence", "told", "longest"}:
            raise DataError(f"{where} does not say what its scores mean ({value!r}); train it with recipes/vlm_ground.")
        stated = value["confidence"]
        return cls(
            None if stated is None else Meaning.from_dict(stated, where), float(value["told"]), int(value["longest"])
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        stated = None if self.confidence is None else self.confidence.to_dict()
        return {"confidence": stated, "told": self.told, "longest": self.longest}


LEARNED = "grounding"  # its key in prompt.json


class GroundedVLM:
    """A `Predictor` that says what it finds, where, and how sure it is.

    `model` and `processor` are transformers' own, float32 or laid out by `vlm.model`. Findings have the labels that
    were said, which may be no classes of the task. A `guide` shows it exemplars first. Threads may share one, processes
    may not, as `VLM`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        question: prompts.Grounding,
        *,
        learned: Learned = Learned(),
        history: History | None = None,
        parts: Mapping[str, Path] | None = None,
        reading: Reading | None = None,
        guide: Guiding | None = None,
        batch_size: int = BATCH,
        most: int | None = None,
    ) -> None:
        """`batch_size` is of images, and changes speed and memory alone; `most` the tokens of an answer.

        By default twice as many as the longest answer of its training had.
        """
        if batch_size < 1 or (most is not None and most < 1):
            raise DataError(f"batch_size is {batch_size} and most is {most}; give one or more.")
        self.model, self.processor, self.question, self.learned = model, processor, question, learned
        self.parts, self.reading, self.guide, self.batch_size = parts, reading, guide, batch_size
        self.most = most or learned.longest * _ROOM
        self._own_history = history or History()
        self._sizing = sizing_of(parity.image_settings(processor))
        self._loaded_here, self._preparing, self._answering = LoadedHere("A VLM"), Lock(), Lock()
        self._prefix: Prefix | None = None

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        *,
        question: prompts.Grounding | None = None,
        guide: Guiding | None = None,
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
        learned = Learned()
        if found.trained is not None:
            record = found.trained / parity.PROMPT
            learned = Learned.from_dict(files.read_json(record).get(LEARNED), record)
        return cls(
            found.model, found.processor, found.question, learned=learned, history=found.history, parts=found.parts,
            reading=found.reading, guide=guide, batch_size=batch_size, most=most,
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
        prepared = prefetched(lambda batch: [self.prepare(images[i]) for i in batch], batches)
        said: dict[int, Prediction] = {}
        for batch, asked in zip(batches, prepared, strict=True):
            answers = self.generate([one for one, _ in asked])
            said |= {i: self.read(answer, view) for i, answer, (_, view) in zip(batch, answers, asked, strict=True)}
        return [said[i] for i in range(len(images))]

    def prepare(self, image: Rgb) -> tuple[Conversation, prompts.View]:
        """What is asked about an image, after its exemplars, and how it is shown."""
        exemplars = self.guide.for_image(image) if self.guide is not None else ()
        told = [prompts.Told(one.things, self.view(one.rgb)) for one in exemplars]
        messages = prompts.ground(self.question, None, told)
        pictures = [self._sizing.fit(one) for one in (*(one.rgb for one in exemplars), image)]
        with self._preparing:  # a tokenizer keeps its padding in itself
            return conversation(self.processor, messages, pictures), self.view(image)

    def view(self, image: Rgb) -> prompts.View:
        """How an image is shown, and its boxes are said."""
        height, width = image.shape[:2]
        shown = (height, width) if self._sizing.size is None else self._sizing.size(height, width)
        return prompts.View((height, width), shown, self.question.frame)

    def generate(self, asked: Sequence[Conversation]) -> list[Generated]:
        """Greedy answers; what all begin with is read once for all calls, where the guide shows all images the same."""
        with self._answering:
            prefix = None
            if self.guide is not None and self.guide.shared:
                if self._prefix is None:
                    self._prefix = read_prefix(self.model, self.processor, asked[0].before_last())
                prefix = self._prefix
            return generate(self.model, self.processor, asked, self.most, prefix)

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


def load(base: str | Path, adapter: str | Path | None = None, guide: Guiding | None = None) -> VLM | GroundedVLM:
    """A base and its adapter as what they were trained to be; DataError for a guide where exemplars are not shown."""
    folder = base_folder(base) if adapter is None else hub.resolve(adapter)
    if parity.is_grounded(folder):
        return GroundedVLM.from_pretrained(base, adapter, guide=guide)
    if guide is not None:
        raise DataError(f"{adapter or base} names a class, and is shown no exemplars; leave them out.")
    return VLM.from_pretrained(base, adapter)


def frame_of(model_type: str) -> str:
    """In which numbers a family of VLMs says its boxes."""
    return FAMILIES[model_type].frame if model_type in FAMILIES else prompts.THOUSANDTHS


def with_confidence(learned: Learned, scores: Sequence[float], right: Sequence[bool], told: float | None) -> Learned:
    """What findings on validation say: the chance of being right by Platt's scaling, where some were and some not."""
    from hf_inspect.cascade.composite import meaning_of

    found = learned if told is None else replace(learned, told=told)
    if not (any(right) and not all(right)):
        return found
    return replace(found, confidence=meaning_of(np.array(scores), np.array(right, np.int64), "validation"))


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

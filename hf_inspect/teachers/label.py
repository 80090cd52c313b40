"""Fine-tuned teachers -> a `Predictor`: Grounding DINO's boxes, and in each box SAM's mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hf_inspect import hub
from hf_inspect.data import read_history
from hf_inspect.errors import DataError
from hf_inspect.files import portable_name
from hf_inspect.images import Reading, Rgb
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import DETECTION, SEGMENTATION, Finding, History, Prediction, Predictor
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import Decoding, severity_of
from hf_inspect.teachers import dino, lora, sam
from hf_inspect.teachers.phrases import Prompt, Scores
from hf_inspect.teachers.record import DINO, SAM, TEACHER, Stated
from hf_inspect.training import content_of
from hf_inspect.vlm.identity import identity_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BATCH = 8
LABELS = Decoding(least=0.3, overlap=0.6, most=100, told=0.3)  # what is kept as a label: Grounding DINO's own threshold


@dataclass(frozen=True, slots=True)
class Part:
    """One of the teachers, its adapter merged: what its folder states, model and processor."""

    folder: Path
    stated: Stated
    model: "PreTrainedModel"
    processor: "ProcessorMixin"


class Labeller(Predictor, Protocol):
    """A predictor whose findings, from the score that its decoding tells of on, are labels to learn from."""

    @property
    def decoding(self) -> Decoding:
        """How its boxes become findings."""
        ...


def labels_of(teacher: Labeller, images: Sequence[Rgb]) -> list[tuple[Finding, ...]]:
    """The labels that a teacher gives to images: what it tells of."""
    told = teacher.decoding.told
    return [tuple(f for f in one.findings or () if f.score >= told) for one in teacher.predict(images)]


class Teacher:
    """Boxes by class from Grounding DINO, masks from SAM where there is one. Threads may share it, one at a time.

    Its task is a segmentation with a SAM, else a detection. An image in which nothing is kept has no findings: a
    negative. Adapters are merged, so that it is as fast as the bases alone.
    """

    def __init__(self, boxes: Part, masks: Part | None = None, decoding: Decoding = LABELS) -> None:
        """Most callers want `from_pretrained`."""
        self.boxes, self.masks, self.decoding = boxes, masks, decoding
        stated = boxes.stated
        self.task = replace(stated.task, kind=DETECTION if masks is None else SEGMENTATION)
        self.reading: Reading = stated.reading
        if masks is not None:
            own, others = dino.as_detection(stated.task), dino.as_detection(masks.stated.task)
            own.refuse_other(others, "The teacher of boxes", "the teacher of masks")
        prompt = Prompt.of(self.task.classes, stated.synonyms)
        self.text = dino.text_of(prompt, len(self.task.classes), boxes.processor, boxes.model.config)
        self._loaded_here, self._lock = LoadedHere("A Teacher"), Lock()

    @classmethod
    def from_pretrained(
        cls,
        dino_adapter: str | Path,
        sam_adapter: str | Path | None = None,
        *,
        dino: str | Path | None = None,
        sam: str | Path | None = None,
        least: float = LABELS.least,
    ) -> "Teacher":
        """The teachers of two adapters' folders or repositories, a base each by the name that the adapter states.

        `dino` and `sam` say where a base lies here instead; another base than was trained on is refused. `least` is
        the score from which a box is a label: lower finds more, and more that is not there. DataError for anything that
        is no whole adapter.
        """
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        decoding = replace(LABELS, least=least, told=least)
        masks = None if sam_adapter is None else _part(SAM, sam_adapter, sam, device)
        return cls(_part(DINO, dino_adapter, dino, device), masks, decoding)

    @classmethod
    def from_folder(cls, folder: str | Path, least: float = LABELS.least) -> "Teacher":
        """The teachers that recipes/teacher_lora wrote into `folder`: dino/, and sam/ where it is there."""
        found = Path(folder)
        if not (found / DINO / TEACHER).is_file():
            raise DataError(
                f"{folder} holds no teacher of boxes ({DINO}/{TEACHER}); give the output_dir of "
                "recipes/teacher_lora/train.py, once it has come to its end."
            )
        return cls.from_pretrained(found / DINO, found / SAM if (found / SAM).is_dir() else None, least=least)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over both adapters, which state their bases', and how boxes become findings."""
        parts = {part.stated.kind: content_of(part.folder) for part in self._parts}
        return identity_of({"parts": parts, "decoding": self.decoding.to_dict()})

    @cached_property
    def history(self) -> History:
        """What both were trained on, and their bases."""
        first, *more = (read_history(part.folder, portable_name(part.folder)) for part in self._parts)
        return first.union(*more)

    def label(self, images: Sequence[Rgb], batch_size: int = BATCH) -> list[Prediction]:
        """RGB arrays uint8 (h, w, 3) of any sizes -> an answer for each, in order; without findings where none is kept.

        `batch_size` changes speed and memory, not results. A finding in whose box SAM sees nothing has no mask.
        """
        self._loaded_here.check()
        with self._lock:
            raw = dino.found(self.boxes.model, self.boxes.processor, self.text, images, batch_size)
            return [self._answer(rgb, *one) for rgb, one in zip(images, raw, strict=True)]

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """`label`, as any `Predictor` is asked."""
        return self.label(images)

    @property
    def _parts(self) -> tuple[Part, ...]:
        return (self.boxes,) if self.masks is None else (self.boxes, self.masks)

    def _answer(self, rgb: Rgb, scores: Scores, boxes: Scores) -> Prediction:
        alone = dino.as_detection(self.task)
        outputs, size = (np.asarray(scores)[None], np.asarray(boxes)[None]), rgb.shape[:2]
        (said,) = TASKS[DETECTION].decode(outputs, alone, [size], self.decoding.to_dict())
        if self.masks is None or not said.findings:
            return said
        found = sam.masked(self.masks.model, self.masks.processor, rgb, said.findings)
        return Prediction(severity_of(found, self.task, self.decoding.least), findings=tuple(found))


def _part(kind: str, adapter: str | Path, base: str | Path | None, device: str) -> Part:
    """A teacher, its adapter merged into its base."""
    folder = hub.resolve(adapter)
    stated = Stated.read(folder, kind)
    model, processor = {DINO: dino, SAM: sam}[kind].load(stated.base_of(base))
    return Part(folder, stated, lora.merged(lora.load(model, folder)).to(device), processor)

"""What recipes/teacher_lora needs: which teachers the data can teach, of each what a Trainer takes, and its folder."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data import load_split, read_history, read_objects, read_reading, record_history, write_history
from hf_inspect.errors import DataError
from hf_inspect.schema import SEGMENTATION
from hf_inspect.teachers import dino, lora, sam
from hf_inspect.teachers.lora import Lora
from hf_inspect.teachers.phrases import Prompt
from hf_inspect.teachers.record import DINO, SAM, TEACHER, Stated
from hf_inspect.teachers.tiny import base_folder
from hf_inspect.training import content_of

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import TrainingArguments

SPLITS = ("train", "validation")  # the second chooses the checkpoint


@dataclass(frozen=True, slots=True)
class Start:
    """What an adapter is made from: `data`, the `base` by name and content, `lora`, and the words of the classes."""

    kind: str
    data: Path
    base: str
    lora: Lora
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_rows: int | None = None
    base_sha256: str = ""

    @classmethod
    def of(cls, kind: str, data: Path, base: str, given: Mapping[str, Any], **more: Any) -> "Start":
        """The start with a kind's own LoRA, changed as `given`."""
        own = {DINO: dino.LORA, SAM: sam.LORA}[kind].changed(given)
        return cls(kind, data, base, own, base_sha256=content_of(base_folder(base)), **more)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a Trainer takes: the adapted model, its splits, how their rows become batches, and the loss."""

    model: "PeftModel"
    rows: Mapping[str, "datasets.Dataset"]
    to_targets: Callable[..., Any]
    collate: Callable[..., Any]
    loss: Callable[..., Any]

    def inputs(self, split: str) -> "datasets.Dataset":
        """A split's rows as the collator takes them."""
        return self.rows[split].with_transform(self.to_targets)


def taught(data: Path, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Which teachers a built data set can teach, `only` these of them: boxes teach a DINO, masks beside them a SAM too.

    DataError for what is neither, and where the data have no boxes, or no masks for a SAM that is asked for.
    """
    if strange := [one for one in only if one not in (DINO, SAM)]:
        raise DataError(f"only is {strange[0]!r}; give {DINO} or {SAM}, or leave it out.")
    can = (DINO, SAM) if read_objects(data).kind == SEGMENTATION else (DINO,)
    if lacking := [one for one in only if one not in can]:
        raise DataError(f"{data} has boxes and not every object has a mask, which {lacking[0]} learns from.")
    return tuple(one for one in can if one in (only or can))


def lesson(start: Start) -> Lesson:
    """The base with a fresh adapter, and the rows that it learns from; DataError where there are none."""
    task, reading = read_objects(start.data), read_reading(start.data)
    rows = {name: _rows(start, name) for name in SPLITS}
    folder = base_folder(start.base)
    if start.kind == SAM:
        model, processor = sam.load(folder)
        prepare = partial(sam.to_targets, processor=processor, reading=reading, side=sam.mask_side(model.config))
        return Lesson(lora.attach(model, start.lora), rows, prepare, sam.collate, sam.loss)
    model, processor = dino.load(folder)
    text = dino.text_of(Prompt.of(task.classes, start.synonyms), len(task.classes), processor, model.config)
    prepare = partial(dino.to_targets, processor=processor, reading=reading)
    loss = partial(dino.loss, class_map=text.class_map)
    return Lesson(lora.attach(model, start.lora), rows, prepare, partial(dino.collate, text=text), loss)


def own_arguments(training: "TrainingArguments", kind: str) -> "TrainingArguments":
    """A teacher's own settings: those of all, in a folder of its own."""
    own = copy.copy(training)
    own.output_dir = str(Path(training.output_dir or "") / kind)
    own.remove_unused_columns, own.label_names = False, ["labels"]
    return own


def save(model: "PeftModel", start: Start, rows: Mapping[str, "datasets.Dataset"], out: Path) -> None:
    """Write the adapter, trained_on.json, and teacher.json last of all."""
    (out / TEACHER).unlink(missing_ok=True)
    name, folder = files.portable_name(start.base), base_folder(start.base)
    lora.save(model, out, name)
    write_history(out, record_history(start.data, rows, [read_history(folder, name)]))
    words = {one: tuple(said) for one, said in start.synonyms.items()}
    task = read_objects(start.data)
    Stated(start.kind, name, start.base_sha256, task, read_reading(start.data), words).write(out)


def _rows(start: Start, split: str) -> "datasets.Dataset":
    """The rows of a split that teach: all for boxes, as an image without any is a lesson too; for masks those with."""
    rows = load_split(start.data, split)
    if start.kind == SAM:
        rows = rows.filter(_masked, input_columns=["objects"])
    if start.max_rows:
        rows = rows.shuffle(seed=0).select(range(min(start.max_rows, len(rows))))
    if not any(boxes for boxes in rows["objects"]["bbox"]):
        raise DataError(f"no image of {split} shows anything; build the data set with other shares, or raise max_rows.")
    return rows


def _masked(objects: Mapping[str, Any]) -> bool:
    return sam.has_masks(objects)


def said_of(start: Start, taught_by: Lesson) -> str:
    """What it learns from, to be shown: `16 and 8 images; the prompt is "wire. wire rope."`."""
    images = " and ".join(str(len(rows)) for rows in taught_by.rows.values())
    words = Prompt.of(read_objects(start.data).classes, start.synonyms).text if start.kind == DINO else ""
    return f"{images} images" + (f"; the prompt is {words!r}" if words else "")

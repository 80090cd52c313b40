"""Fine-tune the teachers on a built data set of boxes, and of masks: LoRA on Grounding DINO, and on SAM's mask decoder.

    accelerate launch recipes/teacher_lora/train.py --config recipes/teacher_lora/teacher.yaml --lora.r 32

Which are trained follows from the data. Each has a folder, OUTPUT_DIR/dino and OUTPUT_DIR/sam: the adapter,
teacher.json, trained_on.json and the log; `hf_inspect.teachers.Teacher` loads the two. Run again after a stop or a
kill, it goes on from the newest whole checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from hf_inspect import teachers
from hf_inspect import training as runs
from hf_inspect.data import read_head
from hf_inspect.errors import DataError
from hf_inspect.teachers import lora
from hf_inspect.teachers.trainer import TeacherTrainer


@dataclass
class TeacherArguments:
    """What this recipe adds to transformers' TrainingArguments."""

    data: Path = field(default=Path("outputs/data/coco"), metadata={"help": "folder of `hf-inspect data build coco`"})
    dino: str = field(
        default="IDEA-Research/grounding-dino-tiny", metadata={"help": "repository, folder or a tiny- one"}
    )
    sam: str = field(default="facebook/sam-vit-base", metadata={"help": "SAM or SAM 2, likewise"})
    only: list[str] = field(default_factory=list, metadata={"help": "dino or sam; what the data can teach without"})
    synonyms: dict[str, list[str]] = field(
        default_factory=dict, metadata={"help": "class: phrases in its name's place"}
    )
    lora: dict[str, Any] = field(default_factory=dict, metadata={"help": "r, alpha, dropout, targets of the DINO's"})
    sam_lora: dict[str, Any] = field(default_factory=dict, metadata={"help": "the same of the SAM's"})
    patience: int = field(default=5, metadata={"help": "evaluations without a lower validation loss before stopping"})
    max_rows: int | None = field(default=None, metadata={"help": "so many rows of each split alone"})


def main():
    arguments, training = runs.parsed(TeacherArguments, TrainingArguments)
    runs.check_processes(training.world_size)
    if training.push_to_hub:
        raise DataError(
            "two teachers would go to one repository: leave out push_to_hub, then run 'hf-inspect card' and "
            "'hf-inspect push' on the folder of each."
        )
    for kind in teachers.taught(arguments.data, arguments.only):
        train(kind, arguments, teachers.own_arguments(training, kind))


def train(kind, arguments, training):
    """Train one of the teachers, `dino` or `sam`."""
    base, changed, words = {
        "dino": (arguments.dino, arguments.lora, arguments.synonyms), "sam": (arguments.sam, arguments.sam_lora, {}),
    }[kind]  # fmt: skip
    start = teachers.Start.of(kind, arguments.data, base, changed, synonyms=words, max_rows=arguments.max_rows)
    set_seed(training.seed)
    lesson = teachers.lesson(start)
    before = lora.frozen_digests(lesson.model)
    made = runs.made_from(read_head(arguments.data)["fingerprint"], start, training)
    stopping = [EarlyStoppingCallback(arguments.patience)] if training.load_best_model_at_end else []
    trainer = TeacherTrainer(
        model=lesson.model,
        args=training,
        train_dataset=lesson.inputs("train"),
        eval_dataset=lesson.inputs("validation"),
        data_collator=lesson.collate,
        callbacks=[*stopping, runs.bound_checkpoints(made)],
    )
    trainer.teacher_loss = lesson.loss
    trainer.accelerator.print(f"{kind}: {base} {lora.described(lesson.model)}; {teachers.said_of(start, lesson)}")
    runs.train(trainer, made)
    if trainer.is_world_process_zero():
        out = Path(training.output_dir)
        lora.refuse_moved(before, lesson.model)
        teachers.save(lesson.model, start, lesson.rows, out)
        runs.write_training_log(trainer, start)
        print(f"{kind}: {lora.sizes(out, teachers.base_folder(base))}; every frozen tensor is as it was")


if __name__ == "__main__":
    runs.run(main)

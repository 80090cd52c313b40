"""Train a model that finds things on a built data set of boxes: FCOS on a timm network, RT-DETRv2, D-FINE or YOLO.

FCOS and a YOLO of `-seg` learn masks as well where every thing in the data has one.

    accelerate launch recipes/edge_detector/train.py --config recipes/edge_detector/wagon.yaml

Writes a folder that `hf_inspect.detectors.Detector.from_pretrained` loads and `hf-inspect export` takes, with
trained_on.json and the training log beside the weights; its card is its export's. Run again after a stop or a kill, it
goes on from the newest whole checkpoint.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from hf_inspect import data as sets
from hf_inspect import training as runs
from hf_inspect.detectors import ancestors_of, new_detector
from hf_inspect.detectors import training as detector
from hf_inspect.detectors.augment import augmentation
from hf_inspect.detectors.families import family_of
from hf_inspect.detectors.labels import relabelled, task_taught
from hf_inspect.errors import DataError
from hf_inspect.schema import DETECTION, SEGMENTATION
from hf_inspect.students import LITE0


@dataclass
class DetectorArguments:
    """What this recipe adds to transformers' TrainingArguments."""

    data: Path = field(default=Path("outputs/data/wagon"), metadata={"help": "folder of `hf-inspect data build coco`"})
    base: str = field(
        default=LITE0, metadata={"help": "Hub repository, folder, pypi:..., random:..., yolo11n-seg, ..."}
    )
    height: int = field(default=416, metadata={"help": "pixels; more shows smaller things, and costs as much in time"})
    width: int = field(default=416, metadata={"help": "pixels"})
    network: dict = field(default_factory=dict, metadata={"help": "of the model's config: channels, convolutions, ..."})
    masks: bool = field(default=True, metadata={"help": "learn masks where every thing in the data has one"})
    weights: Path | None = field(
        default=None, metadata={"help": "a YOLO's or MobileSAM's to start from: safetensors, or a state dict"}
    )
    weights_sha256: str | None = field(default=None, metadata={"help": "of `weights`; needed unless safetensors"})
    labels: Path | None = field(default=None, metadata={"help": "folder of `hf-inspect label`, to learn from"})
    labels_where: str = field(default="all", metadata={"help": "all images, or those where people marked nothing"})
    body_rate: float = field(default=0.3, metadata={"help": "learning rate of a pretrained body, as a share"})
    characteristics: list[str] = field(default_factory=list, metadata={"help": "of the things: thin, oriented, ..."})
    environments: list[str] = field(default_factory=list, metadata={"help": "that they are seen in: dark, moving, ..."})
    intensity: str = field(default="medium", metadata={"help": "of what they vary by: low, medium, high"})
    patience: int = field(default=10, metadata={"help": "evaluations without a better validation mAP before stopping"})


class DetectorTrainer(Trainer):
    """Trainer whose body learns at a rate of its own, and whose evaluations keep raw boxes and scores alone."""

    body_rate = 1.0

    def create_optimizer(self, model=None):
        """Two groups, the body's and all else's, each with and without weight decay."""
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = detector.optimizer_groups(self.model, self.args.learning_rate, self.body_rate, decayed,
                                               self.args.weight_decay)  # fmt: skip
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """No loss, which few of the families give as they answer; raw answers and labels."""
        with torch.no_grad():
            found = family_of(self.model.config).answers(model, inputs["pixel_values"].to(self.args.device))
        return None, tuple(one.detach().cpu() for one in found), inputs["labels"]


def main():
    arguments, training = runs.parsed(DetectorArguments, TrainingArguments)
    runs.check_processes(training.world_size)
    if training.push_to_hub:
        raise DataError(
            "such a model goes up as its export, with a card of what that finds: leave out push_to_hub, run "
            "'hf-inspect export', then 'hf-inspect push'."
        )
    set_seed(training.seed)
    task, reading, out = sets.read_objects(arguments.data), sets.read_reading(arguments.data), Path(training.output_dir)
    splits = {name: sets.load_split(arguments.data, name) for name in ("train", "validation")}
    for name, rows in splits.items():
        detector.check_rows(rows, task, name)
    task = task if arguments.masks else replace(task, kind=DETECTION)
    task = task_taught(task, arguments.labels, arguments.data) if arguments.labels else task
    parents = ancestors_of(arguments.base, arguments.weights)
    model = new_detector(
        arguments.base, task, arguments.height, arguments.width, arguments.network, reading,
        arguments.weights, arguments.weights_sha256,
    )  # fmt: skip
    task = detector.task_of(model)
    model.to(memory_format=torch.channels_last)  # a third faster on a CPU
    size, preprocess, decoding = (arguments.height, arguments.width), *detector.settings_of(model)
    taught, names = {}, detector.names_of(splits["train"])
    if arguments.labels:
        splits["train"], taught = relabelled(
            splits["train"], arguments.labels, arguments.data, task, names, arguments.labels_where
        )
        parents = parents.union(sets.read_history(arguments.labels, arguments.labels.name))
    ids = [task.index(name) for name in names]
    shaped = {"preprocess": preprocess, "ids": ids, "reading": reading, "masks": task.kind == SEGMENTATION}
    prepare = functools.partial(detector.to_inputs, **shaped)

    varied = augmentation(arguments.characteristics, arguments.environments, arguments.intensity, *size)
    training.remove_unused_columns, training.eval_do_concat_batches = False, False
    training.label_names = ["labels"]
    made = runs.made_from(sets.read_head(arguments.data)["fingerprint"], arguments, training)
    trainer = DetectorTrainer(
        model=model,
        args=training,
        train_dataset=splits["train"].with_transform(functools.partial(prepare, augment=varied, taught=taught)),
        eval_dataset=splits["validation"].with_transform(prepare),
        data_collator=functools.partial(detector.collate, preprocess=preprocess),
        compute_metrics=functools.partial(detector.validation_scores, task=task, decoding=decoding, size=size),
        callbacks=[EarlyStoppingCallback(arguments.patience), runs.bound_checkpoints(made)],
    )
    trainer.body_rate = arguments.body_rate
    trainer.accelerator.print(detector.described(splits["train"], task))
    runs.train(trainer, made)
    if trainer.is_world_process_zero():
        fitted = detector.set_thresholds(model, arguments.data, reading, task)
        print(f"findings are told of from a score of {fitted['told']:.3f} on; severity is {fitted['severity']}")
        (out / sets.TRAINED_ON).unlink(missing_ok=True)  # the last to be written: without it nothing is exported
    trainer.save_model()
    if trainer.is_world_process_zero():
        (out / "training_args.bin").unlink()  # a pickle; the log holds the arguments
        used = {"train": splits["train"] if arguments.labels else None, "validation": None}
        sets.write_history(out, sets.record_history(arguments.data, used, [parents]))
        runs.write_training_log(trainer, arguments)


if __name__ == "__main__":
    runs.run(main)

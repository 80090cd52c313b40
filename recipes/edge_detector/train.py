"""Train a model that finds things on a built data set of boxes: FCOS on a timm network, RT-DETRv2, D-FINE or YOLO.

FCOS and a YOLO of `-seg` learn masks as well where every thing in the data has one.

    accelerate launch recipes/edge_detector/train.py --config recipes/edge_detector/wagon.yaml

With `teacher`, a larger model that it wrote, the student learns from that one's scores and features as well as from
labels: recipes/distill has its YAMLs.

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
from hf_inspect import files
from hf_inspect import training as runs
from hf_inspect.detectors import Detector, ancestors_of, distil, new_detector, pruning
from hf_inspect.detectors import training as detector
from hf_inspect.detectors.answers import Answers
from hf_inspect.detectors.augment import augmentation, fixed_views
from hf_inspect.detectors.cut import Cut
from hf_inspect.detectors.families import family_of
from hf_inspect.detectors.labels import relabelled, task_taught
from hf_inspect.errors import DataError
from hf_inspect.schema import DETECTION, SEGMENTATION
from hf_inspect.students import LITE0
from hf_inspect.tasks.tiles import Tiles


@dataclass
class DetectorArguments:
    """What this recipe adds to transformers' TrainingArguments."""

    data: Path = field(default=Path("outputs/data/wagon"), metadata={"help": "folder of `hf-inspect data build coco`"})
    base: str = field(
        default=LITE0, metadata={"help": "Hub repository, folder, pypi:..., random:..., yolo11n-seg, ..."}
    )
    height: int = field(default=416, metadata={"help": "pixels; more shows smaller things, and costs as much in time"})
    width: int = field(default=416, metadata={"help": "pixels"})
    tile: int = field(
        default=0, metadata={"help": "pixels a side of an image's tiles, which are seen one by one; 0: none"}
    )
    overlap: float = field(
        default=0.2, metadata={"help": "share of a side that tiles beside each other have in common"}
    )
    crop: float = field(default=1.0, metadata={"help": "share of an image's sides to train on, at the model's scale"})
    network: dict = field(default_factory=dict, metadata={"help": "of the model's config: channels, convolutions, ..."})
    masks: bool = field(default=True, metadata={"help": "learn masks where every thing in the data has one"})
    weights: Path | None = field(
        default=None, metadata={"help": "a YOLO's or MobileSAM's to start from: safetensors, or a state dict"}
    )
    weights_sha256: str | None = field(default=None, metadata={"help": "of `weights`; needed unless safetensors"})
    labels: Path | None = field(default=None, metadata={"help": "folder of `hf-inspect label`, to learn from"})
    labels_where: str = field(default="all", metadata={"help": "all images, or those where people marked nothing"})
    teacher: Path | None = field(default=None, metadata={"help": "folder of a trained model of ours to learn from too"})
    temperature: float = field(
        default=4.0, metadata={"help": "of the teacher's logits; higher tells more of its doubt"}
    )
    alpha: float = field(default=0.5, metadata={"help": "of the logits' term: the teacher's part against the labels'"})
    shares: dict = field(
        default_factory=lambda: dict(distil.SHARES), metadata={"help": "of the loss: detection, segmentation, ..."}
    )
    views: int = field(default=0, metadata={"help": "ways in which an image is varied; 0: another one at each look"})
    answers: Path | None = field(default=None, metadata={"help": "folder that keeps the teacher's; in output_dir"})
    prune: float = field(default=0.0, metadata={"help": "share of the body's channels to take out of `base` first"})
    body_rate: float = field(default=0.3, metadata={"help": "learning rate of a pretrained body, as a share"})
    characteristics: list[str] = field(default_factory=list, metadata={"help": "of the things: thin, oriented, ..."})
    environments: list[str] = field(default_factory=list, metadata={"help": "that they are seen in: dark, moving, ..."})
    intensity: str = field(default="medium", metadata={"help": "of what they vary by: low, medium, high"})
    patience: int = field(default=10, metadata={"help": "evaluations without a better validation mAP before stopping"})


class DetectorTrainer(runs.WholeEvaluation, Trainer):
    """Trainer whose body learns at a rate of its own, and whose evaluations keep raw boxes and scores alone.

    With a `plan`, it learns from a teacher's `answers` besides the labels.
    """

    body_rate, plan, answers = 1.0, None, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own, or the terms of the plan."""
        if self.plan is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        own = family_of(self.model.config).parts(model, inputs["pixel_values"], inputs["labels"])
        found = distil.terms(self.plan, own, self.answers.of(inputs[detector.SEEN]), self.model.projections)
        self.learned.append({name: one.detach() for name, one in found.items()})
        return distil.mixed(self.plan, found)

    def log(self, logs, start_time=None):
        """As the Trainer's, with the mean of each term since the last time."""
        if "loss" in logs and self.plan is not None:
            logs |= {f"loss_{name}": float(torch.stack([one[name] for one in self.learned]).mean())
                     for name in self.plan.shares}  # fmt: skip
            self.learned = []
        super().log(logs, start_time)

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
    tiles = Tiles(arguments.tile, arguments.overlap) if arguments.tile else None
    parents = ancestors_of(arguments.base, arguments.weights)
    model = new_detector(
        arguments.base, task, arguments.height, arguments.width, arguments.network, reading,
        arguments.weights, arguments.weights_sha256, tiles,
    )  # fmt: skip
    if arguments.prune:
        print(pruning.described(pruning.prune(model, arguments.prune)))
    task = detector.task_of(model)
    plan, answers = None, None
    if arguments.teacher:
        if training.world_size > 1 or arguments.views < 1:
            raise DataError(
                f"a teacher answers once, one process, some views of each image; {training.world_size} processes and "
                f"{arguments.views} views came: start one, and give --views 4."
            )
        files.refuse_overlap(out, [arguments.teacher])
        teacher = Detector.from_pretrained(arguments.teacher)
        plan = distil.planned(model, teacher, arguments.shares, arguments.temperature, arguments.alpha, reading)
        answers = Answers(teacher, arguments.answers or out / "answers")
        parents = parents.union(teacher.history)
        model.projections = distil.projections(plan)
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

    part = detector.part_of(preprocess, arguments.crop)
    varied = augmentation(
        arguments.characteristics, arguments.environments, arguments.intensity, part.height, part.width,
        crop=arguments.crop,
    )  # fmt: skip
    if arguments.views:
        varied = fixed_views(varied, arguments.views)
    training.remove_unused_columns, training.eval_do_concat_batches = False, False
    training.label_names = ["labels"]
    made = runs.made_from(sets.read_head(arguments.data)["fingerprint"], arguments, training)
    seen = {
        "train": functools.partial(prepare, augment=varied, taught=taught, preprocess=part),
        "validation": prepare,
    }
    cut = {name: Cut(splits[name], tiles, transform) for name, transform in seen.items()} if tiles else {}
    whole = {name: splits[name].with_transform(transform) for name, transform in seen.items()}
    trainer = DetectorTrainer(
        model=model,
        args=training,
        train_dataset=cut.get("train", whole["train"]),
        eval_dataset=cut.get("validation", whole["validation"]),
        data_collator=functools.partial(detector.collate, preprocess=preprocess, seen=plan is not None),
        compute_metrics=functools.partial(
            detector.validation_scores, task=task, decoding=decoding, size=size, cut=cut.get("validation")
        ),
        callbacks=[EarlyStoppingCallback(arguments.patience), runs.bound_checkpoints(made)],
    )
    trainer.body_rate, trainer.plan, trainer.answers, trainer.learned = arguments.body_rate, plan, answers, []
    trainer.accelerator.print(detector.described(splits["train"], task))
    if tiles:
        trainer.accelerator.print(cut["train"])
    if plan:
        trainer.accelerator.print(f"from {arguments.teacher}: {plan}")
    runs.train(trainer, made)
    if plan:
        trainer.accelerator.print(answers)
        del model.projections  # no part of the student
    if trainer.is_world_process_zero():
        fitted = detector.set_thresholds(model, arguments.data, reading, task)
        print(f"findings are told of from a score of {fitted['told']:.3f} on; severity is {fitted['severity']}")
        (out / sets.TRAINED_ON).unlink(missing_ok=True)  # the last to be written: without it nothing is exported
    trainer.save_model()
    if trainer.is_world_process_zero():
        (out / "training_args.bin").unlink()  # a pickle; the log holds the arguments
        used = {"train": splits["train"] if arguments.labels else None, "validation": None}
        sets.write_history(out, sets.record_history(arguments.data, used, [parents]))
        learned = {"distillation": plan.to_dict() | {"answers": answers.counts}} if plan else {}
        runs.write_training_log(trainer, arguments, learned)


if __name__ == "__main__":
    runs.run(main)

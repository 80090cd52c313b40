"""Fine-tune a vision-language model on a built data set: `accelerate launch recipes/vlm_sft/train.py --config X.yaml`.

Writes an adapter (or, with `lora_r: 0`, a model) that `hf_inspect.vlm.VLM` loads: weights, processor, prompt.json,
trained_on.json and a log. Run again after a stop or a kill, it goes on from the newest whole checkpoint.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import EarlyStoppingCallback, set_seed
from trl import SFTConfig, SFTTrainer

from hf_inspect import files, images
from hf_inspect.data import questions_of, read_manifest, trained_on, write_trained_on
from hf_inspect.errors import InspectError
from hf_inspect.reports import write_card
from hf_inspect.training import augmentation, check_processes, newest_whole_checkpoint, parsed, write_training_log
from hf_inspect.vlm import VLM, parity
from hf_inspect.vlm import training as sft
from hf_inspect.vlm.model import TRAINED_ON, fast_dtype


@dataclass
class AdapterArguments:
    """What this recipe adds to TRL's SFTConfig."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
    train_split: str = field(default="train", metadata={"help": "or config/split: sft/train"})
    validation_split: str = "validation"
    questions: Path | None = field(default=None, metadata={"help": "YAML; default: beside the data set's script"})
    base: str = field(default="demo-base", metadata={"help": "Hub repository, folder, demo-base or a tiny- one"})
    side: int = field(default=288, metadata={"help": "pixels; more shows finer cracks, and costs its square in time"})
    student: Path | None = field(default=None, metadata={"help": "start the vision tower from this edge student"})
    quantized: str | None = field(default=None, metadata={"help": "nf4: the frozen base in 4 bits (QLoRA)"})
    lora_r: int = field(default=16, metadata={"help": "0: no LoRA, learning_rates names what trains"})
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: str = field(default="", metadata={"help": "pattern of the layers that get LoRA; default: family's"})
    full_modules: list[str] = field(default_factory=list, metadata={"help": "modules trained whole, beside LoRA"})
    learning_rates: dict[str, float] = field(default_factory=dict, metadata={"help": "pattern: rate; all that trains"})
    float32_tower: str | None = field(default=None, metadata={"help": "convolutional module, kept out of autocast"})
    compiled: str | None = field(default=None, metadata={"help": "pattern of modules to compile"})
    attention: str | None = field(default=None, metadata={"help": "transformers' attn_implementation"})
    soft_labels: bool = field(default=True, metadata={"help": "draw each answer by the experts' probability"})
    augment: bool = field(default=True, metadata={"help": "turns, mirrors, crops and light; shown as squares"})
    jitter: float = field(default=0.2, metadata={"help": "brightness and contrast, as a share"})
    min_crop: float = field(default=0.8, metadata={"help": "smallest share of the cell a crop shows"})
    bfloat16: bool = field(default=True, metadata={"help": "autocast, where the machine multiplies bfloat16 fast"})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "evaluations without a better score"})
    max_rows: int | None = field(default=None, metadata={"help": "so many rows of each split alone"})


class AdapterTrainer(SFTTrainer):
    """SFTTrainer with learning rates by group, and scores of the validation split by ranking beside its loss."""

    def create_optimizer(self, model=None):
        """One group a pattern of `learning_rates`, with and without weight decay."""
        if self.optimizer is None:
            decayed = self.get_decay_parameter_names(self.model)
            groups = sft.optimizer_groups(self.model, self.learning_rates, decayed, self.args.weight_decay)
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's cross-entropy, without the head's work on the prompt; gradients are means over processes."""
        tokens = None if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
        return sft.answer_loss(model, inputs, tokens)

    def evaluation_loop(self, *args, **kwargs):
        """The loss, and how well ranking tells the validation images apart."""
        found = super().evaluation_loop(*args, **kwargs)
        with self.accelerator.autocast():
            p = sft.rank_together(self.ranker, self.shown, self.args.per_device_eval_batch_size, self.accelerator)
        found.metrics.update({f"eval_{k}": v for k, v in sft.validation_scores(self.answers, p).items()})
        return found

    def create_model_card(self, *args, **kwargs):
        """TRL's card calls every model text-generation; ours is made from results.json."""


def main():
    arguments, config = parsed(AdapterArguments, SFTConfig)
    check_processes(config.world_size)
    set_seed(config.seed)
    asked = questions_of(arguments.data, arguments.questions)
    task, rates = asked.task(), arguments.learning_rates
    sft.check_metric(config.metric_for_best_model, task)
    splits = (arguments.train_split, arguments.validation_split)
    train, validation = (sft.answered_rows(arguments.data, split, asked, arguments.max_rows) for split in splits)

    dtype = fast_dtype() if arguments.bfloat16 else torch.float32
    config.mixed_precision = "bf16" if dtype == torch.bfloat16 else "no"  # `bf16: true` is refused without a GPU
    model, processor = sft.load_base(arguments.base, arguments.side, dtype, arguments.attention, arguments.quantized)
    if arguments.student:
        sft.start_tower_from(model.model.vision_tower, arguments.student)
    if arguments.lora_r:
        adapted = sft.lora(
            model.config, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_targets,
            arguments.full_modules,
        )  # fmt: skip
        model = get_peft_model(model, adapted)
    else:
        sft.train_only(model, rates)
    if arguments.float32_tower:
        sft.convolutions_in_float32(model.get_submodule(arguments.float32_tower))
    if arguments.compiled:
        sft.compile_training(model, arguments.compiled)

    as_rows = functools.partial(sft.chat_rows, task=task)
    augment = augmentation(arguments.side, arguments.jitter, arguments.min_crop) if arguments.augment else None
    train_rows = functools.partial(as_rows, soft_labels=arguments.soft_labels, augment=augment)
    config.remove_unused_columns = False
    publish, config.push_to_hub = config.push_to_hub, False  # once, when it is whole, with our card
    trainer = AdapterTrainer(
        model=model, args=config, processing_class=processor,
        train_dataset=train.with_transform(train_rows), eval_dataset=validation.with_transform(as_rows),
    )  # fmt: skip
    sft.float32_where_trained(model)  # after TRL, which makes LoRA beside 4 bits bfloat16
    trainer.accelerator.print(sft.describe_training(model, rates))
    trainer.accelerator.print(sft.check_lengths(processor, (train, validation), task, config.max_length))
    if arguments.early_stopping_patience and config.do_eval:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    trainer.learning_rates, trainer.ranker = rates, VLM(trainer.model, processor, task)
    trainer.shown = [images.load(row["bytes"]).rgb for row in validation["image"]]
    trainer.answers = validation[sft.ANSWER]
    out = Path(config.output_dir)
    with disable_input_dtype_casting(model):  # else each LoRA layer casts its input to float32 and back
        trainer.train(resume_from_checkpoint=newest_whole_checkpoint(out))
    if trainer.is_world_process_zero():
        sft.save(trainer.model, processor, out, files.told(arguments.base))
        emitted = trainer.data_collator([parity.canonical_row(task)])["input_ids"][0].tolist()
        parity.write_prompt(out, processor, task, emitted)
        contents = [row["bytes"] for rows in (train, validation) for row in rows["image"]]
        write_trained_on(out / TRAINED_ON, trained_on(read_manifest(arguments.data), contents))
        write_training_log(trainer, arguments)
        write_card(out)
        if publish:
            sft.publish(out, config)


if __name__ == "__main__":
    try:
        main()
    except InspectError as error:
        raise SystemExit(f"error: {error}") from None

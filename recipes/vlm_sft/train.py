"""Fine-tune a vision-language model on a built data set: `accelerate launch recipes/vlm_sft/train.py --config X.yaml`.

Writes an adapter that `hf_inspect.vlm.VLM` loads: weights, processor, prompt.json, trained_on.json and a log.
Run again after a stop or a kill, it goes on from the newest whole checkpoint.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed
from trl import SFTConfig, SFTTrainer, TrlParser

from hf_inspect import images, metrics, prompts
from hf_inspect.data import load_split, read_manifest, trained_on, write_trained_on
from hf_inspect.training import augmentation, newest_whole_checkpoint, write_training_log
from hf_inspect.vlm import VLM, parity
from hf_inspect.vlm import training as sft
from hf_inspect.vlm.base import base_folder
from hf_inspect.vlm.model import TRAINED_ON, fast_dtype


@dataclass
class AdapterArguments:
    """What this recipe adds to TRL's SFTConfig."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
    base: str = field(default="demo-base", metadata={"help": "Hub repository, folder, or demo-base"})
    side: int = field(default=288, metadata={"help": "pixels; more shows finer cracks, and costs its square in time"})
    student: Path | None = field(
        default=None, metadata={"help": "start the vision tower from this edge student, not from the base's weights"}
    )
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_targets: str = field(default="", metadata={"help": "pattern of the linear layers that get LoRA"})
    full_modules: list[str] = field(default_factory=list, metadata={"help": "modules trained whole, beside LoRA"})
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "pattern of parameter names: rate; must cover all that trains"}
    )
    float32_tower: str | None = field(default=None, metadata={"help": "convolutional module, kept out of autocast"})
    compiled: str | None = field(default=None, metadata={"help": "pattern of modules to compile"})
    attention: str | None = field(default=None, metadata={"help": "transformers' attn_implementation"})
    soft_labels: bool = field(default=True, metadata={"help": "draw each answer by the experts' probability"})
    jitter: float = field(default=0.2, metadata={"help": "brightness and contrast, as a share"})
    min_crop: float = field(default=0.8, metadata={"help": "smallest share of the cell a crop shows"})
    bfloat16: bool = field(default=True, metadata={"help": "autocast, where the machine multiplies bfloat16 fast"})
    max_rows: int | None = field(default=None, metadata={"help": "the first rows of each split alone"})


class AdapterTrainer(SFTTrainer):
    """SFTTrainer with learning rates by group, and the validation split's AUROC by ranking beside its loss."""

    def create_optimizer(self, model=None):
        """One group a pattern of `learning_rates`, with and without weight decay."""
        if self.optimizer is None:
            decayed = self.get_decay_parameter_names(self.model)
            groups = sft.optimizer_groups(self.model, self.learning_rates, decayed, self.args.weight_decay)
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's cross-entropy, without the head's work on the prompt."""
        return sft.answer_loss(model, inputs, num_items_in_batch)

    def evaluate(self, *args, **kwargs):
        """The loss, and how well ranking orders the validation images."""
        found = super().evaluate(*args, **kwargs)
        self.model.eval()
        with self.accelerator.autocast():
            p = self.ranker.p_defect(self.validation_images, self.args.per_device_eval_batch_size)
        found["eval_auroc"] = metrics.auroc(self.validation_labels, p, seed=0)["value"]
        self.log({"eval_auroc": found["eval_auroc"]})
        return found

    def create_model_card(self, *args, **kwargs):
        """TRL's card calls every model text-generation; ours is made from results.json."""


def main():
    arguments, config = TrlParser((AdapterArguments, SFTConfig)).parse_args_and_config()
    set_seed(config.seed)
    task = prompts.SOLAR_CELL
    splits = {name: load_split(arguments.data, name) for name in ("train", "validation")}
    if arguments.max_rows:
        splits = {
            name: rows.shuffle(seed=0).select(range(min(arguments.max_rows, len(rows))))
            for name, rows in splits.items()
        }

    base = base_folder(arguments.base)
    processor = AutoProcessor.from_pretrained(base)
    if "height" in dict(processor.image_processor.size):  # other processors keep their own rule
        processor.image_processor.size = {"height": arguments.side, "width": arguments.side}
    dtype = fast_dtype() if arguments.bfloat16 else torch.float32
    config.mixed_precision = "bf16" if dtype == torch.bfloat16 else "no"  # `bf16: true` is refused without a GPU
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype, attn_implementation=arguments.attention)
    if arguments.student:
        sft.start_tower_from(model.model.vision_tower, arguments.student)
    lora = LoraConfig(
        r=arguments.lora_r, lora_alpha=arguments.lora_alpha, lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_targets, modules_to_save=arguments.full_modules,
    )  # fmt: skip
    model = get_peft_model(model, lora)
    sft.float32_where_trained(model)
    if arguments.float32_tower:
        sft.convolutions_in_float32(model.get_submodule(arguments.float32_tower))
    if arguments.compiled:
        sft.compile_training(model, arguments.compiled)
    print(sft.describe_training(model, arguments.learning_rates))

    as_rows = functools.partial(sft.chat_rows, task=task)
    augment = augmentation(arguments.side, arguments.jitter, arguments.min_crop)
    train_rows = functools.partial(as_rows, soft_labels=arguments.soft_labels, augment=augment)
    config.remove_unused_columns = False
    config.max_length = None  # a limit would cut image tokens
    trainer = AdapterTrainer(
        model=model,
        args=config,
        train_dataset=splits["train"].with_transform(train_rows),
        eval_dataset=splits["validation"].with_transform(as_rows),
        processing_class=processor,
    )
    trainer.learning_rates, trainer.ranker = arguments.learning_rates, VLM(trainer.model, processor, task)
    trainer.validation_images = [images.load(row["bytes"]).rgb for row in splits["validation"]["image"]]
    trainer.validation_labels = splits["validation"]["label"]
    out = Path(config.output_dir)
    with disable_input_dtype_casting(model):  # else each LoRA layer casts its input to float32 and back
        trainer.train(resume_from_checkpoint=newest_whole_checkpoint(out))

    if trainer.is_world_process_zero():
        sft.save_adapter(trainer.model, out, arguments.base)
        processor.image_processor.save_pretrained(out)  # the tokenizer is the base's
        emitted = trainer.data_collator([parity.canonical_row(task)])["input_ids"][0].tolist()
        parity.write_prompt(out, processor, task, emitted)
        contents = [row["bytes"] for rows in splits.values() for row in rows["image"]]
        write_trained_on(out / TRAINED_ON, trained_on(read_manifest(arguments.data), contents))
        write_training_log(trainer, arguments)


if __name__ == "__main__":
    main()

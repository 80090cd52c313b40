"""Fine-tune a vision-language model on a built data set: `accelerate launch recipes/vlm_sft/train.py --config X.yaml`.

Writes an adapter (or, with `lora_r: 0`, a model) that `hf_inspect.vlm.VLM` loads: weights, processor, prompt.json,
trained_on.json and a log. Run again after a stop or a kill, it goes on from the newest whole checkpoint; a folder with
checkpoints of other data or settings is refused.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import EarlyStoppingCallback, set_seed
from trl import SFTConfig

from hf_inspect import files, training
from hf_inspect.data import questions_of, read_head, read_reading, record_history, write_history
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.reports import write_card
from hf_inspect.vlm import VLM, Asking, parity, rates
from hf_inspect.vlm import training as sft
from hf_inspect.vlm.model import fast_dtype
from hf_inspect.vlm.trainer import AdapterTrainer


@dataclass
class AdapterArguments(sft.Tuning):
    """What this recipe adds to TRL's SFTConfig."""

    data: Path = field(default=Path("outputs/data/elpv"), metadata={"help": "folder of `hf-inspect data build`"})
    train_split: str = field(default="train", metadata={"help": "or config/split: sft/train"})
    validation_split: str = "validation"
    questions: Path | None = field(default=None, metadata={"help": "YAML; default: beside the data set's script"})
    student: Path | None = field(default=None, metadata={"help": "start the vision tower from this edge student"})
    quantized: str | None = field(default=None, metadata={"help": "nf4: the frozen base in 4 bits (QLoRA)"})
    compiled: str | None = field(default=None, metadata={"help": "pattern of modules to compile"})
    soft_labels: bool = field(default=True, metadata={"help": "sample each answer by the experts' probability"})
    augment: bool = field(default=True, metadata={"help": "turns, mirrors, crops and light; shown as squares"})
    jitter: float = field(default=0.2, metadata={"help": "brightness and contrast, as a share"})
    min_crop: float = field(default=0.8, metadata={"help": "smallest share of the cell a crop shows"})
    views: int = field(default=1, metadata={"help": "turns that the trained adapter's answers are averaged over"})


def load(arguments, dtype):
    """The model, with what trains of it set to train, and its processor."""
    model, processor = sft.load_base(
        arguments.base, arguments.side, dtype, arguments.attention, arguments.quantized, arguments.adapter,
        arguments.layers,
    )  # fmt: skip
    if arguments.student:
        sft.start_tower_from(model, arguments.student)
    if arguments.lora_r:
        model = get_peft_model(model, arguments.lora(model.config))
    else:
        rates.train_only(model, arguments.learning_rates)
    if arguments.float32_tower:
        sft.convolutions_in_float32(model.get_submodule(arguments.float32_tower))
    if arguments.compiled:
        sft.compile_training(model, arguments.compiled)
    return model, processor


def main():
    arguments, config = training.parsed(AdapterArguments, SFTConfig)
    training.check_processes(config.world_size)
    set_seed(config.seed)
    question, reading = questions_of(arguments.data, arguments.questions).question(), read_reading(arguments.data)
    question.task.refuse_one_sided("this recipe")
    rows = functools.partial(sft.rows_with_class_ids, arguments.data, task=question.task, max_rows=arguments.max_rows)
    splits = {name: rows(split=name) for name in (arguments.train_split, arguments.validation_split)}
    train, validation = splits[arguments.train_split], splits[arguments.validation_split]
    training.check_classes(question.task, train[sft.CLASS_ID], validation[sft.CLASS_ID])

    dtype = fast_dtype() if arguments.bfloat16 else torch.float32
    config.mixed_precision = "no"  # training.Products does it
    model, processor = load(arguments, dtype)
    sizing = sizing_of(parity.image_settings(processor))
    as_rows = functools.partial(sft.chat_rows, question=question, reading=reading, sizing=sizing)
    augment = training.augmentation(arguments.side, arguments.jitter, arguments.min_crop) if arguments.augment else None
    train_rows = functools.partial(as_rows, soft_labels=arguments.soft_labels, augment=augment)
    config.remove_unused_columns = False
    publication = training.publication(config)
    trainer = AdapterTrainer(
        model=model, args=config, processing_class=processor,
        train_dataset=train.with_transform(train_rows), eval_dataset=validation.with_transform(as_rows),
    )  # fmt: skip
    sft.float32_where_trained(model)  # after TRL, which makes LoRA beside 4 bits bfloat16
    trainer.accelerator.print(rates.describe_training(model, arguments.learning_rates))
    trainer.accelerator.print(sft.check_lengths(processor, (train, validation), question, config.max_length))
    if arguments.early_stopping_patience and config.do_eval:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    trainer.products = dtype
    trainer.learning_rates, trainer.validation = arguments.learning_rates, validation
    asking = Asking(batch_size=config.eval_batch_size)
    trainer.ranker = VLM(trainer.model, processor, question, asking=asking, reading=reading)
    out = Path(config.output_dir)
    made = training.made_from(read_head(arguments.data)["fingerprint"], arguments, config)
    trainer.add_callback(training.bound_checkpoints(made))
    with disable_input_dtype_casting(model):  # else each LoRA layer casts its input to float32 and back
        training.train(trainer, made)
    if trainer.is_world_process_zero():
        sft.save(trainer.model, processor, out, files.portable_name(arguments.base))
        trained_ids = trainer.data_collator([parity.canonical_row(question)])["input_ids"][0].tolist()
        parity.write_prompt(out, processor, question, trained_ids, reading, arguments.views)
        parents = sft.parents_of(arguments.base, arguments.adapter, arguments.student)
        write_history(out, record_history(arguments.data, splits, parents))
        training.write_training_log(trainer, arguments)
        write_card(out)
        if publication:
            publication.send(out)


if __name__ == "__main__":
    training.run(main)

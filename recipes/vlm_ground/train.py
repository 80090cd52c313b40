"""Train a vision-language model to say what is where, and a detection head to find it in one forward.

    accelerate launch recipes/vlm_ground/train.py --config recipes/vlm_ground/tiny_qwen2_5_vl.yaml

Of a built data set of boxes. Writes an adapter (or, with `lora_r: 0`, a model) that `hf_inspect.vlm.GroundedVLM` loads:
weights, processor, the head's files, prompt.json, trained_on.json and a log. Run again after a stop or a kill, it goes
on from the newest whole checkpoint; a folder with checkpoints of other data or settings is refused.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from hf_inspect import data as sets
from hf_inspect import files, prompts, training
from hf_inspect.errors import DataError
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.reports import write_card
from hf_inspect.schema import DETECTION
from hf_inspect.vlm import ground_scores, parity, rates
from hf_inspect.vlm import ground_training as grounding
from hf_inspect.vlm import training as sft
from hf_inspect.vlm.families import family_of
from hf_inspect.vlm.ground_trainer import Epochs, GroundTrainer
from hf_inspect.vlm.guiding import Guide
from hf_inspect.vlm.head import save_head
from hf_inspect.vlm.head_loss import HeadWeights
from hf_inspect.vlm.learned import LEARNED, Learned
from hf_inspect.vlm.model import fast_dtype
from hf_inspect.vlm.packing import attend_apart


@dataclass
class GroundArguments(sft.Tuning):
    """What this recipe adds to transformers' TrainingArguments."""

    data: Path = field(default=Path("outputs/data/parts"), metadata={"help": "folder of `hf-inspect data build coco`"})
    language: str = field(default="en", metadata={"help": "of the question: en or zh"})
    describe: bool = field(default=False, metadata={"help": "learn people's descriptions of things as well"})
    exemplars: Path | None = field(default=None, metadata={"help": "folder of `hf-inspect data pool`, to be guided by"})
    teacher_ratio: float = field(default=0.7, metadata={"help": "share of the images that come after exemplars"})
    num_teacher_samples: int = field(default=1, metadata={"help": "exemplars of such an image"})
    train_exemplars: bool = field(default=False, metadata={"help": "learn the exemplars' answers too"})
    packed: bool = field(default=True, metadata={"help": "a batch's conversations in one row, without padding"})
    max_length: int | None = field(default=None, metadata={"help": "tokens; a longer sample is refused, never cut"})
    mirrored: bool = field(default=False, metadata={"help": "show half of the images as in a mirror"})
    detection: bool = field(default=False, metadata={"help": "train a detection head over the image features too"})
    text: bool = field(default=True, metadata={"help": "false: the head learns alone, and not a word is learned"})
    head: dict = field(
        default_factory=dict, metadata={"help": "its size: queries 100, width 256, decoder_layers 3, ..."}
    )
    head_weights: dict = field(default_factory=dict, metadata={"help": "of its terms: bbox 10, caption 1, ..."})
    max_validation: int = field(default=32, metadata={"help": "validation images that answers are generated for"})


def load(arguments, dtype, task):
    """The base, with its head where there is one, the model that trains, and the processor."""
    base, processor = sft.load_base(
        arguments.base, arguments.side, dtype, arguments.attention, None, arguments.adapter, arguments.layers
    )
    if arguments.packed and arguments.attention is None:
        attend_apart(base)
    if arguments.detection:
        weights = HeadWeights(**arguments.head_weights)
        grounding.with_head(base, grounding.head_for(base, arguments.base, task, arguments.head), weights)
    if not arguments.lora_r:
        rates.train_only(base, arguments.learning_rates)
        keep_in_float32(base, arguments.float32_tower)
        return base, base, processor
    model = get_peft_model(base, arguments.lora(base.config, *[grounding.HEAD] * arguments.detection))
    keep_in_float32(model, arguments.float32_tower)
    return base, model, processor


def load_to_train(arguments, dtype, task):
    """The model that trains, as the trainer has it before the first step."""
    model = load(arguments, dtype, task)[1]
    sft.float32_where_trained(model)
    return model


def keep_in_float32(model, tower):
    """Run the module of this name, where there is one, in float32 inside autocast."""
    if tower:
        sft.convolutions_in_float32(model.get_submodule(tower))


def main():
    arguments, config = training.parsed(GroundArguments, TrainingArguments)
    if not (arguments.text or arguments.detection):
        raise DataError("nothing is left to learn; leave text true, or set detection true.")
    training.check_processes(config.world_size)
    set_seed(config.seed)
    task = replace(sets.read_objects(arguments.data), kind=DETECTION)  # masks are not said
    reading = sets.read_reading(arguments.data)
    pool = grounding.pool_for(arguments.exemplars, task, arguments.num_teacher_samples)
    splits = {
        name: grounding.rows_of_split(arguments.data, name, arguments.max_rows) for name in ("train", "validation")
    }
    grounding.check_rows(splits["train"], task, arguments.data)

    dtype = fast_dtype() if arguments.bfloat16 else torch.float32
    config.mixed_precision = "no"  # training.Products does it
    base, model, processor = load(arguments, dtype, task)
    question = prompts.Grounding.about(
        task, family_of(base.config).frame, arguments.language, describe=arguments.describe
    )
    fingerprint = sets.read_head(arguments.data)["fingerprint"]
    of_split = functools.partial(
        grounding.GroundedRows, question=question, processor=processor, reading=reading,
        sizing=sizing_of(parity.image_settings(processor)), fingerprint=fingerprint, seed=config.seed,
    )  # fmt: skip
    train = of_split(
        splits["train"], pool=pool, ratio=arguments.teacher_ratio, num=arguments.num_teacher_samples,
        mirrored=arguments.mirrored,
    )  # fmt: skip
    validation = of_split(splits["validation"])
    longest, answer = grounding.check_lengths(train, validation, arguments.max_length)
    learned = Learned(longest=answer)
    config.remove_unused_columns, config.label_names = False, ["labels"]
    config.gradient_checkpointing_kwargs = config.gradient_checkpointing_kwargs or {"use_reentrant": False}
    publication = training.publication(config)
    made = training.made_from(fingerprint, arguments, config) | {"exemplars": pool and Guide(pool, 1).identity}
    trainer = GroundTrainer(
        model=model, args=config, processing_class=processor, train_dataset=train, eval_dataset=validation,
        data_collator=functools.partial(
            grounding.collated, model=base, processor=processor, in_one_row=arguments.packed, head=arguments.detection,
            text=arguments.text, exemplars=arguments.train_exemplars,
        ),
        callbacks=[Epochs([train]), training.bound_checkpoints(made)],
    )  # fmt: skip
    sft.float32_where_trained(model)
    trainer.products = dtype
    trainer.learning_rates = arguments.learning_rates
    trainer.scored = functools.partial(
        ground_scores.figures, base, validation, learned, pool, arguments.num_teacher_samples, arguments.max_validation,
        config.eval_batch_size, arguments.text,
    )  # fmt: skip
    trainer.accelerator.print(rates.describe_training(model, arguments.learning_rates))
    trainer.accelerator.print(f"longest sample: {longest} tokens, {answer} of them the longest answer's")
    if arguments.early_stopping_patience and config.do_eval:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    if config.gradient_checkpointing:
        model.enable_input_require_grads()  # frozen embeddings would cut the gradients off
    with disable_input_dtype_casting(model):  # else each LoRA layer casts its input to float32 and back
        training.train(trainer, made)
    model = training.whole_again(trainer, functools.partial(load_to_train, arguments, dtype, task))
    if trainer.is_world_process_zero():
        base, out = model.get_base_model() if arguments.lora_r else model, Path(config.output_dir)
        learned, question = ground_scores.fitted(
            base.eval(), validation, learned, arguments.max_validation, config.eval_batch_size, arguments.text
        )
        if arguments.detection:
            save_head(grounding.take_head(base), out)
        sft.save(model, processor, out, files.portable_name(arguments.base))
        ids = parity.grounded_ids(processor, question)
        parity.write_prompt(out, processor, question, ids, reading, more={LEARNED: learned.to_dict()})
        parents = sft.parents_of(arguments.base, arguments.adapter)
        parents += [pool.history] if pool else []
        sets.write_history(out, sets.record_history(arguments.data, splits, parents))
        training.write_training_log(trainer, arguments)
        write_card(out)
        if publication:
            publication.send(out)


if __name__ == "__main__":
    training.run(main)

"""Tiny vision-language models made in process, their adapters and their images."""

import re
from pathlib import Path

import numpy as np

from hf_inspect import prompts
from hf_inspect.data import write_history
from hf_inspect.schema import History, Source, TaskSpec
from hf_inspect.vlm import parity, tiny, training
from hf_inspect.vlm.families import family_of
from hf_inspect.vlm.grounded import LEARNED, Learned

_PROJECTS = re.compile(r"projector\.linear_2|modality_projection|merger\.mlp\.2|merger.*\.linear_fc2")
LORA = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
FULL = ["vision_tower", "multi_modal_projector"]
QUESTION = prompts.Question("Look.", "Is it good?", TaskSpec.of(("ok", "no"), good=["ok"]))
SEEN = History((Source("none", "none", "CC0-1.0", 0),))


def parts(folder: Path):
    """The tiny base's model (float32, eval) and processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def loud(model):
    """The model with large weights, so that its answers differ from image to image as a trained one's do."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not re.search(r"vision|visual\.(blocks|patch|pos)", name):
                scale = 0.3 if "embed" in name else 4 if _PROJECTS.search(name) else 1
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale * (2 / weight.shape[1]) ** 0.5)
    return model


def loud_base(out: Path, family: str | None = None) -> Path:
    """The folder of the tiny base, or of another family's, with `loud` weights."""
    tiny.tiny_base(out, family or tiny.TINY)
    model, _ = parts(out)
    loud(model).save_pretrained(out)
    return out


def pictures(n: int, seed: int = 0) -> list[np.ndarray]:
    """RGB uint8 images of several sizes, each of another mean and texture."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 90, (n, 2))
    return [rng.integers(0, rng.integers(40, 255), (h, w, 3)).astype(np.uint8) for h, w in sizes]


def grounded_adapter(base: Path, out: Path, task: TaskSpec, learned: Learned, **prompt) -> prompts.Grounding:
    """A random adapter whose prompt.json asks where the things of a task are; returns its question."""
    from transformers import AutoConfig

    _, processor = _random(base, out, LORA, FULL)
    question = prompts.Grounding.about(task, family_of(AutoConfig.from_pretrained(base)).frame, **prompt)
    ids = parity.grounded_ids(processor, question)
    parity.write_prompt(out, processor, question, ids, more={LEARNED: learned.to_dict()})
    write_history(out, SEEN)
    return question


def random_adapter(
    base_folder: Path,
    out: Path,
    question: prompts.Question = QUESTION,
    targets: str = LORA,
    whole=FULL,
    history: History = SEEN,
):
    """An adapter with random weights and batch norm statistics, its folder complete; returns the unmerged model."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    wrapped, processor = _random(base_folder, out, targets, whole)
    collator = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    ids = collator([parity.canonical_row(question)])["input_ids"][0].tolist()
    parity.write_prompt(out, processor, question, ids)
    write_history(out, history)
    return wrapped.eval(), processor


def _random(base_folder: Path, out: Path, targets: str, whole):
    """An adapter with random weights, saved; the unmerged model and the processor."""
    import torch
    from peft import LoraConfig, get_peft_model

    model, processor = parts(base_folder)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=whole, init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in (p for p in wrapped.parameters() if p.requires_grad):
            parameter.copy_(parameter.bfloat16())  # what the file can hold
        for name, buffer in wrapped.named_buffers():
            if "running_" in name and "modules_to_save" in name:
                buffer.add_(torch.rand(buffer.shape) * 0.1)
    training.save_adapter(wrapped, out, "tiny-base")
    processor.image_processor.save_pretrained(out)
    return wrapped, processor

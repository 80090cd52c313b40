"""A recipe and the ranking at a model's true size, on random weights: memory and speed do not depend on them.

For a machine with a GPU. Prints training samples/s and peak memory at each batch size, then images/s of ranking with
one crop and with five, and of batched `generate`:
python benchmarks/vlm_gpu.py smolvlm-256m --data outputs/data/solar [--batch 1 4] [--steps 20] [--images 256]
`tiny-smolvlm` or another tiny base in place of the model runs the same on a CPU. Tokens are bytes, so the question
takes about four times the tokens of a real tokenizer; image tokens are as many as in the real model.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from hf_inspect import files, images
from hf_inspect.data import load_split, questions_of
from hf_inspect.vlm import VLM, Asking, tiny
from hf_inspect.vlm.base import base_folder

RECIPES = Path("recipes/vlm_sft")
BATCH = 16  # images ranked, or generated for, together


@dataclass(frozen=True)
class Model:
    """A published size: values of its configuration on top of the tiny model's, pixels, and its recipe."""

    tiny: str
    recipe: str
    side: int
    text: dict[str, Any]
    vision: dict[str, Any]
    image_tokens: int | None = None  # of a tile, where the processor must be told


MODELS = {
    "smolvlm-256m": Model(
        tiny="tiny-smolvlm",
        recipe="smolvlm_256m_solar",
        side=512,
        text={
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280, "max_position_embeddings": 8192,
        },
        vision={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        image_tokens=64,
    ),
    "qwen2.5-vl-7b": Model(
        tiny="tiny-qwen2_5_vl",
        recipe="qwen2_5_vl_7b_mvtec_qlora",
        side=448,
        text={
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "layer_types": ["full_attention"] * 28,
        },
        vision={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
}  # fmt: skip
FAMILY = {f"tiny-{name}": f"tiny_{name}" for name in ("smolvlm", "qwen2_5_vl", "qwen3_vl", "llava")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*MODELS, *FAMILY])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a CPU's figures")
    with TemporaryDirectory() as work:
        if arguments.model in MODELS:
            base, recipe = Path(work, "base"), MODELS[arguments.model].recipe
            write_base(MODELS[arguments.model], base)
        else:
            base, recipe = Path(base_folder(arguments.model)), FAMILY[arguments.model]
        for batch in arguments.batch:
            report_training(base, recipe, batch, arguments.steps, arguments.data, Path(work, f"batch-{batch}"))
        side = MODELS[arguments.model].side if arguments.model in MODELS else None
        report_ranking(base, side, arguments.data, arguments.train_split, arguments.images)


def write_base(model: Model, out: Path) -> None:
    """A folder with random bfloat16 weights of the model's true size, and the family's processor."""
    small, processor = tiny.BASES[model.tiny]()
    config = small.config
    for part, values in ((config.text_config, model.text), (config.vision_config, model.vision)):
        for name, value in values.items():
            setattr(part, name, value)
    if model.image_tokens:
        config.scale_factor = 4
        processor.image_seq_len = model.image_tokens
        tile = {"longest_edge": model.side}
        processor.image_processor.size = processor.image_processor.max_image_size = tile
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        whole = type(small)(config)
    torch.set_default_dtype(torch.float32)
    print(f"{sum(p.numel() for p in whole.parameters()):,} parameters", flush=True)
    whole.save_pretrained(out)
    processor.save_pretrained(out)


def report_training(base: Path, recipe: str, batch: int, steps: int, data: Path, out: Path) -> None:
    """Samples/s and peak memory of the recipe itself, for some steps at one batch size."""
    command = [
        str(Path(sys.executable).with_name("accelerate")), "launch", str(RECIPES / "train.py"),
        "--config", str(RECIPES / f"{recipe}.yaml"), "--base", str(base), "--data", str(data), "--output_dir", str(out),
        "--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", "1", "--max_steps", str(steps),
        "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none",
        "--skip_memory_metrics", "false",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"batch {batch}: {done.stderr.strip().splitlines()[-1]}")
        return
    last = files.read_json(out / "training_log.json")["history"][-1]
    peak = sum(v for k, v in last.items() if k.endswith(("_mem_gpu_alloc_delta", "_mem_gpu_peaked_delta"))) / 2**30
    memory = f"{peak:.1f} GiB at most" if torch.cuda.is_available() else "no GPU memory"
    speed = last["train_samples_per_second"]
    print(f"training, batch {batch}: {speed:.1f} samples/s, {batch / speed * 1e3:.0f} ms a step, {memory}", flush=True)


def report_ranking(base: Path, side: int | None, data: Path, split: str, n: int) -> None:
    """Images/s of ranking with one and five crops, and of batched `generate` on the same model."""
    rows = load_split(data, split)
    pixels = [images.load(row["bytes"]).rgb for row in rows.select(range(min(n, len(rows))))["image"]]
    ways = {"one crop": {}, "five crops": {"crops": 5}, "generate": {"mode": "generate"}}
    vlm = VLM.from_pretrained(base, question=questions_of(data).question(), asking=Asking(imgsz=side))
    askers = {
        name: VLM(vlm.model, vlm.processor, vlm.question, asking=Asking(batch_size=BATCH, **way))
        for name, way in ways.items()
    }
    speed = {name: per_second(partial(asker.predict, pixels), len(pixels)) for name, asker in askers.items()}
    for name, found in speed.items():
        print(f"{name}: {found:.1f} images/s, {found / speed['generate']:.1f}x generate")


def per_second(work: Callable[[], object], n: int) -> float:
    """Images a second, the first run being warm-up."""
    work()
    begin = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return n / (perf_counter() - begin)


if __name__ == "__main__":
    main()

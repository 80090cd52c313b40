"""How much sooner ranking the options answers than `generate`, one image at a time and batched.

Same weights, processor, batch and dtype; `generate` runs the model as transformers and PEFT load and merge it, and gets
as many tokens as the longest option has. From decoded image to answer, taking turns in one process:
python benchmarks/rank.py IMAGES --base demo-base [--adapter DIR] [--side 288] [--batch 16] [--threads 1] [--rounds 3]
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hf_inspect.vlm import VLM

Ask = Callable[[Sequence[np.ndarray]], list[str]]  # images -> the answer to each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of image files")
    parser.add_argument("--base", default="demo-base")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--side", type=int, help="pixels, where not the processor's own")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="batches timed, after one to warm up")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from hf_inspect import images
    from hf_inspect.vlm import VLM

    wanted = arguments.batch * (arguments.rounds + 1)
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix in {".png", ".jpg", ".bmp"})[:wanted]
    if len(files) < wanted:
        raise SystemExit(f"{arguments.folder} holds {len(files)} images; give a folder with {wanted}.")
    pixels = [images.load(file).rgb for file in files]
    vlm = VLM.from_pretrained(arguments.base, arguments.adapter)
    if arguments.side:
        vlm.processor.image_processor.size = {"height": arguments.side, "width": arguments.side}
    plain = as_transformers_loads(arguments.base, arguments.adapter)
    askers = {
        "rank": by_rank(vlm),
        "one": by_generate(vlm, plain, 1),
        "batched": by_generate(vlm, plain, arguments.batch),
        "batched on the ranker's own model": by_generate(vlm, vlm.model, arguments.batch),
    }
    report(compare(askers, pixels, arguments.batch), arguments.batch)


def as_transformers_loads(base: str, adapter: Path | None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from hf_inspect.vlm.base import base_folder
    from hf_inspect.vlm.model import fast_dtype

    model = AutoModelForImageTextToText.from_pretrained(base_folder(base), dtype=fast_dtype())
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def by_rank(vlm: "VLM") -> Ask:
    def ask(images: Sequence[np.ndarray]) -> list[str]:
        return [vlm.task.options[i] for i in vlm.rank(images, len(images)).argmax(1)]

    return ask


def by_generate(vlm: "VLM", model: Any, batch: int) -> Ask:
    """What a user of transformers writes: the chat template, the processor, greedy `generate`, decode."""
    from hf_inspect import prompts

    messages = prompts.render(vlm.task)["prompt"]
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    longest = max(len(ids) for ids in vlm.processor.tokenizer(list(vlm.task.options))["input_ids"])

    def some(images: Sequence[np.ndarray]) -> list[str]:
        inputs = vlm.processor(images=list(images), text=[text] * len(images), return_tensors="pt").to(model.device)
        out = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        answers = out[:, inputs["input_ids"].shape[1] :]
        return vlm.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def ask(images: Sequence[np.ndarray]) -> list[str]:
        return [answer for at in range(0, len(images), batch) for answer in some(images[at : at + batch])]

    return ask


def compare(askers: dict[str, Ask], images: list[np.ndarray], batch: int) -> dict[str, tuple[list[str], list[float]]]:
    """Answers and seconds of each on every batch after the first; who goes first changes from batch to batch."""
    found: dict[str, tuple[list[str], list[float]]] = {name: ([], []) for name in askers}
    for turn, at in enumerate(range(0, len(images), batch)):
        order = list(askers) if turn % 2 else list(askers)[::-1]
        for name in order:
            begin = perf_counter()
            answers = askers[name](images[at : at + batch])
            took = perf_counter() - begin
            if turn:
                found[name][0].extend(answers)
                found[name][1].append(took)
    return found


def report(found: dict[str, tuple[list[str], list[float]]], batch: int) -> None:
    """Print milliseconds an image and the ratios."""
    ranked, times = found["rank"]
    for name, (answers, seconds) in found.items():
        same = sum(a == b for a, b in zip(ranked, answers, strict=True))
        print(f"{name}: {median(seconds) * 1e3 / batch:.1f} ms an image, {same} of {len(ranked)} answers as ranked")
    for name in list(found)[1:]:
        print(f"{name} {median(found[name][1]) / median(times):.1f}x")


if __name__ == "__main__":
    main()

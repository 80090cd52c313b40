"""How much sooner `VLM.rank` answers than what else one would write, and what its time goes into.

Same weights, processor and dtype, from decoded image to answer, taking turns in one process: two options against
`generate` on the model as transformers and PEFT load it, and once more in float32, where rounding turns no answer;
six options of several tokens against a forward an option, as evaluation harnesses score; five crops of an image
against a forward a crop. Answers are compared.
python benchmarks/rank.py IMAGES --base demo-base [--adapter DIR] [--side 288] [--batch 16] [--threads 1] [--rounds 3]
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from hf_inspect.vlm import VLM

Ask = Callable[[Sequence[np.ndarray]], list[str]]  # images -> the answer to each
Found = dict[str, tuple[list[str], list[float]]]  # of each asker: its answers, and its seconds by batch
SIX = ("Bird-drop", "Clean", "Dusty", "Electrical-damage", "Physical-Damage", "Snow-Covered")
SQUARE, PRODUCTS = 1024, 50  # side of the matrices and number of products that measure the machine's rate
KINDS = {  # what an operator's name holds -> what its time counts as; the first that fits
    "convolutions": ("conv",),
    "matrix products": ("mm", "linear"),
    "attention": ("attention",),
    "batch norms": ("batch_norm",),
    "casts and copies": ("copy", "cat", "clone"),
    "element by element": ("mul", "add", "clamp", "silu", "pow", "neg", "sum", "mean", "rsqrt", "softmax"),
}


def main() -> None:
    arguments = parsed()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    from hf_inspect import images, prompts
    from hf_inspect.schema import TaskSpec
    from hf_inspect.vlm import VLM, Asking
    from hf_inspect.vlm.model import fast_dtype

    batch = arguments.batch
    wanted = batch * (arguments.rounds + 1)
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix in {".png", ".jpg", ".bmp"})[:wanted]
    if len(files) < wanted:
        raise SystemExit(f"{arguments.folder} holds {len(files)} images; give a folder with {wanted}.")
    pixels = [images.load(file).rgb for file in files]
    vlm, plain = both(arguments, fast_dtype())
    print(f"Two options, batches of {batch}; wanted: 4x one at a time, 2x batched")
    askers = {
        "rank": by_rank(vlm),
        "generate one at a time": by_generate(vlm, plain, 1),
        "generate batched": by_generate(vlm, plain, batch),
        "generate batched on the ranker's own model": by_generate(vlm, vlm.model, batch),
    }
    report(compare(askers, pixels, batch), batch)
    print(f"\nThe same in float32, batches of {batch}; wanted: every answer equal")
    exact, plain = both(arguments, torch.float32)
    askers = {"rank": by_rank(exact), "generate batched": by_generate(exact, plain, batch)}
    report(compare(askers, pixels, batch), batch)
    del exact, plain
    print(f"\nSix options of several tokens, batches of {batch}; wanted: 4x")
    text = f"Which of {', '.join(SIX)} is this solar panel?"
    question = prompts.Question(vlm.question.system, text, TaskSpec.of(SIX, good=["Clean"]))
    six = VLM(vlm.model, vlm.processor, question)
    report(compare({"rank": by_rank(six), "a forward an option": by_forwards(six)}, pixels, batch), batch)
    print("\nFive crops, an image at a time; wanted: 1.5x")
    five = VLM(vlm.model, vlm.processor, vlm.question, asking=Asking(crops=5))
    askers = {"rank": by_rank(five), "a forward a crop": by_crops(vlm)}
    report(compare(askers, pixels[: 4 * (arguments.rounds + 1)], 1), 1)
    print(f"\nWhere the time of two options goes, batches of {batch}")
    account(vlm, pixels[:batch])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of image files")
    parser.add_argument("--base", default="demo-base")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--side", type=int, help="pixels, where not the processor's own")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="batches timed, after one to warm up")
    return parser.parse_args()


def both(arguments: argparse.Namespace, dtype: "torch.dtype") -> tuple["VLM", Any]:
    """The ranker, and the same model as transformers and PEFT load it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from hf_inspect import prompts
    from hf_inspect.vlm import VLM, Asking
    from hf_inspect.vlm.base import base_folder

    question = None if arguments.adapter else prompts.SOLAR_CELL
    asking = Asking(imgsz=arguments.side)
    vlm = VLM.from_pretrained(arguments.base, arguments.adapter, question=question, asking=asking, dtype=dtype)
    model = AutoModelForImageTextToText.from_pretrained(base_folder(arguments.base), dtype=dtype)
    if arguments.adapter:
        model = PeftModel.from_pretrained(model, str(arguments.adapter)).merge_and_unload()
    return vlm, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def by_rank(vlm: "VLM") -> Ask:
    def ask(images: Sequence[np.ndarray]) -> list[str]:
        return [vlm.task.classes[i] for i in vlm.rank(images, len(images)).argmax(1)]

    return ask


def by_generate(vlm: "VLM", model: Any, batch: int) -> Ask:
    """What a user of transformers writes: the chat template, the processor, greedy `generate`, decode."""
    from hf_inspect import prompts

    messages = prompts.render(vlm.question)["prompt"]
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    longest = max(len(ids) for ids in vlm.processor.tokenizer(list(vlm.task.classes))["input_ids"])

    def some(images: Sequence[np.ndarray]) -> list[str]:
        inputs = vlm.processor(images=list(images), text=[text] * len(images), return_tensors="pt").to(model.device)
        out = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        answers = out[:, inputs["input_ids"].shape[1] :]
        return vlm.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def ask(images: Sequence[np.ndarray]) -> list[str]:
        return [answer for at in range(0, len(images), batch) for answer in some(images[at : at + batch])]

    return ask


def by_forwards(vlm: "VLM") -> Ask:
    """The batch once for each option, on the ranker's model; images prepared once and the head run on answers alone."""
    from hf_inspect.vlm.ranking import option_scores

    def ask(images: Sequence[np.ndarray]) -> list[str]:
        inputs = vlm.prepare(images).to(vlm.model.device)
        scores = [option_scores(vlm.model, inputs, [ids])[:, 0].cpu().numpy() for ids in vlm._options]
        return [vlm.task.classes[i] for i in np.stack(scores, axis=1).argmax(1)]

    return ask


def by_crops(vlm: "VLM") -> Ask:
    from hf_inspect.vlm.ranking import crops_of

    def ask(images: Sequence[np.ndarray]) -> list[str]:
        means = [np.mean([vlm.log_p(vlm.prepare([crop]))[0] for crop in crops_of(image, 5)], 0) for image in images]
        return [vlm.task.classes[mean.argmax()] for mean in means]

    return ask


def compare(askers: dict[str, Ask], images: list[np.ndarray], batch: int) -> Found:
    """Answers and seconds of each on every batch after the first; who goes first changes from batch to batch."""
    found: Found = {name: ([], []) for name in askers}
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


def report(found: Found, batch: int) -> None:
    """Print milliseconds an image, equal answers and the ratio to the first."""
    (ranked, times), *_ = found.values()
    for name, (answers, seconds) in found.items():
        same = sum(a == b for a, b in zip(ranked, answers, strict=True))
        ms, ratio = median(seconds) * 1e3 / batch, median(seconds) / median(times)
        print(f"  {name}: {ms:.1f} ms an image, {ratio:.1f}x, {same} of {len(ranked)} answers as ranked")


def account(vlm: "VLM", images: Sequence[np.ndarray]) -> None:
    """Print the floor that the multiply-adds set at this machine's matrix rate, and what the time goes into."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    n = len(images)
    begin = perf_counter()
    inputs = vlm.prepare(images)
    prepared = perf_counter() - begin
    with FlopCounterMode(display=False) as counted:
        vlm.log_p(inputs)
    begin = perf_counter()
    vlm.log_p(inputs)
    model = perf_counter() - begin
    rate = matrix_rate()
    floor = counted.get_total_flops() / rate
    print(f"  preparing {prepared * 1e3 / n:.1f} ms an image (in a thread, where there are more batches)")
    print(f"  model {model * 1e3 / n:.1f} ms an image")
    print(
        f"  floor {floor * 1e3 / n:.1f} ms: {counted.get_total_flops() / 2e9 / n:.1f} G multiply-adds an image "
        f"at {rate / 2e12:.2f} T a second, measured on {SQUARE} x {SQUARE} matrices"
    )
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        vlm.log_p(inputs)
    kinds: Counter[str] = Counter()
    for event in profiled.key_averages():
        kinds[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(kinds.values())
    print("  " + ", ".join(f"{kind} {time / total:.0%}" for kind, time in kinds.most_common()) + " (profiled)")


def kind_of(operator: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), "all else")


def matrix_rate() -> float:
    """Operations (two a multiply-add) a second of matrix products in the dtype that ranking uses."""
    import torch

    from hf_inspect.vlm.model import fast_dtype

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(SQUARE, SQUARE, dtype=fast_dtype(), device=device)
    seconds = []
    for _ in range(PRODUCTS):
        begin = perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(perf_counter() - begin)
    return 2 * SQUARE**3 / median(seconds)


if __name__ == "__main__":
    main()

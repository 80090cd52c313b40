"""How much sooner the exported INT8 student answers than transformers' and Optimum's own pipelines.

From image file to the likeliest class, one image at a time, the three taking turns in one process on as many threads:
python benchmarks/edge.py STUDENT EXPORTED_INT8 IMAGES [--threads 1] [--images 200]
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

Ask = Callable[[Path], str]  # an image file -> its label
WARM_UP = 10
MOST_UNLIKE = 0.01  # INT8 against the fp32 checkpoint: the limit of the export's gate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path, help="folder of the torch student")
    parser.add_argument("exported", type=Path, help="its INT8 export")
    parser.add_argument("folder", type=Path, help="folder of image files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix in {".png", ".jpg", ".bmp"})[: arguments.images]
    if len(files) <= WARM_UP:
        raise SystemExit(f"{arguments.folder} holds {len(files)} images; give a folder with more than {WARM_UP}.")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    ours = with_engine(arguments.exported, arguments.threads)
    theirs = with_pipeline(arguments.student, arguments.threads)
    same_ir = with_optimum(arguments.exported, arguments.threads)
    report(compare({"engine": ours, "pipeline": theirs, "optimum": same_ir}, files))


def with_engine(folder: Path, threads: int) -> Ask:
    from hf_inspect.runtime import Engine

    engine = Engine.from_pretrained(folder, threads=threads)

    def ask(file: Path) -> str:
        (answer,) = engine.predict([file])
        return max(zip(answer.probabilities, engine.task.classes, strict=True))[1]

    return ask


def with_pipeline(folder: Path, threads: int) -> Ask:
    import torch
    from transformers import pipeline

    from hf_inspect.hub.kinds import STUDENT

    torch.set_num_threads(threads)
    return top_of(pipeline(STUDENT.pipeline, model=str(folder), device="cpu"))


def with_optimum(folder: Path, threads: int) -> Ask:
    """Optimum's own choices, but for the threads and the precision (in bf16, its default, it answers otherwise)."""
    from optimum.intel import OVModelForImageClassification
    from optimum.intel.pipelines import pipeline
    from transformers import AutoImageProcessor

    from hf_inspect.hub.kinds import STUDENT

    settings = {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": "f32"}
    model = OVModelForImageClassification.from_pretrained(folder, ov_config=settings)
    processor = AutoImageProcessor.from_pretrained(folder)
    return top_of(pipeline(STUDENT.pipeline, model=model, image_processor=processor, accelerator="openvino"))


def top_of(pipe: Callable[..., list[dict[str, str | float]]]) -> Ask:
    def ask(file: Path) -> str:
        return str(pipe(str(file), top_k=1)[0]["label"])

    return ask


def compare(askers: dict[str, Ask], files: list[Path]) -> dict[str, tuple[list[str], list[float]]]:
    """Labels and seconds of each on every file after the warm-up; who goes first changes from file to file."""
    found: dict[str, tuple[list[str], list[float]]] = {name: ([], []) for name in askers}
    for turn, file in enumerate(files):
        order = list(askers) if turn % 2 else list(askers)[::-1]
        for name in order:
            begin = perf_counter()
            label = askers[name](file)
            took = perf_counter() - begin
            if turn >= WARM_UP:
                found[name][0].append(label)
                found[name][1].append(took)
    return found


def report(found: dict[str, tuple[list[str], list[float]]]) -> None:
    """Print medians and ratios; fail when more labels differ than the export's own gate allows."""
    labels, times = found["engine"]
    for name, (theirs, seconds) in found.items():
        differ = sum(a != b for a, b in zip(labels, theirs, strict=True))
        print(f"{name}: median {median(seconds) * 1e3:.2f} ms, {differ} of {len(labels)} labels unlike the engine's")
        assert differ <= MOST_UNLIKE * len(labels), f"{name} and the engine do not answer alike"
    for name in ("pipeline", "optimum"):
        print(f"{name} {median(found[name][1]) / median(times):.1f}x")


if __name__ == "__main__":
    main()

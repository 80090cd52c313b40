"""An exported anomaly model beside the torch model: milliseconds of a call (p50, p95), one image and 16 at a time.

From decoded image to score and map, the two taking turns in one process on as many threads; verdicts and maps of all
images shown are compared besides (wanted: flips in 0.5 % at most, maps that correlate by 0.999):
python benchmarks/anomaly_edge.py MODEL EXPORTED DATA [--split validation] [--threads 1] [--images 64]
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from hf_inspect.images import Rgb
from hf_inspect.schema import Prediction

Ask = Callable[[Sequence[Rgb]], list[Prediction]]
BATCHES = (1, 16)
RARE = 0.95  # share of the images whose severity lies below the threshold that flips are counted at
WARM_UP = 2  # calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the torch model")
    parser.add_argument("exported", type=Path, help="its export")
    parser.add_argument("data", type=Path, help="built data set")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    import torch

    from hf_inspect import Engine, images
    from hf_inspect.anomaly import AnomalyDetector
    from hf_inspect.data import load_split, read_reading

    torch.set_num_threads(chosen.threads)
    engine, detector = (
        Engine.from_pretrained(chosen.exported, chosen.threads),
        AnomalyDetector.from_pretrained(chosen.model),
    )
    rows, reading = load_split(chosen.data, chosen.split), read_reading(chosen.data)
    rgbs = [images.load(one["bytes"], reading).rgb for one in rows[: chosen.images]["image"]]
    askers: dict[str, Ask] = {"engine": engine.predict, "torch": detector.predict}
    for size in BATCHES:
        report(size, *compared(askers, rgbs, size))


def compared(
    askers: dict[str, Ask], rgbs: Sequence[Rgb], size: int
) -> tuple[dict[str, list[Prediction]], dict[str, list[float]]]:
    """Answers and seconds a call of each, after the warm-up; who goes first changes from call to call."""
    answers: dict[str, list[Prediction]] = {name: [] for name in askers}
    seconds: dict[str, list[float]] = {name: [] for name in askers}
    chunks = [rgbs[start : start + size] for start in range(0, len(rgbs), size)]
    warm = chunks[:WARM_UP]
    for turn, chunk in enumerate(warm + chunks):
        for name in list(askers) if turn % 2 else list(askers)[::-1]:
            begin = perf_counter()
            found = askers[name](chunk)
            if turn >= len(warm):
                seconds[name].append(perf_counter() - begin)
                answers[name] += found
    return answers, seconds


def report(size: int, answers: dict[str, list[Prediction]], seconds: dict[str, list[float]]) -> None:
    """Print what a call of so many images takes, and how far the answers are apart."""
    for name, took in seconds.items():
        p50, p95 = np.quantile(took, [0.5, 0.95]) * 1000
        print(f"batch {size}, {name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms of a call, {len(took)} calls", flush=True)
    pairs = list(zip(answers["engine"], answers["torch"], strict=True))
    threshold = float(np.quantile([b.severity for _, b in pairs], RARE))
    flips = sum((a.severity >= threshold) != (b.severity >= threshold) for a, b in pairs)
    maps = min(float(np.corrcoef(a.map.ravel(), b.map.ravel())[0, 1]) for a, b in pairs)
    print(f"batch {size}: {flips} of {len(pairs)} verdicts flip; maps correlate by {maps:.6f} or more")


if __name__ == "__main__":
    main()

"""Images a second of the loop that calibration and evaluation rest on, against the loop of an older checkout.

git worktree add /tmp/before 27a2951
python benchmarks/scoring.py --against /tmp/before [--rounds 5]

Both score ELPV's 1,444 training images, the leak check and complexity included, with an edge that costs next to
nothing, so that the loop shows. They take turns, each time in a new process of one core and one thread; each builds
the data in its own format with its own code. Without --against, this checkout alone.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SPLIT = "train"
SIDE = 288  # pixels, as the shipped edge sees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="an older checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=2, type=Path, metavar=("DATA", "WORK"), help="score once, print the seconds")
    chosen = parser.parse_args()
    if chosen.worker:
        print(*score_once(*chosen.worker))
        return
    checkouts = {"now": ROOT} | ({"before": chosen.against.resolve()} if chosen.against else {})
    with TemporaryDirectory() as work:
        for name, checkout in checkouts.items():
            build(checkout, Path(work, name))
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in checkouts}
        for turn in range(chosen.rounds):
            for name in list(checkouts) if turn % 2 else list(checkouts)[::-1]:
                found[name].append(worker(checkouts[name], Path(work, name)))
    report(found)


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def build(checkout: Path, work: Path) -> None:
    """ELPV as the checkout builds it."""
    work.mkdir()
    command = [str(Path(sys.executable).with_name("hf-inspect")), "data", "build", "elpv", "--accept-license"]
    own = environment(checkout) | {"HF_INSPECT_CACHE": str(work / "cache")}
    subprocess.run([*command, "--out", work / "data"], check=True, env=own, cwd=work, stdout=subprocess.DEVNULL)


def worker(checkout: Path, work: Path) -> tuple[float, ...]:
    """Images, seconds and processor seconds of one run of the checkout's loop, in a process of its own."""
    command = [sys.executable, __file__, "--worker", work / "data", work]
    done = subprocess.run(command, check=True, env=environment(checkout), cwd=work, capture_output=True, text=True)
    return tuple(map(float, done.stdout.split()[-3:]))


def score_once(data: Path, work: Path) -> tuple[int, float, float]:
    """How many images, and how long they took: imports, engine and a first image are not counted."""
    import cv2
    import datasets  # noqa: F401  # its import is not part of the loop

    from hf_inspect import scoring

    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    cv2.setNumThreads(1)
    now = hasattr(scoring, "run")
    engine = engine_in(work / f"engine-{os.getpid()}", now)
    engine.predict([np.zeros((SIDE, SIDE, 3), np.uint8)] * 2)
    if now:
        out = work / f"{os.getpid()}.jsonl"
        return timed(lambda: len(scoring.run({"edge": engine}, data, SPLIT, out, complexity=True).classes))
    return timed(lambda: len(scoring.score(data, SPLIT, engine).labels))


def timed(loop: Callable[[], int]) -> tuple[int, float, float]:
    before = perf_counter(), process_time()
    n = loop()
    return n, perf_counter() - before[0], process_time() - before[1]


def engine_in(folder: Path, now: bool) -> Any:
    """An engine whose severity rises with the brightness, written in the checkout's own format."""
    import openvino as ov
    from openvino import opset13 as ops

    from hf_inspect import data, files
    from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON, Engine

    pixels = ops.parameter([-1, 3, SIDE, SIDE], np.float32)
    mean = ops.unsqueeze(ops.reduce_mean(pixels, np.array([1, 2, 3]), keep_dims=False), np.array(1))
    logits = ops.concat([ops.multiply(mean, np.float32(0)), ops.multiply(mean, np.float32(8))], axis=1)
    folder.mkdir()
    ov.save_model(ov.Model([logits], [pixels]), folder / MODEL, compress_to_fp16=False)
    if now:
        from hf_inspect.schema import BINARY, History, Source

        data.write_history(folder, History((Source("none", "none", "CC0-1.0", 0),)))
        answers: dict[str, Any] = {"task": BINARY.to_dict()}
    else:
        record = data.trained_on({"fingerprint": "none", "licence": "CC0-1.0"}, [])
        data.write_trained_on(folder / TRAINED_ON, record)
        answers = {"labels": ["good", "defect"]}
    preprocess = {
        "height": SIDE, "width": SIDE, "resize": "squash", "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    stated = {"format": FORMAT, "preprocess": preprocess, "precision": PRECISION, **answers}
    stated["files"] = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_json(folder / INSPECT, stated)
    return Engine.from_pretrained(folder, threads=1)


def report(found: dict[str, list[tuple[float, ...]]]) -> None:
    """Medians over the rounds, and the ratio of now to before: above 1 is faster."""
    speed = {name: [[n / wall, n / cpu] for n, wall, cpu in runs] for name, runs in found.items()}
    middle = {name: [median(column) for column in zip(*runs, strict=True)] for name, runs in speed.items()}
    for name, runs in found.items():
        wall, cpu = middle[name]
        spread = ", ".join(f"{n / seconds:.0f}" for n, _, seconds in runs)
        print(f"{name}: {wall:.1f} images/s, {cpu:.1f} a processor second (rounds: {spread}), {runs[0][0]:.0f} images")
    if "before" in middle:
        ratios = [now / before for now, before in zip(middle["now"], middle["before"], strict=True)]
        print(f"now against before: {ratios[0]:.2f} times the images/s, {ratios[1]:.2f} times a processor second")


if __name__ == "__main__":
    main()

"""Whether each of several threads gets the answers of its own parts from one Engine, one VLM and one Inspector.

Engine: the shipped INT8 edge. VLM: a tiny one of random weights, whose vision tower OpenVINO runs as the demo's.
Inspector: a small edge that hands all of these parts on, and that VLM. Parts are kept whose answers, asked for alone,
lie 1e-3 apart, so that an answer within 1e-4 can be no other part's; each thread asks for them in batches of 1 to 8.
PYTHONPATH=. python benchmarks/threads.py [--answers 10000] [--threads 8]
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import hf_inspect
from hf_inspect import Inspector
from hf_inspect.runtime import Engine
from hf_inspect.vlm import VLM
from tests import tiny
from tests.scripted import brightness_cascade

Ask = Callable[[Sequence[np.ndarray]], list[float]]  # parts -> the severity of each
APART, OWN = 1e-3, 1e-4
PARTS, TRIED = 32, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, ask in askers(Path(folder)).items():
            parts, own = told_apart(ask)
            begin = perf_counter()
            wrong, failed = hammer(ask, parts, own, arguments.answers, arguments.threads)
            print(
                f"{name}: {wrong} of {arguments.answers} answers were another part's, {failed} came as an error; "
                f"{len(parts)} parts, {arguments.threads} threads, {perf_counter() - begin:.0f} s",
                flush=True,
            )


def askers(folder: Path) -> dict[str, Ask]:
    """The three objects, each as a function of parts."""
    engine = Engine.from_pretrained(Path(hf_inspect.__file__).parent / "assets" / "elpv" / "edge_int8")
    vlm = VLM.from_pretrained(tiny.loud_base(folder / "base"), question=tiny.QUESTION, dtype=torch.float32)
    edge = Inspector.from_pretrained(brightness_cascade(folder / "cascade", tiny.QUESTION.task))
    inspector = dataclasses.replace(edge, vlm=vlm)

    def inspected(parts: Sequence[np.ndarray]) -> list[float]:
        verdicts = list(inspector.inspect(list(parts)))
        if {one.decided_by for one in verdicts} != {"vlm"}:
            raise RuntimeError(f"{[str(one) for one in verdicts]} were not all decided by the VLM")
        return [one.severity for one in verdicts]

    return {
        "Engine": lambda parts: [one.severity for one in engine.predict(parts)],
        "VLM": lambda parts: [one.severity for one in vlm.predict(parts)],
        "Inspector": inspected,
    }


def told_apart(ask: Ask) -> tuple[list[np.ndarray], np.ndarray]:
    """Parts of medium brightness, and what each is answered alone: at least APART from any other's answer."""
    parts: list[np.ndarray] = []
    own: list[float] = []
    for seed in range(TRIED):
        part = middling(seed)
        [answer] = ask([part])
        if all(abs(answer - other) >= APART for other in own):
            parts.append(part)
            own.append(answer)
        if len(parts) == PARTS:
            break
    return parts, np.array(own)


def middling(seed: int) -> np.ndarray:
    """An image (64, 64, 3) of medium brightness, which the small edge hands on, in a colour and texture of its own."""
    rng = np.random.default_rng(seed)
    red, blue, rough = (*rng.integers(-60, 60, 2).tolist(), int(rng.integers(1, 60)))
    mean = np.array([127 + red, 127 - red - blue, 127 + blue])
    return (mean + rng.uniform(-rough, rough, (64, 64, 3))).clip(0, 255).astype(np.uint8)


def hammer(ask: Ask, parts: Sequence[np.ndarray], own: np.ndarray, answers: int, threads: int) -> tuple[int, int]:
    """How many of so many answers were not the part's own, and how many could not be had for an error."""
    rng = np.random.default_rng(0)
    batches = []
    while answers:
        size = min(answers, int(rng.integers(1, 9)))
        batches.append(rng.integers(0, len(parts), size))
        answers -= size

    def asked(batch: np.ndarray) -> tuple[int, int]:
        try:
            found = ask([parts[i] for i in batch])
        except Exception as error:
            print(f"  {type(error).__name__}: {str(error)[:100]}", flush=True)
            return 0, len(batch)
        return int((np.abs(np.array(found) - own[batch]) > OWN).sum()), 0

    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(asked, batches))
    return sum(wrong for wrong, _ in counts), sum(failed for _, failed in counts)


if __name__ == "__main__":
    main()

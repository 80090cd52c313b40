"""How much sooner a guided VLM answers in batches, its exemplars read once, than image by image.

Both ways take turns in one process on the same images and are to say the same. One at a time reads the exemplars anew
with each image, as a loop over samples does:
python benchmarks/ground.py BASE DATA POOL [--adapter ADAPTER] [--num 2] [--images 32] [--batch-size 8] [--float32]
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

WANTED = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="folder, repository, or a name such as demo-base")
    parser.add_argument("data", type=Path, help="built data set of boxes")
    parser.add_argument("pool", type=Path, help="what `hf-inspect data pool` wrote")
    parser.add_argument("--adapter", help="of recipes/vlm_ground; without one the base is asked as it comes")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=2, help="exemplars before each image")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--most", type=int, help="tokens of an answer; twice the longest of the training without")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="not in bfloat16 where the machine multiplies it fast")
    arguments = parser.parse_args()

    import torch

    from hf_inspect import data, images, prompts
    from hf_inspect.vlm.grounded import GroundedVLM
    from hf_inspect.vlm.guiding import Guide

    reading = data.read_reading(arguments.data)
    rows = (row for batch in data.stream(arguments.data, arguments.split, ["image"], 16) for row in batch)
    shown = [images.load(row["image"]["bytes"], reading).rgb for row in islice(rows, arguments.images)]
    question = None if arguments.adapter else prompts.Grounding.about(data.read_objects(arguments.data))
    guide = Guide.from_path(arguments.pool, arguments.num)
    dtype = torch.float32 if arguments.float32 else None

    def vlm(batch_size: int, read_once: bool) -> GroundedVLM:
        made = GroundedVLM.from_pretrained(
            arguments.base, arguments.adapter, question=question, guide=guide if read_once else _Anew(guide),
            by="text", batch_size=batch_size, most=arguments.most, dtype=dtype,
        )  # fmt: skip
        return made

    ways = {"batch": vlm(arguments.batch_size, True), "one at a time": vlm(1, False)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for one in ways.values():
        one.predict(shown[: arguments.batch_size])  # warm-up
    for _ in range(arguments.rounds):
        for name, one in ways.items():
            begin = perf_counter()
            answers[name] = one.predict(shown)
            took[name].append(perf_counter() - begin)
    same = sum(_said(a) == _said(b) for a, b in zip(*answers.values(), strict=True))
    fast, slow = (median(took[name]) / len(shown) for name in ways)
    print(f"{len(shown)} images, {arguments.num} exemplars, median of {arguments.rounds} rounds")
    print(f"batches of {arguments.batch_size}, exemplars read once: {fast * 1e3:8.1f} ms an image")
    print(f"one at a time:                        {slow * 1e3:8.1f} ms an image")
    verdict = "reached" if slow / fast >= WANTED else "MISSED"
    print(f"{slow / fast:.2f} times sooner ({WANTED:g} wanted: {verdict}); {same} of {len(shown)} answers equal")


class _Anew:
    """A guide whose exemplars are read again for each image."""

    shared = False

    def __init__(self, guide: "object") -> None:
        self._guide = guide

    def __getattr__(self, name: str) -> object:
        return getattr(self._guide, name)


def _said(answer: "object") -> tuple[object, Sequence[object]]:
    """What was said, without the scores, which differ by rounding."""
    found = getattr(answer, "findings", None) or ()
    return getattr(answer, "unreadable", None), [(one.name, one.box, one.description) for one in found]


if __name__ == "__main__":
    main()

"""A model or a cascade as it runs -> milliseconds an image, in batches and one at a time."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_inspect import data as sets
from hf_inspect import images
from hf_inspect.images import Reading
from hf_inspect.schema import Predictor

TIMED = 32  # images: a cascade whose VLM takes 0.2 s is then timed in some ten seconds


def chosen(flags: ArrayLike, n: int = TIMED) -> list[int]:
    """Positions of up to `n` parts, evenly over the split, with as large a share of them flagged as of all (n,)."""
    order = np.argsort(np.asarray(flags, bool), kind="stable")
    picked = np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64)
    return sorted(order[picked].tolist())


def contents(data: Path, split: str, rows: Sequence[int]) -> list[bytes]:
    """The files' contents of the images at these row numbers of a split."""
    read = (next(sets.stream(data, split, ["image"], 1, start=row)) for row in rows)
    return [batch[0]["image"]["bytes"] for batch in read]


def asked(model: Predictor, reading: Reading) -> Callable[[Sequence[bytes]], Iterable[Any]]:
    """A model alone, as `speed` wants it: files' contents -> its answers."""
    return lambda files: model.predict([images.load(content, reading).rgb for content in files])


def speed(inspect: Callable[[Sequence[bytes]], Iterable[Any]], sample: Sequence[bytes]) -> dict[str, Any]:
    """Milliseconds an image of what decodes and answers for files' contents, once all together, once one by one."""
    alone = [[one] for one in sample]
    _seconds(inspect, alone[:1])  # the first call of all may compile something
    together, apart = _seconds(inspect, [sample]), _seconds(inspect, alone)
    per_image = 1000 / len(sample)
    return {"in_batches": together * per_image, "one_at_a_time": apart * per_image, "images": len(sample)}


def _seconds(inspect: Callable[[Sequence[bytes]], Iterable[Any]], calls: Sequence[Sequence[bytes]]) -> float:
    begin = perf_counter()
    for call in calls:
        for _ in inspect(call):
            pass
    return perf_counter() - begin

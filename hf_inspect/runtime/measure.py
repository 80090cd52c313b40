"""An exported folder in a process of its own -> a line of JSON: how long it takes, and the memory that it holds.

`python -m hf_inspect.runtime.measure FOLDER IMAGE... [--threads N]`, as a box at the line would run it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hf_inspect.runtime.engine import Engine

BATCHES = (1, 8)  # images that are asked about at once
_STATUS = Path("/proc/self/status")  # Linux's; `resource` would count what the parent held at its most


def measured(folder: Path, images: Sequence[Path], threads: int | None = None) -> dict[str, Any]:
    """What an exported folder takes, from image file to answer.

    `load` is the seconds until it may be asked, its runtime's import among them; of each of BATCHES the `p50` and `p95`
    of a call, in milliseconds, and images a second; `peak_memory` the bytes this process held at its most, None where
    the system does not tell.
    """
    begin = perf_counter()
    engine = Engine.from_pretrained(folder, threads)
    found: dict[str, Any] = {"load": perf_counter() - begin, "images": len(images)}
    found["batches"] = {str(n): _timed(engine, images, n) for n in BATCHES}
    return found | {"peak_memory": _peak_memory()}


def _timed(engine: Engine, images: Sequence[Path], n: int) -> dict[str, float]:
    """Of calls with `n` images each, the first of which is not counted; what does not fill a call is left out."""
    calls = [images[i : i + n] for i in range(0, len(images) - n + 1, n)]
    engine.predict(calls[0], batch_size=n)
    took = []
    for call in calls:
        begin = perf_counter()
        engine.predict(call, batch_size=n)
        took.append(perf_counter() - begin)
    p50, p95 = (1000 * float(one) for one in np.percentile(took, (50, 95)))
    return {"p50": p50, "p95": p95, "images_per_second": n * len(took) / sum(took)}


def _peak_memory() -> int | None:
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    print(json.dumps(measured(given.folder, given.images, given.threads)))


if __name__ == "__main__":
    main()

"""What `hf-inspect data inspect` costs above parsing the file: seconds and peak memory on generated annotations.

python benchmarks/coco_inspect.py [--annotations 1000000] [--runs 3]; some minutes. Each run is a process of its own,
the two by turns; the parser is Python's own, `json.loads` of the file's bytes. Memory is ru_maxrss above that of a
process that has imported the same and read nothing. The issue's limits are three times the seconds and the memory.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

PER_IMAGE, CLASSES, POINTS = 10, 5, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"), help="used by this script itself")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measured(*chosen.measure)))
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "coco.json"
        generate(path, chosen.annotations)
        size = path.stat().st_size
        print(f"{chosen.annotations:,} annotations, {size / 1e6:.0f} MB")
        bare = median(in_a_process("nothing", path)[1] for _ in range(chosen.runs))
        by_turns = [(in_a_process("parse", path), in_a_process("inspect", path)) for _ in range(chosen.runs)]
    found = {name: [run[at] for run in by_turns] for at, name in enumerate(("json.loads", "inspect"))}
    print(f"{'':12}{'seconds':>10}{'MB':>10}")
    for name, runs in found.items():
        print(f"{name:12}{median(s for s, _ in runs):>10.1f}{(median(m for _, m in runs) - bare) / 1e6:>10.0f}")
    (parse_s, parse_m), (own_s, own_m) = (
        (median(s for s, _ in runs), median(m for _, m in runs) - bare) for runs in found.values()
    )
    print(f"{'ratio':12}{own_s / parse_s:>10.2f}{own_m / parse_m:>10.2f}")
    print(f"memory a byte of the file: {own_m / size:.1f}")


def in_a_process(what: str, path: Path) -> tuple[float, float]:
    """Seconds, and the peak of resident memory in bytes."""
    words = [sys.executable, __file__, "--measure", what, str(path)]
    seconds, peak = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return seconds, peak


def measured(what: str, path: str) -> tuple[float, float]:
    from hf_inspect.data.coco import inspect

    begin = perf_counter()
    if what == "parse":
        json.loads(Path(path).read_bytes())
    elif what == "inspect":
        inspect(Path(path)).table()
    return perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def generate(path: Path, n: int) -> None:
    """A file of n annotations, ten an image, each with a box and a polygon of six points."""
    draw = random.Random(0)
    images = [{"id": i, "file_name": f"{i:08}.jpg", "width": 640, "height": 480} for i in range(1, n // PER_IMAGE + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    with path.open("w") as file:
        file.write(json.dumps({"images": images, "categories": categories})[:-1] + ', "annotations": [')
        for i in range(n):
            x, y, w, h = (round(draw.uniform(1, 200), 2) for _ in range(4))
            polygon = [round(draw.uniform(1, 400), 2) for _ in range(2 * POINTS)]
            one = {"id": i + 1, "image_id": i // PER_IMAGE + 1, "category_id": i % CLASSES + 1, "bbox": [x, y, w, h]}
            one |= {"area": w * h, "iscrowd": 0, "segmentation": [polygon]}
            file.write((", " if i else "") + json.dumps(one))
        file.write("]}")


if __name__ == "__main__":
    main()

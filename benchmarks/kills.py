"""`predict --out` killed with SIGKILL at random moments while its files change: nothing is lost, nothing is doubled.

Each round forks before anything is loaded, lets the child inspect the folder, kills it, checks the file of verdicts,
and overwrites a few of the parts. At the end an undisturbed run must leave one row for each content that was decided,
whose last one of a path is of the file as it lies there.
PYTHONPATH=. python benchmarks/kills.py [--kills 200] [--parts 400]
"""

import argparse
import hashlib
import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path
from time import sleep

import numpy as np

from hf_inspect.inspector import Inspector
from hf_inspect.predict import find_images, predict
from tests.conftest import png
from tests.scripted import brightness_cascade, grey

LONGEST = 0.6  # seconds a run is left alone: from before it has loaded anything to well within its rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--parts", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(tried(Path(folder), arguments.kills, arguments.parts))


def tried(folder: Path, kills: int, n: int) -> str:
    """What so many kills of runs over `n` parts showed."""
    rng, out = np.random.default_rng(0), folder / "out.jsonl"
    cascade = brightness_cascade(folder / "cascade")
    parts = [folder / "parts" / f"{i:04}.png" for i in range(n)]
    parts[0].parent.mkdir()
    seen: set[tuple[str, str]] = set()
    for path in parts:
        write(path, rng, seen)
    killed = torn = with_rows = 0
    while killed < kills:
        before = rows_of(out)
        in_time = killed_after(rng.uniform(0, LONGEST), cascade, parts[0].parent, out)
        found = rows_of(out)
        torn += out.exists() and not out.read_bytes().endswith(b"\n") and out.stat().st_size > 0
        killed, with_rows = killed + in_time, with_rows + (in_time and len(found) > len(before))
        check(found[: len(before)] == before, "rows of an earlier run were lost")
        check(set(found) <= seen, "a row is of no content that there was")
        check(len(set(found)) == len(found), "a content of a path has two rows")
        for i in rng.choice(n, 8, replace=False):
            write(parts[i], rng, seen)
    last = dict(predict(Inspector.from_pretrained(cascade), find_images([parts[0].parent])[0], out))
    found = rows_of(out)
    check(len(set(found)) == len(found), "a content of a path has two rows at the end")
    check(dict(found) == {str(path): sha256(path) for path in parts}, "the last rows are not of the files")
    check({name: row["sha256"] for name, row in last.items()} == dict(found), "what was said is not what stands there")
    return (
        f"{killed} kills, {with_rows} of them after it wrote rows, {torn} within a row; {len(found)} rows of {n} "
        f"parts, {len(found) - n} of them of contents that were overwritten: none lost, none doubled. "
        f"Labels: {dict(Counter(row['label'] for row in last.values()))}"
    )


def write(path: Path, rng: np.random.Generator, seen: set[tuple[str, str]]) -> None:
    """A part that was never there before: a brightness, and a texture of its own."""
    rough = grey(int(rng.integers(0, 200)), 128) + rng.integers(0, 40, (128, 128, 3)).astype(np.uint8)
    path.write_bytes(png(rough))
    seen.add((str(path), sha256(path)))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(out: Path) -> list[tuple[str, str]]:
    """Path and SHA-256 of every whole row."""
    if not out.exists():
        return []
    whole = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    rows = [json.loads(line) for line in whole]
    return [(row["path"], row["sha256"]) for row in rows]


def killed_after(seconds: float, cascade: Path, parts: Path, out: Path) -> bool:
    """Inspect the parts in a fork of this process and kill it; whether it still ran by then."""
    child = os.fork()
    if child == 0:
        try:
            list(predict(Inspector.from_pretrained(cascade), find_images([parts])[0], out))
            os._exit(0)
        finally:
            os._exit(1)
    sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    check(status in (0, signal.SIGKILL), f"a run ended with status {status}")
    return status == signal.SIGKILL


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(otherwise)


if __name__ == "__main__":
    main()

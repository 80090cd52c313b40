"""Runs that replace a folder of thousands of files, each killed (SIGKILL) at a random moment, and what was lost.

    python benchmarks/kill_swap.py [--kills 200] [--files 3000] [--folder .]

Half of the kills fall anywhere in a run, half into its end, where folders are renamed and the old one is deleted. After
each, `out` must be the old folder or the new one whole, or be so after the next run, which fails on purpose; a person's
notes.md and the count of evaluations stay as they are. Exits with 1 if anything else was seen.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from hf_inspect import files

PERSON = {"notes.md": "a person's", "evaluations.json": "[1, 2]"}


def write(out: Path, generation: int, n: int, ended: int) -> None:
    with files.staged_folder(out) as stage:
        for i in range(n):
            path = stage / "data" / f"{i // 100:03}" / f"{i}.txt"
            if i % 100 == 0:
                path.parent.mkdir(parents=True)
            path.write_text(f"{generation} {i}")
        (stage / "manifest.json").write_text(str(generation))
        os.write(ended, b".")


def stands(out: Path, n: int) -> int | None:
    """The generation of what stands at `out`, None where nothing stands; exits where it is not whole."""
    if not out.exists():
        return None
    generation = int((out / "manifest.json").read_text())
    found = {path.name: path.read_text() for path in (out / "data").rglob("*.txt")}
    if found != {f"{i}.txt": f"{generation} {i}" for i in range(n)}:
        sys.exit(f"LOST: of generation {generation} {len(found)} of {n} files stand there")
    if lost := [name for name, text in PERSON.items() if (out / name).read_text() != text]:
        sys.exit(f"LOST: {lost} of a person")
    return generation


def run(out: Path, generation: int, n: int, kill_after: float | None, at_end: bool) -> tuple[float, float, bool]:
    """Seconds to the end of the writing, seconds after it, and whether the run was killed."""
    reading, writing = os.pipe()
    begin = time.perf_counter()
    if (child := os.fork()) == 0:
        os.close(reading)
        write(out, generation, n, writing)
        os._exit(0)
    os.close(writing)
    if kill_after is not None and not at_end:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    wrote = bool(os.read(reading, 1)) and time.perf_counter() - begin
    if kill_after is not None and at_end:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return wrote, time.perf_counter() - begin - wrote, os.WIFSIGNALED(status)


def failing(out: Path) -> None:
    try:
        with files.staged_folder(out):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--folder", type=Path, default=Path(), help="where it is tried: the disk matters")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, seen, stood = random.Random(given.seed), Counter(), 0
    with tempfile.TemporaryDirectory(dir=given.folder) as root:
        out = Path(root).resolve() / "out"
        files.write_text(out / "notes.md", PERSON["notes.md"])
        files.write_text(out / "evaluations.json", PERSON["evaluations.json"])
        whole = [run(out, 0, given.files, None, False) for _ in range(5)]
        writing, ending = (median(seconds) for seconds in list(zip(*whole, strict=True))[:2])
        print(f"{given.files} files: {writing:.2f} s of writing, {ending:.2f} s until the folder is replaced")
        kill = 0
        while sum(n for (killed, *_), n in seen.items() if killed) < given.kills:
            kill += 1
            at_end = kill % 2 == 0
            after = rng.uniform(0, ending if at_end else writing + ending)
            _, _, killed = run(out, kill, given.files, after, at_end)
            after_kill = stands(out, given.files)
            failing(out)
            next_run = stands(out, given.files)
            if next_run not in (stood, kill) or after_kill not in (stood, kill, None):
                sys.exit(f"LOST: {stood} stood, {kill} was written, then {after_kill} and {next_run} stood")
            name = {stood: "old", kill: "new", None: "nothing"}
            seen[killed, name[after_kill], name[next_run]] += 1
            stood = next_run
            if left := [path.name for path in out.parent.iterdir() if path != out]:
                sys.exit(f"LEFT: {left}")
        run(out, -1, given.files, None, False)
        assert stands(out, given.files) == -1
    for (killed, before, after), n in sorted(seen.items()):
        print(f"{'killed' if killed else 'ended first':12} {before:>8} stood, after the next run {after:>4}: {n:4}")
    print(f"{sum(n for (killed, *_), n in seen.items() if killed)} kills, nothing lost, nothing left")


if __name__ == "__main__":
    main()

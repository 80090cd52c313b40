"""A run of `staged_folder` that is killed (SIGKILL) before each of its steps on the disk, in turn, and what stood then.

As a program: `killed.py FOLDER` prints a JSON line for each step: a file opened for writing, a file or folder made,
renamed or removed, a lock, as Python's audit events tell of them, and each fsync.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hf_inspect import files

OLD, NEW, NEWER = (
    {f"{name}/{i}.txt": f"{content} {i}" for name in "ab" for i in (0,)} | {"manifest.json": content}
    for content in ("old", "new", "newer")
)
PERSON = {"notes.md": "a person's", "a/notes.md": "of a part", "evaluations.json": "[1, 2]"}
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def write(out: Path, content: dict[str, str], fail: bool = False) -> None:
    """A run of ours; `fail`: it comes to nothing."""
    try:
        with files.staged_folder(out) as stage:
            for name, text in content.items():
                files.write_text(stage / name, text)
            if fail:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def content(folder: Path) -> dict[str, str] | None:
    """What stands in a folder, its marker and locks apart."""
    if not folder.exists():
        return None
    inside = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".hf_inspect"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in inside}


def killed_before(step: int | None, run: Callable[[], None]) -> int:
    """Run in a process of its own, which kills itself before its step of that number; returns how many it came to."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count(step, writing)
        run()
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    done = len(os.read(reading, 1 << 16))
    os.close(reading)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, status
    return done


def count(step: int | None, writing: int) -> None:
    """From here on write a byte before each step, and die before step `step`."""
    done, fsync = [], os.fsync

    def one() -> None:
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(1)
        os.write(writing, b".")

    def synced(handle: int) -> None:
        one()
        fsync(handle)

    def heard(event: str, arguments: tuple) -> None:
        if event in STEPS or (event == "open" and arguments[2] & WRITING):
            one()

    os.fsync = synced
    sys.addaudithook(heard)


def laid(work: Path, template: Path | None) -> Path:
    """A folder `out` alone in `work`, as the template is, or not there."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return Path(shutil.copytree(template, work / "out")) if template else work / "out"


def trial(work: Path, template: Path | None, step: int, again: int | None = None) -> dict:
    """What stands after a kill before `step` and, in the run after it, before `again`; and after the runs that follow.

    The first of those fails, the last one succeeds.
    """
    out = laid(work, template)
    killed_before(step, lambda: write(out, NEW))
    found = {"over": template is not None, "step": step, "again": again, "killed": content(out)}
    if again is not None:
        killed_before(again, lambda: write(out, NEWER, fail=True))
    write(out, NEWER, fail=True)
    found |= {"next": content(out), "left": [path.name for path in work.iterdir() if path != out]}
    write(out, NEWER)
    return found | {"last": content(out), "beside": [path.name for path in work.iterdir() if path != out]}


def main() -> None:
    root = Path(sys.argv[1])
    template, work = root / "template", root / "work"
    write(template, OLD)
    for name, text in PERSON.items():
        (template / name).write_text(text)
    for before in (template, None):
        out = laid(work, before)
        steps = killed_before(None, partial(write, out, NEW))
        for step in range(steps + 1):
            found = trial(work, before, step)
            print(json.dumps(found))
            if before and found["killed"] is None:
                for again in range(steps):
                    print(json.dumps(trial(work, before, step, again)))


if __name__ == "__main__":
    main()

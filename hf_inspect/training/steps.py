"""Commands one after the other, each printed as it can be given by hand, and not given again while its result stands.

On a machine without a GPU the commands of this environment run as forks of one process that has imported torch and
its like once: each import takes as long as a small training.
"""

import ctypes
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from hf_inspect import files
from hf_inspect.training.checkpoints import content_of, differences

STAMPS = "steps"  # the folder of what is known of each result
BESIDE = Path(sys.executable).parent  # the commands of this environment, activated or not
LAUNCH = [str(BESIDE / "accelerate"), "launch"]
INSPECT = str(BESIDE / "hf-inspect")
_ONCE = ("torch", "torchvision", "transformers", "datasets", "timm", "peft", "trl", "accelerate")
_GPUS = ("nvidia[0-9]*", "kfd")  # below /dev
_DEATH_SIGNAL = 1  # Linux's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Step:
    """A command, the file that is there when it is done, and the files and folders beside the data that it reads.

    `instead` is the command where that one fails, an export of another kind, say. `anew`: the checkpoints that lie
    beside `made` are dropped where they were made from something else; a recipe refuses them.
    """

    made: Path
    command: list[str]
    reads: list[Path] = field(default_factory=list)
    instead: list[str] | None = None
    anew: bool = False

    def made_from(self, out: Path, fingerprint: str) -> dict[str, Any]:
        """All that decides its result, as plain JSON values; nothing of it names the machine or where `out` lies."""
        contents = {_portable(path, out): content_of(path) for path in self.reads if path.exists()}
        command = shlex.join([Path(self.command[0]).name, *(_portable(word, out) for word in self.command[1:])])
        return {"data": fingerprint, "command": command, "reads": contents}

    def stamp(self, out: Path) -> Path:
        """Where it is kept what made the result that is there."""
        return out / STAMPS / f"{self.made.relative_to(out).as_posix().replace('/', '-')}"


def do(step: Step, out: Path, fingerprint: str) -> None:
    """Run a step's command, unless its result is there and was made from the same; SystemExit where it fails.

    `fingerprint` is that of the data. `out`/steps says of each result what made it, by which command, in how many
    seconds, and whether it came to its end.
    """
    stamp, now = step.stamp(out), step.made_from(out, fingerprint)
    noted: dict[str, Any] = files.read_json(stamp) if stamp.exists() else {}
    then = noted.get("made_from", {})
    if then == now and noted["done"] and step.made.exists():
        print(f"{step.made} is there", flush=True)
        return
    if then and then != now:
        print(f"{step.made} was made from something else: {'; '.join(differences(then, now))}", flush=True)
        if step.anew:
            _drop_checkpoints(step.made.parent)
    files.write_json(stamp, {"made_from": now, "done": False})
    begin, done_by = perf_counter(), _first_that_works(step)
    said = {"command": Path(done_by[0]).name, "instead": done_by == step.instead}
    files.write_json(stamp, {"made_from": now, "done": True, **said, "seconds": round(perf_counter() - begin, 1)})


def perform(command: list[str]) -> int:
    """The exit status of a command, after it was printed."""
    print("$", shlex.join(command), flush=True)
    script = _script_of(command)
    if script is None or not _may_fork():
        return subprocess.run(command).returncode
    for name in _ONCE:
        with suppress(ImportError):
            import_module(name)
    process = get_context("fork").Process(target=_become, args=[script, os.getpid()])
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _first_that_works(step: Step) -> list[str]:
    """The step's command, or the one instead of it, that came to its end."""
    if not (code := perform(step.command)):
        return step.command
    if step.instead and not (code := perform(step.instead)):
        return step.instead
    name = Path(sys.argv[0]).resolve().parent.name
    raise SystemExit(f"{name}: this step ended with {code}; mend what it says and run the same command again.")


def _script_of(command: list[str]) -> list[str] | None:
    """The Python script, with its arguments, that a command of this environment is; None for any other command.

    What `accelerate launch` starts on a machine without a GPU or settings of its own is the script by itself.
    """
    if command[:2] != LAUNCH:
        return command if command[0] == INSPECT else None
    from huggingface_hub.constants import HF_HOME

    settings = list(Path(HF_HOME, "accelerate").glob("default_config.*"))  # of `accelerate config`
    return None if settings or command[2].startswith("-") else command[2:]


def _may_fork() -> bool:
    """Whether a child may go on from what this process has imported: a GPU's libraries do not survive a fork."""
    return sys.platform == "linux" and not any(path for name in _GPUS for path in Path("/dev").glob(name))


def _become(script: list[str], parent: int) -> None:
    """Run a script in this process, as Python would; it ends with its parent, however that ends."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
        return
    sys.argv, sys.path[0] = script, str(Path(script[0]).parent)
    runpy.run_path(script[0], run_name="__main__")


def _portable(word: str | Path, out: Path) -> str:
    """A word of a command, or a path, without where `out`, the recipes or the working folder lie."""
    text = str(word)
    for folder, name in ((out, "OUT"), (files.shipped("recipes"), "recipes")):
        if text.startswith(f"{folder}{os.sep}"):
            return f"{name}{text.removeprefix(str(folder))}"
    return files.portable_name(text) if isinstance(word, Path) else text


def _drop_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        print(f"{checkpoint} is dropped", flush=True)
        shutil.rmtree(checkpoint)

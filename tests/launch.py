"""Scripts run as processes of their own, but not each from nothing: they are forks of one that has imported torch,
transformers and their like once. What a user types is run for real where a test says so.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "torchvision", "transformers", "datasets", "timm", "peft", "trl", "accelerate", "hf_inspect.reports"]
ON_A_CPU = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}  # what `accelerate launch --cpu` sets

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(HEAVY)


def script(
    arguments: Sequence[Any], environment: Mapping[str, str] = {}, timeout: float = 300
) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` in the checkout, the first of them a script; `environment` is set besides the test's own."""
    with TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "err")]
        process = started(arguments, environment, *said)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout, *(path.read_text() for path in said))
        return subprocess.CompletedProcess(list(arguments), process.exitcode, *(path.read_text() for path in said))


def started(arguments: Sequence[Any], environment: Mapping[str, str], out: Path, err: Path) -> BaseProcess:
    """The process of `script`, which writes what it says into these files; to be killed, say."""
    given = [str(one) for one in arguments]
    process = _server.Process(target=_run, args=(given, dict(os.environ) | dict(environment), str(out), str(err)))
    process.start()
    return process


def recipe(stage: str, *arguments: Any, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess:
    """`accelerate launch --cpu recipes/STAGE/train.py ARGUMENTS`, as one process."""
    return script([f"recipes/{stage}/train.py", *arguments], ON_A_CPU | dict(environment))


def two(stage: str, *arguments: Any, environment: Mapping[str, str] = {}) -> list[subprocess.CompletedProcess]:
    """`accelerate launch --config_file recipes/accelerate/multi_cpu.yaml recipes/STAGE/train.py ARGUMENTS`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "false"} | dict(environment)
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        given = [f"recipes/{stage}/train.py", *arguments, "--use_cpu", "true"]
        return list(pool.map(lambda rank: script(given, rank), ranks))


def _run(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.stdout.flush()

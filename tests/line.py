"""The line's worst day: a torch-free box sends its parts to a server that is killed, slow, garbled and overloaded."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hf_inspect import files
from hf_inspect.images import load
from hf_inspect.prompts.sizing import sizing_of
from tests.scripted import brightness_cascade
from tests.serving import PROMPT, Brightness, about, free_port

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Phase:
    """What happens to the server (`up`, `killed`, `slow 5`, `garbage`, `503`) while so many parts come in `seconds`."""

    what: str
    parts: int
    seconds: float = 0.0


def cascade_with_vlm(folder: Path) -> Path:
    """A cascade whose VLM is the stand-in of `tests.serving`, by its hashes; nothing of it lies in the folder."""
    brightness_cascade(folder, with_vlm=True)
    stated = files.read_json(folder / "cascade.json")
    stated["vlm"] = {"base": {"packaged": "tiny-base"}, "adapter": {"packaged": "tiny-base"}}
    stated["files"] |= about().files
    files.write_json(folder / "cascade.json", stated)
    return folder


def by_vlm(row: dict) -> float | None:
    """What the VLM said of a part, by its row of verdicts; None where it gave no answer."""
    return row["evidence"].get("vlm", {}).get("severity")


def write_parts(folder: Path, n: int) -> list[np.ndarray]:
    """Images of medium brightness, which the edge hands on, no two alike."""
    folder.mkdir()
    levels = np.linspace(121, 135, n)
    rng = np.random.default_rng(0)
    parts = [(level + rng.uniform(-20, 20, (24, 40, 3))).astype(np.uint8) for level in levels]
    for i, part in enumerate(parts):
        Image.fromarray(part).save(folder / f"{i:05}.png")
    return [load(folder / f"{i:05}.png").rgb for i in range(n)]


class Server:
    """A server process on one port, which can be killed and started again; `mood` says how it answers from now on."""

    def __init__(self, folder: Path) -> None:
        self.port, self._mood = free_port(), folder / "mood"
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.serving", str(self.port), str(self._mood)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=_environment())
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def mood(self, said: str) -> None:
        files.write_text(self._mood, said)


def live(phases: Sequence[Phase], folder: Path, deadline: float, rest: float) -> tuple[list[dict], dict, list[float]]:
    """The day's verdicts as they came, what the wire counted, and the in-process severity of each part."""
    n = sum(phase.parts for phase in phases)
    cascade, parts = cascade_with_vlm(folder / "cascade"), write_parts(folder / "parts", n)
    server = Server(folder)
    command = [sys.executable, ROOT / "tests" / "lineside.py", cascade, server.url, folder / "parts", deadline, rest]
    box = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), text=True
    )
    rows: list[dict] = []
    reader = threading.Thread(target=lambda: rows.extend(map(json.loads, box.stdout)))
    reader.start()
    try:
        for phase in phases:
            _happen(phase, server, box, rows)
            time.sleep(rest)
        box.stdin.close()
        reader.join(30)
        assert box.wait(30) == 0
    finally:
        box.kill()
        server.kill()
    sizing = sizing_of(PROMPT)
    alone = [one.severity for one in Brightness().predict([sizing.fit(part) for part in parts])]
    return rows[:-1], rows[-1]["counts"], alone


def reasons(rows: list[dict]) -> Counter:
    """How many undecided parts for each reason, the times of the day taken out of them."""
    return Counter(
        re.sub(r"\d\d:\d\d:\d\d|\d+ failures", "…", row["reason"]) for row in rows if row["label"] == "undecided"
    )


def _happen(phase: Phase, server: Server, box: subprocess.Popen, rows: list[dict]) -> None:
    """One phase, until its last verdict has come; a kill comes when a quarter of its parts have been let through."""
    before, mood = len(rows), "" if phase.what in ("up", "killed") else phase.what
    server.mood(mood)
    for i in range(phase.parts):
        if phase.what == "killed" and i == phase.parts // 4:
            server.kill()
        box.stdin.write("\n")
        box.stdin.flush()
        time.sleep(phase.seconds / phase.parts)
    while len(rows) < before + phase.parts:
        assert box.poll() is None
        time.sleep(0.01)
    if phase.what == "killed":
        server.start()
    server.mood("")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

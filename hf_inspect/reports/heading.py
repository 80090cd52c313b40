"""What stands at the head of every results.json: which data was measured on, how often, where and with what."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data import place_of, read_head
from hf_inspect.scoring import Scores

LEDGER = "evaluations.json"  # in the data folder: how often each split was evaluated
_PACKAGES = (
    "hf-inspect", "numpy", "pillow", "scipy", "openvino", "torch", "transformers", "peft", "trl", "datasets", "timm",
    "optimum-intel", "nncf", "faster-coco-eval",
)  # fmt: skip


def results_of(data: Path, split: str, what: str, figures: dict[str, Any], scores: Scores) -> dict[str, Any]:
    """results.json of `figures` that `what` gave on a split; the evaluation is counted (see `count_evaluation`)."""
    evaluations = count_evaluation(data, split, what, scores.begun)
    head = {"data": data_section(data, split, evaluations), "environment": environment()}
    return head | {"task": scores.task.to_dict(), **figures}


def data_section(data: Path, split: str, evaluations: int) -> dict[str, Any]:
    """What was measured on: the data's fingerprint and folder, the split, its counts, how often it was evaluated."""
    manifest = read_head(data)
    stated = {"name": manifest["builder"]["name"], "fingerprint": manifest["fingerprint"], "split": split}
    stated["folder"] = files.portable_name(data)
    config, name = place_of(manifest, split)
    counts = manifest["counts"][config][name]
    return stated | {"counts": counts, "evaluations_of_this_split": evaluations}


def count_evaluation(data: Path, split: str, what: str, begun: str | None = None) -> int:
    """Note in the data folder that `what` was evaluated on `split`; returns how often that split was evaluated.

    The ledger outlives a rebuild; what counts is of the same fingerprint, or states none, as of older versions.
    `begun` names an evaluation that may be read again: it is noted once.
    """
    path = data / LEDGER
    with files.locked(data / files.LOCK):  # two evaluations may end at once, or a rebuild
        head = read_head(data)
        place = {"fingerprint": head["fingerprint"], "split": "/".join(place_of(head, split)).removeprefix("default/")}
        ledger = files.read_json(path) if path.exists() else []
        if begun is None or begun not in [entry.get("begun") for entry in ledger]:
            entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **place, "what": what}
            ledger.append(entry | ({"begun": begun} if begun else {}))
            files.write_json(path, ledger)
    return sum(all(entry.get(key, of) == of for key, of in place.items()) for entry in ledger)


def environment() -> dict[str, Any]:
    """Where and with what a report was measured: time, hardware, versions."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _commit() -> str | None:
    """The checkout's commit, `+` when files differ from it; None where the package is not run from one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"], capture_output=True, text=True
        )
    except OSError:
        return None
    return described.stdout.strip() or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """The GPU's name, where torch took part and has one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

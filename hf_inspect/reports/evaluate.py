"""A model + a split it has not seen -> the figures of results.json, each with n, counts and a 95 % interval."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, metrics
from hf_inspect.cascade import Policy, replay
from hf_inspect.data import place_of, read_manifest
from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector, load_policies
from hf_inspect.runtime import Engine
from hf_inspect.schema import Progress, no_progress
from hf_inspect.scoring import Scores, score

LEDGER = "evaluations.json"  # in the data folder: how often each split was evaluated
_PACKAGES = (
    "hf-inspect", "numpy", "pillow", "scipy", "openvino", "torch", "transformers", "peft", "trl", "datasets", "timm",
    "optimum-intel", "nncf",
)  # fmt: skip


def evaluate_edge(folder: Path, data: Path, split: str, progress: Progress = no_progress) -> dict[str, Any]:
    """results.json of an exported edge model."""
    scores = score(data, split, edge=Engine.from_pretrained(folder), progress=progress)
    inputs = {"models": files.weights(folder)}
    return results_of(data, split, str(folder), {"edge": model_report(scores, "edge"), "inputs": inputs})


def evaluate_cascade(folder: Path, data: Path, split: str, progress: Progress = no_progress) -> dict[str, Any]:
    """results.json of a cascade: its edge and its VLM alone, and each of its policies, on the same images."""
    inspector = Inspector.from_pretrained(folder)
    if inspector.vlm is None:
        raise DataError(f"the cascade cannot be evaluated: {inspector.no_vlm}.")
    scores = score(data, split, inspector.edge, inspector.vlm, progress=progress)
    policies = load_policies(folder)
    figures = {name: model_report(scores, name) for name in ("edge", "vlm")}
    figures["cascade"] = {name: cascade_report(scores, policy) for name, policy in policies.items()}
    figures["inputs"] = {"models": _weights_of_parts(folder)}
    return results_of(data, split, str(folder), figures)


def model_report(scores: Scores, which: str, threshold: float = 0.5) -> dict[str, Any]:
    """Figures of one model alone, `which` being `edge` or `vlm`; P(defect) >= `threshold` is a defect."""
    p = scores.p_edge if which == "edge" else scores.p_vlm
    report = metrics.binary_report(scores.labels, p, threshold)
    return report | {"ms_per_image": scores.ms[which], "reliability": metrics.reliability(scores.labels, p)}


def cascade_report(scores: Scores, policy: Policy) -> dict[str, Any]:
    """Figures of the whole cascade under one policy, beside the edge alone and the VLM alone on the same images.

    Its time an image is the edge's and the policy's for every part plus the VLM's for the escalated share.
    """
    outcome = replay(policy, scores.p_edge, scores.p_vlm, scores.complexity)
    labels, sent = scores.labels, outcome.escalated
    report = metrics.decision_report(labels, outcome.codes)
    edge_says, vlm_says = scores.p_edge >= 0.5, scores.p_vlm >= policy.cloud_threshold
    gates = scores.ms["complexity"] if policy.needs_complexity else 0.0
    ms = scores.ms["edge"] + gates + scores.ms["vlm"] * sent.mean()
    return report | {
        "edge_promise": _edge_promise(labels, outcome.codes, ~sent),
        "share_escalated": outcome.share_escalated(),
        "vlm_calls": outcome.vlm_calls,
        "cloud_threshold": policy.cloud_threshold,
        "escalated": {"vlm": _agreement(labels, vlm_says, sent), "edge": _agreement(labels, edge_says, sent)},
        "minus_edge_only": metrics.paired_difference(outcome.codes == labels, edge_says == labels),
        "ms_per_image": float(ms),
        "time_saved_against_vlm_only": float(1 - ms / scores.ms["vlm"]),
    }


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


def count_evaluation(data: Path, split: str, what: str, begun: str | None = None) -> int:
    """Note in the data folder that `what` was evaluated on `split`; returns how often that split was evaluated.

    `begun` names an evaluation that may be read again: it is noted once.
    """
    split = "/".join(place_of(read_manifest(data), split)).removeprefix("default/")
    path = data / LEDGER
    ledger = files.read_json(path) if path.exists() else []
    if begun is None or begun not in [entry.get("begun") for entry in ledger]:
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "split": split, "what": what}
        ledger.append(entry | ({"begun": begun} if begun else {}))
        files.write_json(path, ledger)
    return sum(entry["split"] == split for entry in ledger)


def results_of(data: Path, split: str, what: str, figures: dict[str, Any], begun: str | None = None) -> dict[str, Any]:
    """results.json of `figures` that `what` gave on a split; the evaluation is counted (see `count_evaluation`)."""
    evaluations = count_evaluation(data, split, what, begun)
    return {"data": data_section(data, split, evaluations), "environment": environment(), **figures}


def data_section(data: Path, split: str, evaluations: int) -> dict[str, Any]:
    """What was measured on: the data's fingerprint, the split, its counts, how often it was evaluated so far."""
    manifest = read_manifest(data)
    stated = {"name": manifest["builder"]["name"], "fingerprint": manifest["fingerprint"], "split": split}
    config, name = place_of(manifest, split)
    counts = manifest["counts"][config][name]
    return stated | {"counts": counts, "evaluations_of_this_split": evaluations}


def _weights_of_parts(folder: Path) -> dict[str, str]:
    """`files.weights` of a cascade's edge and adapter, each under its part's name."""
    stated = hub.read_cascade(folder)
    edge, adapter = (Path(hub.part_of(folder, stated, role)) for role in ("edge", "adapter"))
    return files.weights(edge, "edge") | files.weights(adapter, "adapter")


def _edge_promise(
    labels: NDArray[np.int64], codes: NDArray[np.int64], by_edge: NDArray[np.bool_]
) -> dict[str, Mapping[str, Any]]:
    """What the stated risk is about: defects the edge itself passed, goods it itself rejected."""
    defects, goods = int(labels.sum()), int((labels == 0).sum())
    return {
        "edge_good_given_defect": metrics.rate(int((by_edge & (codes == 0) & (labels == 1)).sum()), defects),
        "edge_defect_given_good": metrics.rate(int((by_edge & (codes == 1) & (labels == 0)).sum()), goods),
    }


def _agreement(labels: NDArray[np.int64], says: NDArray[np.bool_], where: NDArray[np.bool_]) -> Mapping[str, Any]:
    return metrics.rate(int((says == labels)[where].sum()), int(where.sum()))


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

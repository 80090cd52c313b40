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
from hf_inspect.cascade import IS_DEFECT, IS_GOOD, UNDECIDED, Policy, Replay, replay
from hf_inspect.data import place_of, questions_of, read_head
from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector, load_policies
from hf_inspect.runtime import Engine
from hf_inspect.schema import Predictor, Progress, TaskSpec, no_progress
from hf_inspect.scoring import Scores, run
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.classification import THRESHOLD

VALIDATION = "validation"  # the split that a temperature is fitted on

LEDGER = "evaluations.json"  # in the data folder: how often each split was evaluated
_PACKAGES = (
    "hf-inspect", "numpy", "pillow", "scipy", "openvino", "torch", "transformers", "peft", "trl", "datasets", "timm",
    "optimum-intel", "nncf",
)  # fmt: skip


def evaluate_edge(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """results.json of an exported edge model; `scores` is the file of answers to go on from, as in all of these."""
    found = hub.resolve(folder)
    edge = Engine.from_pretrained(found)
    answered = run({"edge": edge}, data, split, scores, progress=progress)
    figures = {"edge": model_report(answered, "edge", edge), "inputs": {"models": files.weights(Path(found))}}
    return results_of(data, split, str(folder), figures, answered)


def evaluate_vlm(
    base: str,
    adapter: str | None,
    data: Path,
    split: str,
    scores: Path,
    *,
    asking: Any = None,
    questions: Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """results.json of a VLM with its adapter or (None) zero-shot, asked as `asking` (a `vlm.Asking`) says.

    The question is the adapter's own; zero-shot, or with `questions`, it is the data set's direct one. A temperature
    is fitted on the validation split of the same config, whose answers lie beside `scores`.
    """
    from hf_inspect.vlm import VLM, Asking
    from hf_inspect.vlm.base import base_folder

    asking, trained = asking or Asking(), hub.resolve(adapter) if adapter else base_folder(base)
    vlm = VLM.from_pretrained(base, adapter, question=_question(trained, data, questions), asking=asking)
    config, name = place_of(read_head(data), split)
    answered = run({"vlm": vlm}, data, f"{config}/{name}", scores, progress=progress)
    fitted, why = None, _no_temperature(read_head(data)["counts"][config], name, asking.mode)
    if why is None:
        beside = scores.with_name(f"{scores.stem}.{VALIDATION}{scores.suffix}")
        fitted = run({"vlm": vlm}, data, f"{config}/{VALIDATION}", beside, fitting=True, progress=progress)
    calibration = _calibration(answered, fitted, why) if asking.mode == "rank" else {"why": why}
    named = {role: files.portable_name(one) if one else None for role, one in (("base", base), ("adapter", adapter))}
    stated = {**named, "identity": vlm.identity, "question": vlm.question.to_dict(), **asking.to_dict()}
    report = stated | model_report(answered, "vlm", vlm) | {"calibration": calibration}
    figures = {"vlm": report, "inputs": {"models": files.weights(trained)}}
    return results_of(data, split, str(adapter or base), figures, answered)


def evaluate_cascade(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """results.json of a cascade: its edge and its VLM alone, and each of its policies, on the same images."""
    inspector = Inspector.from_pretrained(folder)
    at = hub.cascade_folder(folder)
    if inspector.vlm is None and hub.read_cascade(at)["vlm"]:
        raise DataError(f"the cascade cannot be evaluated: {inspector.no_vlm}.")
    models = {"edge": inspector.edge} | ({"vlm": inspector.vlm} if inspector.vlm else {})
    answered = run(models, data, split, scores, complexity=True, progress=progress)
    figures = {name: model_report(answered, name, model) for name, model in models.items()}
    figures["cascade"] = {name: cascade_report(answered, policy) for name, policy in load_policies(at).items()}
    figures["inputs"] = {"models": hub.weights_of(hub.read_cascade(at))}
    return results_of(data, split, str(folder), figures, answered)


def model_report(scores: Scores, name: str, model: Predictor, threshold: float = 0.5) -> dict[str, Any]:
    """Figures of one model alone, by its task; severity >= `threshold` is a defect.

    `history` says what it and its ancestors were trained on, `not_scored` which images could not be read.
    """
    answers = scores.answers[name]
    measure = TASKS[scores.task.kind].measure
    report = measure(scores.task, scores.classes, answers.severity, answers.probabilities, threshold)
    said = {"ms_per_image": answers.ms, "not_scored": scores.not_scored, "history": model.history.summary()}
    return report | said


def cascade_report(scores: Scores, policy: Policy) -> dict[str, Any]:
    """Figures of the whole cascade under one policy, beside the edge alone and the VLM alone on the same images.

    Right is who names the class; a part that nobody decided is neither right, nor an escape, nor overkill. Its time an
    image is the edge's and the policy's for every part plus the VLM's for the escalated share.
    """
    edge, vlm = scores.answers["edge"], scores.answers.get("vlm")
    outcome = replay(
        policy,
        edge.severity,
        vlm.severity if vlm else None,
        probabilities=edge.probabilities,
        complexity=scores.complexity,
    )
    labels, sent = scores.labels, outcome.escalated
    right = named_classes(scores, outcome) == scores.classes
    edge_right = scores.task.likeliest(edge.probabilities) == scores.classes
    report = metrics.decision_report(labels, outcome.codes)
    report["accuracy"] = metrics.rate(int(right.sum()), len(labels))
    gates = scores.complexity_ms if policy.needs_complexity else 0.0
    ms = edge.ms + gates + (vlm.ms * sent.mean() if vlm else 0.0)
    report |= {
        "edge_promise": _edge_promise(labels, outcome.codes, ~sent),
        "share_escalated": outcome.share_escalated(),
        "vlm_calls": outcome.vlm_calls,
        "cloud_threshold": policy.cloud_threshold,
        "minus_edge_only": metrics.paired_difference(right, edge_right),
        "ms_per_image": float(ms),
    }
    if vlm is None:
        return report
    says = {"vlm": vlm.severity >= policy.cloud_threshold, "edge": edge.severity >= THRESHOLD}
    return report | {
        "escalated": {name: _agreement(labels, said, sent) for name, said in says.items()},
        "time_saved_against_vlm_only": float(1 - ms / vlm.ms),
    }


def named_classes(scores: Scores, outcome: Replay) -> NDArray[np.int64]:
    """The class that a verdict names (n,): the decider's likeliest one of the side decided; -1 where nobody decided."""
    edge, vlm = scores.answers["edge"].probabilities, scores.answers.get("vlm")
    by_vlm = outcome.decided_by == "vlm"
    p = edge if vlm is None else np.where(by_vlm[:, None], vlm.probabilities, edge)
    on_side = scores.task.is_defect == (outcome.codes == IS_DEFECT)[:, None]
    named = scores.task.likeliest(np.where(on_side, p, -1.0))
    return np.where(outcome.codes == UNDECIDED, metrics.UNREADABLE, named)


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


def results_of(data: Path, split: str, what: str, figures: dict[str, Any], scores: Scores) -> dict[str, Any]:
    """results.json of `figures` that `what` gave on a split; the evaluation is counted (see `count_evaluation`)."""
    evaluations = count_evaluation(data, split, what, scores.begun)
    head = {"data": data_section(data, split, evaluations), "environment": environment()}
    return head | {"task": scores.task.to_dict(), **figures}


def data_section(data: Path, split: str, evaluations: int) -> dict[str, Any]:
    """What was measured on: the data's fingerprint, the split, its counts, how often it was evaluated so far."""
    manifest = read_head(data)
    stated = {"name": manifest["builder"]["name"], "fingerprint": manifest["fingerprint"], "split": split}
    config, name = place_of(manifest, split)
    counts = manifest["counts"][config][name]
    return stated | {"counts": counts, "evaluations_of_this_split": evaluations}


def _question(trained: Path, data: Path, questions: Path | None) -> Any:
    """The data set's question where it is needed: zero-shot, or asked for; None leaves a trained model its own."""
    from hf_inspect.vlm.parity import PROMPT

    if questions is None and (trained / PROMPT).is_file():
        return None
    return questions_of(data, questions).question()


def _no_temperature(counts: Mapping[str, Any], split: str, mode: str) -> str | None:
    """Why no temperature can be fitted, None where it can."""
    if mode != "rank":
        return "generated answers carry no probability"
    if split == VALIDATION:
        return "the split measured is the one it would be fitted on"
    return None if VALIDATION in counts else "this config has no validation split"


def _calibration(found: Scores, fitted: Scores | None, why: str | None) -> dict[str, Any]:
    """Expected calibration error of the likeliest class in [0, 1], before and after a temperature; or why not."""
    p = found.answers["vlm"].probabilities
    before = {"n": len(p), "error": _calibration_error(found.task, p, found.classes), "bins": 10}
    if fitted is None:
        return before | {"why": why}
    t = metrics.fit_temperature(fitted.answers["vlm"].probabilities, fitted.classes)
    return before | {
        "temperature": t,
        "error_with_temperature": _calibration_error(found.task, metrics.with_temperature(p, t), found.classes),
        "fitted_on": {"split": VALIDATION, "n": len(fitted.classes), "not_scored": fitted.not_scored},
    }


def _calibration_error(task: TaskSpec, p: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    return metrics.reliability(task.likeliest(p) == classes, p.max(1).clip(0, 1))["calibration_error"]


def _edge_promise(
    labels: NDArray[np.int64], codes: NDArray[np.int64], by_edge: NDArray[np.bool_]
) -> dict[str, Mapping[str, Any]]:
    """What the stated risk is about: defects the edge itself passed, goods it itself rejected."""
    defects, goods = int(labels.sum()), int((labels == 0).sum())
    return {
        "edge_good_given_defect": metrics.rate(int((by_edge & (codes == IS_GOOD) & (labels == 1)).sum()), defects),
        "edge_defect_given_good": metrics.rate(int((by_edge & (codes == IS_DEFECT) & (labels == 0)).sum()), goods),
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

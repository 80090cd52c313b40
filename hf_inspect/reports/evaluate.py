"""A model + a split it has not seen -> the figures of results.json, each with n, counts and a 95 % interval."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, metrics
from hf_inspect.cascade import (
    CALIBRATION,
    IS_DEFECT,
    IS_GOOD,
    UNDECIDED,
    CalibrationScores,
    Certified,
    Policy,
    Replay,
    edge_alone_threshold,
    replay,
)
from hf_inspect.data import place_of, questions_of, read_head, read_reading
from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector, load_policies
from hf_inspect.reports import timing
from hf_inspect.reports.heading import results_of
from hf_inspect.reports.undecided import undecided_report
from hf_inspect.runtime import Engine
from hf_inspect.schema import Predictor, Progress, TaskSpec, no_progress
from hf_inspect.scoring import Scores, read_rows, run
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.classification import THRESHOLD

VALIDATION = "validation"  # the split that a temperature is fitted on

_DEADLINE = 120.0  # seconds that an image waits for a server: one that is late here is no answer of the model's


def evaluate_edge(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """results.json of an exported edge model; `scores` is the file of answers to go on from, as in all of these."""
    found = hub.resolve(folder)
    edge = Engine.from_pretrained(found)
    answered = run({"edge": edge}, data, split, scores, progress=progress)
    report = model_report(answered, "edge", edge, threshold_of(edge.task))
    report |= {"speed": model_speed(edge, answered, data, split)}
    figures = {"edge": report, "inputs": {"models": files.weights(Path(found))}}
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
    stated = {**named, "identity": vlm.identity, "question": vlm.question.to_dict(), **vlm.asking.to_dict()}
    report = stated | model_report(answered, "vlm", vlm) | {"calibration": calibration}
    report["speed"] = model_speed(vlm, answered, data, f"{config}/{name}")
    figures = {"vlm": report, "inputs": {"models": files.weights(trained)}}
    return results_of(data, split, str(adapter or base), figures, answered)


def evaluate_cascade(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """results.json of a cascade: its edge and its VLM alone, and each of its policies, on the same images.

    ServerError where its VLM is a server that leaves an image unanswered: what is missing would be counted as wrong.
    """
    at = hub.cascade_folder(folder)
    served = hub.server_of(hub.read_cascade(at)) is not None
    inspector = Inspector.from_pretrained(folder, deadline=_DEADLINE if served else None)
    if inspector.wire is not None:
        inspector.wire.strict = True
    if inspector.vlm is None and hub.read_cascade(at)["vlm"]:
        raise DataError(f"the cascade cannot be evaluated: {inspector.no_vlm}.")
    models = {"edge": inspector.edge} | ({"vlm": inspector.vlm} if inspector.vlm else {})
    answered = run(models, data, split, scores, complexity=True, progress=progress)
    figures = {
        name: model_report(answered, name, model, threshold_of(model.task))
        | {"speed": model_speed(model, answered, data, split)}
        for name, model in models.items()
    }
    figures["cascade"] = cascade_reports(inspector, at, answered, data, split)
    figures |= promise_report(at, answered)
    figures["inputs"] = {"models": hub.weights_of(hub.read_cascade(at))}
    return results_of(data, split, str(folder), figures, answered)


def model_report(scores: Scores, name: str, model: Predictor, threshold: float | None = THRESHOLD) -> dict[str, Any]:
    """Figures of one model alone, by its own task; severity >= `threshold` is a defect.

    `history` says what it and its ancestors were trained on, `not_scored` which images could not be read, `kind` what
    kind of task it is, and `score` what its severity means where that is no probability of classes.
    """
    answers = scores.answers[name]
    measure = TASKS[model.task.kind].measure
    report = measure(
        scores.task, scores.classes, answers.severity, answers.probabilities, threshold, groups=scores.groups
    )
    meaning = model.task.score
    score = {} if meaning is None else {"score": {"means": str(meaning), **meaning.to_dict()}}
    stated = {"kind": model.task.kind, **score}
    return report | stated | {"not_scored": scores.not_scored, "history": model.history.summary()}


def threshold_of(task: TaskSpec) -> float | None:
    """The severity at which a model alone begins to say defect; None where nobody can say."""
    return THRESHOLD if task.score is None else task.score.threshold


def model_speed(model: Predictor, scores: Scores, data: Path, split: str) -> dict[str, Any]:
    """Milliseconds an image of one model alone (`timing.speed`), on images from all over the split."""
    rows = scores.numbers[timing.chosen(np.zeros(len(scores.classes)))]
    return timing.speed(timing.asked(model, read_reading(data)), timing.contents(data, split, rows.tolist()))


def cascade_reports(
    inspector: Inspector, folder: Path, scores: Scores, data: Path, split: str
) -> dict[str, dict[str, Any]]:
    """Of every policy of a cascade's folder: its `cascade_report`, its rival, and how fast it runs.

    The rivals of `certified` are its models alone at the same promise (`promise_report`); that of a policy without one
    is `edge_alone`, the edge at one threshold that has the cascade's overkill on the calibration split. Speed is
    measured on images of which as large a share is handed to the VLM as of the split.
    """
    stored, reports = CalibrationScores.from_rows(read_rows(folder / CALIBRATION)), {}
    for name, policy in load_policies(folder).items():
        rows = scores.numbers[timing.chosen(played(scores, policy).escalated)]
        running = replace(inspector, policy=policy, max_pixels=read_reading(data).max_pixels)
        reports[name] = cascade_report(scores, policy, threshold_of(inspector.edge.task)) | {
            "speed": timing.speed(running.inspect, timing.contents(data, split, rows.tolist()))
        }
        if isinstance(policy, Certified):
            reports[name] |= _ordered(scores, policy)
        else:
            reports[name]["edge_alone"] = edge_report(scores, edge_alone_threshold(stored, policy))
    return reports


def promise_report(folder: Path, scores: Scores) -> dict[str, Any]:
    """What edge, VLM and cascade leave undecided at the promise of a cascade's folder (`undecided_report`)."""
    certified = load_policies(folder)[Certified.name]
    assert isinstance(certified, Certified)
    return undecided_report(scores, certified, CalibrationScores.from_rows(read_rows(folder / CALIBRATION)))


def _ordered(scores: Scores, policy: Certified) -> dict[str, Any]:
    """`auroc` of the composite, of the parts that have one."""
    vlm = scores.answers["vlm"].severity if "vlm" in scores.answers else None
    found = policy.composite.scores(scores.answers["edge"].severity, vlm)
    own = ~np.isnan(found)
    return {"auroc": metrics.auroc(scores.labels[own], found[own], scores.groups[own])}


def edge_report(scores: Scores, threshold: float) -> dict[str, Any]:
    """Figures of the edge alone that calls every severity >= `threshold` a defect."""
    edge = scores.answers["edge"]
    codes = _codes_at(edge.severity, threshold)
    right = _right(scores, edge.probabilities, codes)
    report = metrics.decision_report(scores.labels, codes, scores.groups)
    return report | {"accuracy": metrics.rate_of(right, scores.groups), "threshold": threshold}


def played(scores: Scores, policy: Policy) -> Replay:
    """What a cascade does with the images of a split under a policy."""
    edge, vlm = scores.answers["edge"], scores.answers.get("vlm")
    return replay(
        policy,
        edge.severity,
        vlm.severity if vlm else None,
        probabilities=edge.probabilities,
        complexity=scores.complexity,
    )


def cascade_report(scores: Scores, policy: Policy, threshold: float | None = THRESHOLD) -> dict[str, Any]:
    """Figures of the whole cascade under one policy, beside the edge alone and the VLM alone on the same images.

    Right is who names the class, or the side where the decider knows no classes; a part that nobody decided is neither
    right, nor an escape, nor overkill. The edge alone says defect from `threshold` on; without one, nothing is compared
    with it.
    """
    edge, vlm = scores.answers["edge"], scores.answers.get("vlm")
    outcome = played(scores, policy)
    labels, sent = scores.labels, outcome.escalated
    right = _right(scores, _decider(scores, outcome), outcome.codes)
    report = metrics.decision_report(labels, outcome.codes, scores.groups)
    report |= {
        "accuracy": metrics.rate_of(right, scores.groups),
        "vlm_calls": metrics.rate_of(sent, scores.groups),
        "asked_because": outcome.asked(scores.groups),
    }
    if threshold is not None:
        difference = metrics.paired_difference(right, _edge_right(scores, threshold), scores.groups)
        report["minus_edge_only"] = difference
    if vlm is None:
        return report
    says = {"vlm": vlm.severity >= THRESHOLD}
    says |= {} if threshold is None else {"edge": edge.severity >= threshold}
    return report | {
        "escalated": {
            name: metrics.rate_of((said == labels)[sent], scores.groups[sent]) for name, said in says.items()
        },
    }


def named_classes(scores: Scores, outcome: Replay) -> NDArray[np.int64]:
    """The class that a verdict names (n,): the decider's likeliest one of the side decided; -1 where none is named."""
    return _named(scores.task, _decider(scores, outcome), outcome.codes)


def _decider(scores: Scores, outcome: Replay) -> NDArray[np.float64]:
    """Class probabilities (n, k) of whoever decided each part; NaN where it knows none."""
    edge, vlm = scores.answers["edge"].probabilities, scores.answers.get("vlm")
    by_vlm = np.isin(outcome.decided_by, ["vlm", "both"])
    return edge if vlm is None else np.where(by_vlm[:, None], vlm.probabilities, edge)


def _edge_right(scores: Scores, threshold: float) -> NDArray[np.bool_]:
    """Where the edge alone is right (n,): its likeliest class, or without classes its side of the threshold."""
    edge = scores.answers["edge"]
    likeliest = (scores.task.likeliest(edge.probabilities) == scores.classes) & ~np.isnan(edge.severity)
    sided = _right(scores, edge.probabilities, _codes_at(edge.severity, threshold))
    return np.where(np.isnan(edge.probabilities).any(1), sided, likeliest)


def _codes_at(severity: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """What one threshold says of severities (n,); NaN, no answer, is undecided."""
    return np.select([np.isnan(severity), severity >= threshold], [UNDECIDED, IS_DEFECT], IS_GOOD)


def _right(scores: Scores, p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where codes are right (n,): with class probabilities (n, k) in their class, without (NaN) in their side."""
    side = (codes != UNDECIDED) & ((codes == IS_DEFECT) == scores.labels)
    return np.where(np.isnan(p).any(1), side, _named(scores.task, p, codes) == scores.classes)


def _named(task: TaskSpec, p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The likeliest class on the side that each code decided for, by probabilities (n, k).

    -1 where nobody decided, where probabilities are not known (NaN), and where the task has no class on that side.
    """
    on_side = task.is_defect == (codes == IS_DEFECT)[:, None]
    nobody = (codes == UNDECIDED) | np.isnan(p).any(1) | ~on_side.any(1)
    return np.where(nobody, metrics.UNREADABLE, task.likeliest(np.where(on_side, p, -1.0)))


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

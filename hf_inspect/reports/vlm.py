"""A VLM, zero-shot or with its adapter, + a split -> results.json: figures of n classes, and a fitted temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, hub, images, metrics, prompts
from hf_inspect.data import answers_of, load_split, place_of, questions_of, read_manifest, refuse_seen
from hf_inspect.data.chat import Questions
from hf_inspect.errors import DataError, ParseError
from hf_inspect.reports.evaluate import results_of
from hf_inspect.reports.plots import classes_plot
from hf_inspect.reports.table import classes_table, vlm_title
from hf_inspect.schema import LABELS, Progress, no_progress
from hf_inspect.vlm import VLM, families, parity
from hf_inspect.vlm.answers import Asking, Part, Row, answer, begun, identity
from hf_inspect.vlm.base import base_folder

VALIDATION = "validation"  # the split that a temperature is fitted on


@dataclass(frozen=True, slots=True)
class _Split:
    """The images of a split and the index of each one's class among the options."""

    name: str
    parts: list[Part]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers to n readable images: labels and classes said (n,), -1 for no class, and P over k options (n, k)."""

    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    p: NDArray[np.float64]
    ms: float
    not_scored: list[dict[str, str]]


def evaluate_vlm(
    base: str,
    adapter: Path | None,
    data: Path,
    split: str,
    scores: Path,
    *,
    asking: Asking | None = None,
    questions: Path | None = None,
    normalised: bool = False,
    batch_size: int = 16,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """results.json of a VLM with its adapter or (None) zero-shot; `scores` is the file of JSON lines to go on from.

    The question is the adapter's own; zero-shot, or with `questions`, it is the data set's direct one. A temperature
    is fitted on the validation split of the same config.
    """
    asking, adapter = asking or Asking(), adapter and Path(hub.located(adapter))
    vlm, asked = _load(base, adapter, data, asking, questions)
    manifest = read_manifest(data)
    config, name = place_of(manifest, split)
    measured, fitted = _split(data, f"{config}/{name}", vlm.task, asked), None
    if vlm.trained_on is not None:
        read = [part for part in measured.parts if _reads(part)]
        refuse_seen(vlm.trained_on, [part.content for part in read], [part.source for part in read])
    if not (why := _no_temperature(manifest["counts"][config], name, asking)):
        fitted = _split(data, f"{config}/{VALIDATION}", vlm.task, asked)
    settings = {"task": vlm.task.to_dict(), **asking.to_dict()}
    weights = identity(vlm, base, adapter)
    evaluation = {"weights": weights, "data": manifest["fingerprint"], "split": measured.name, **settings}
    parts = [*(fitted.parts if fitted else []), *measured.parts]
    rows = answer(vlm, parts, scores, asking, evaluation, batch_size, progress)
    found = _answers(vlm, measured, rows, normalised)
    for_fit = _answers(vlm, fitted, rows, normalised) if fitted else None
    named = {"base": files.told(base), "adapter": files.told(adapter) if adapter else None}
    stated = {**named, "weights": weights, **settings}
    if vlm.trained_on is not None:
        stated["trained_on"] = vlm.trained_on["fingerprint"]
    report = _report(found, vlm.task.options, asking.mode) | {"calibration": _calibration(found, for_fit, why)}
    figures = stated | {"normalised": normalised, "batch_size": batch_size} | report
    inputs = {"models": _models(base, adapter, weights), "base": {"name": named["base"], "weights": weights["base"]}}
    return results_of(data, split, str(adapter or base), {"vlm": figures, "inputs": inputs}, begun(scores))


def vlm_summary(report: Mapping[str, Any]) -> str:
    """The classes of a VLM's section of results.json as a table, then what could not be read, then the calibration."""
    lines = [classes_table(report), ""]
    if report["unreadable"]["k"]:
        lines.append(f"{report['unreadable']['k']} of {report['n']} answers name no class and count as wrong.")
    if report["not_scored"]:
        lines.append(f"{len(report['not_scored'])} images could not be read and are not in n:")
        lines += [f"  {one['source']}: {one['reason']}" for one in report["not_scored"]]
    of = report["calibration"]
    if "temperature" in of:
        lines.append(
            f"Calibration error {of['error']:.1%}; {of['error_with_temperature']:.1%} with the temperature "
            f"{of['temperature']:.2f}, fitted on {of['fitted_on']['n']} images of {of['fitted_on']['split']}."
        )
    else:
        lines.append(f"No temperature was fitted: {of['why']}.")
    return "\n".join(lines)


def write_comparison(out: Path, results: Mapping[str, Any], beside: Path | None = None) -> None:
    """The picture of one results.json of a VLM class by class, beside another one's; they must be of one split."""
    both = [results]
    if beside is not None:
        both.insert(0, files.read_json(beside))
        places = [[one["data"][key] for key in ("fingerprint", "split")] for one in both]
        if "vlm" not in both[0] or places[0] != places[1]:
            raise DataError(f"{beside} is not of a VLM on the same split; measure both with 'hf-inspect eval vlm'.")
    titles = [vlm_title(one["vlm"]) for one in both]
    if len(set(titles)) < len(titles):
        raise DataError(f"Both results are {titles[0]}; draw results that differ in adapter, crops or mode.")
    classes_plot(out, {title: one["vlm"] for title, one in zip(titles, both, strict=True)})


def _models(base: str, adapter: Path | None, weights: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that were measured, by name: the adapter's, or a whole model's; a repository has none."""
    folder = Path(base_folder(base))
    if adapter is not None:
        return files.weights(adapter)
    names = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    return dict(zip(names, weights["base"], strict=True)) if names else {}


def _load(
    base: str, adapter: Path | None, data: Path, asking: Asking, questions: Path | None
) -> tuple[VLM, Questions | None]:
    """The model, and the data set's questions where they are needed or there are any."""
    asked, direct = None, None
    try:
        asked = questions_of(data, questions)
    except DataError:
        if adapter is None or questions is not None:
            raise
    if asked and (adapter is None or questions is not None):
        direct = asked.task()
    vlm = VLM.from_pretrained(base, adapter, task=direct)
    if asking.imgsz is not None:
        families.set_side(vlm.processor, vlm.model.config, asking.imgsz)
        if adapter is not None:
            parity.check_prompt(adapter, vlm.processor, vlm.task)
    return vlm, asked


def _split(data: Path, name: str, task: prompts.Task, asked: Questions | None) -> _Split:
    """A split's images with their classes: of the questions' column, or for two other options good and defect."""
    rows = load_split(data, name)
    if asked is not None and set(asked.classes) == set(task.options):
        names = list(asked.classes)
        labels = [task.options.index(names[i]) for i in answers_of(rows, asked)]
    elif len(task.options) == len(LABELS):
        labels = list(rows["label"])
    else:
        raise DataError(
            f"The question's options are {', '.join(task.options)}, which are not the data set's classes; give the "
            "questions the adapter was trained on as --questions."
        )
    parts = [Part(name, i, one["path"], one["bytes"]) for i, one in enumerate(rows["image"])]
    return _Split(name, parts, labels)


def _reads(part: Part) -> bool:
    try:
        return bool(images.load(part.content))
    except DataError:
        return False


def _no_temperature(counts: Mapping[str, Any], split: str, asking: Asking) -> str | None:
    """Why no temperature can be fitted, None where it can."""
    if asking.mode != "rank":
        return "generated answers carry no probability"
    if split == VALIDATION:
        return "the split measured is the one it would be fitted on"
    return None if VALIDATION in counts else "this config has no validation split"


def _answers(vlm: VLM, split: _Split, rows: Sequence[Row], normalised: bool) -> _Answers:
    """The answers of one split's rows; DataError when none of its images could be read."""
    own = [row for row in rows if row["split"] == split.name]
    read = [row for row in own if "error" not in row]
    if not read:
        raise DataError(f"None of the {len(own)} images of {split.name} could be read; build the data set again.")
    if "answer" in read[0]:
        said, p = np.array([_class_of(vlm.task, row["answer"]) for row in read]), np.empty((len(read), 0))
    else:
        p = vlm.probabilities(np.array([row["log_p"] for row in read]), normalised)
        said = np.where(p[:, 1] >= 0.5, 1, 0) if p.shape[1] == 2 else p.argmax(1)
    return _Answers(
        labels=np.array([split.labels[row["index"]] for row in read], np.int64),
        said=said,
        p=p,
        ms=float(np.mean([row["ms"] for row in read])),
        not_scored=[{"source": row["source"], "reason": row["error"]} for row in own if "error" in row],
    )


def _class_of(task: prompts.Task, text: str) -> int:
    try:
        return prompts.parse(task, text)
    except ParseError:
        return metrics.UNREADABLE


def _report(found: _Answers, options: Sequence[str], mode: str) -> dict[str, Any]:
    """Figures of the classes; for two, escapes and overkill as well, an unreadable answer counting as the wrong one."""
    report = metrics.class_report(found.labels, found.said, options)
    report |= {"ms_per_image": found.ms, "not_scored": found.not_scored}
    if len(options) != len(LABELS):
        return report
    defect = options.index(LABELS[1]) if LABELS[1] in options else 1
    labels = (found.labels == defect).astype(int)
    if mode == "rank":
        p = found.p[:, defect]
        return report | metrics.binary_report(labels, p, 0.5) | {"reliability": metrics.reliability(labels, p)}
    right = found.said == found.labels
    return report | metrics.decision_report(labels, np.where(right, labels, 1 - labels))


def _calibration(found: _Answers, fitted: _Answers | None, why: str | None) -> dict[str, Any]:
    """Expected calibration error of the likeliest class in [0, 1], before and after a temperature; or why not."""
    if not found.p.size:
        return {"why": why}
    before = {"n": len(found.labels), "error": _calibration_error(found.p, found.labels), "bins": 10}
    if fitted is None:
        return before | {"why": why}
    t = metrics.fit_temperature(fitted.p, fitted.labels)
    return before | {
        "temperature": t,
        "error_with_temperature": _calibration_error(metrics.with_temperature(found.p, t), found.labels),
        "fitted_on": {"split": VALIDATION, "n": len(fitted.labels), "not_scored": fitted.not_scored},
    }


def _calibration_error(p: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return metrics.reliability(p.argmax(1) == labels, p.max(1).clip(0, 1))["calibration_error"]

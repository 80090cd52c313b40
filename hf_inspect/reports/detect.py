"""A model that finds things + a split it has not seen -> results.json, its table, and its worst images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect import data as sets
from hf_inspect import files, hub, images
from hf_inspect.data import sheet
from hf_inspect.data.card import cell
from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.metrics.findings import TITLES, Compared, Shown, Thing, finding_report
from hf_inspect.metrics.intervals import undefined
from hf_inspect.metrics.labels import Labels, Naming, without_unmatched
from hf_inspect.metrics.matches import Matches, best_threshold, errors, told_report
from hf_inspect.reports import timing
from hf_inspect.reports.evaluate import VALIDATION, model_report, model_speed, threshold_of
from hf_inspect.reports.heading import results_of
from hf_inspect.runtime import INSPECT, Engine
from hf_inspect.schema import SEGMENTATION, Finding, Predictor, Progress, TaskSpec, no_progress
from hf_inspect.scoring import Scores, run
from hf_inspect.tasks.detection import Decoding, drawn
from hf_inspect.tasks.heat import png_of

WORST = 8  # images on the sheet
_SIDE = 320  # pixels of each there
_NAME = "detection"
_COLUMNS = ["objects", "width", "height"]
_EXACT = Naming()


@dataclass(frozen=True, slots=True)
class Beside:
    """An image with what is there and what was found, from the score `told` on, and how many of these are wrong."""

    task: TaskSpec
    rgb: Rgb
    there: tuple[Finding, ...]
    found: tuple[Finding, ...]
    told: float
    source: str
    wrong: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The answers of a model that finds things, its section of results.json, and its worst images.

    `compared` is what the figures are of, and `labels` which classes there the labels are of that the model said.
    """

    answered: Scores
    report: dict[str, Any]
    worst: list[Beside]
    compared: Compared
    labels: Labels


def evaluate_detect(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> tuple[dict[str, Any], list[Beside]]:
    """results.json of a model that finds things, and the images of the split where it errs most.

    Every answer goes to `scores`, which a killed run goes on from. The threshold of the best F1 is fitted on the
    validation split of the same config, whose answers lie beside them.
    """
    found = hub.resolve(folder)
    model = finder_of(found)
    made = finder_report(model, data, split, scores, progress)
    figures = {_NAME: made.report, "inputs": {"models": files.weights(Path(found))}}
    return results_of(data, split, str(folder), figures, made.answered) | {"task": model.task.to_dict()}, made.worst


def finder_of(folder: Path) -> Predictor:
    """The model of a folder that finds things, exported or not; DataError for one that answers otherwise."""
    if not (folder / INSPECT).is_file():
        from hf_inspect.detectors import Detector

        return Detector.from_pretrained(folder)
    model = Engine.from_pretrained(folder)
    if not model.task.finds:
        raise DataError(f"{folder} finds nothing in an image, it is of {model.task}; run 'hf-inspect eval edge'.")
    return model


def finder_report(
    model: Predictor,
    data: Path,
    split: str,
    scores: Path,
    progress: Progress = no_progress,
    naming: Naming = _EXACT,
) -> Measured:
    """Measure a model that finds things, whose labels are taken as `naming` says; one of no class is never right.

    DataError where the data have no objects, or theirs are of other classes; LeakageError as `scoring.run`.
    """
    objects = sets.read_objects(data)
    replace(objects, kind=model.task.kind).refuse_other(model.task, f"What {data.name} shows", "the model")
    place = "/".join(sets.place_of(sets.read_head(data), split))
    answered = run({_NAME: model}, data, place, scores, progress=progress)
    masks = model.task.kind == objects.kind == SEGMENTATION
    labels = naming.of(model.task, _labels_said(answered))
    compared = Compared.of(map(labels.taken, images_of(answered, data, place)), labels.compared, masks=masks)
    threshold, why = _threshold(model, data, place, scores, progress, naming)
    matches, of = Matches.of(compared), answered.groups
    told = told_report(matches, threshold, of)
    report = model_report(answered, _NAME, model, threshold_of(model.task)) | finding_report(compared, of)
    report |= {"told": told | why, "speed": model_speed(model, answered, data, place)}
    for name, one in told["classes"].items():
        report["classes"][name] |= one
    if model.task.kind == SEGMENTATION:
        report["masks"] = _of_masks(compared, threshold, of) if masks else _without_masks(report["objects"])
    worst = _worst(answered, data, place, threshold, errors(matches, threshold))
    return Measured(answered, without_unmatched(report), worst, compared, labels)


def images_of(answered: Scores, data: Path, place: str) -> Iterator[Shown]:
    """Of every image of a split that could be read, what is there and what was found, by its label as said."""
    names = sets.read_objects(data).classes
    rows = (row for batch in sets.stream(data, place, _COLUMNS) for row in batch)
    for row, said in zip(rows, answered.rows(), strict=True):
        if "error" not in said:
            found = map(Finding.from_dict, said[_NAME].get("findings", ()))
            yield Shown(row["height"], row["width"], sets.things_of(row["objects"], names), tuple(found))


def detect_table(results: Mapping[str, Any]) -> str:
    """A row for all classes and one a class: figures of the boxes, and of the masks where there are, with intervals."""
    report, titles = results[_NAME], TITLES
    masks = "classes" in report.get("masks", {})
    head = ["", "objects", *titles.values(), *(["mask mAP", "mask AP50"] if masks else [])]
    lines = [head, ["---"] * len(head)]
    for name in ("", *report["classes"]):
        own = _of_class(report, name)
        cells = [said_figure(own[key]) for key in titles]
        cells += [said_figure(_of_class(report["masks"], name)[key]) for key in ("map", "ap50")] if masks else []
        lines.append([cell(name) if name else "all", str(own["objects"]), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def told_lines(results: Mapping[str, Any]) -> str:
    """What is right from the threshold on, and what was missed, in lines for the terminal."""
    told = results[_NAME]["told"]
    right, met = (f"{told[key]['k']} of {told[key]['n']}" for key in ("precision", "recall"))
    counts = told["confusion"]["counts"]
    return (
        f"From a score of {told['threshold']:.3f} on ({told['why']}): F1 {said_figure(told['f1'])}, "
        f"precision {said_figure(told['precision'])}, recall {said_figure(told['recall'])}.\n"
        f"{right} findings are right, {met} objects are met; {sum(counts[-1])} findings are of nothing there. "
        f"{told['over']['k']} of {told['over']['n']} images have more findings than objects, "
        f"{told['under']['k']} have fewer."
    )


def said_figure(found: Mapping[str, Any]) -> str:
    """A figure with its interval, or why it is undefined."""
    if found["value"] is None:
        return str(found["method"])
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def write_findings(out: Path, shown: Sequence[Beside]) -> None:
    """Each image with what is there beside itself with what was found, as one PNG."""
    pairs = []
    for one in shown:
        there, found = (png_of(drawn(one.rgb, of, one.task, one.told)) for of in (one.there, one.found))
        told = sum(finding.score >= one.told for finding in one.found)
        pairs.append(
            (there, f"there: {len(one.there)}, {one.source}", found, f"found: {told}, wrong or missed: {one.wrong}")
        )
    sheet.of_pairs(pairs, out, columns=2, side=_SIDE)


def _labels_said(answered: Scores) -> Iterator[str]:
    """The labels of all findings of all images, as they were said."""
    for row in answered.rows():
        yield from (one["class"] for one in row.get(_NAME, {}).get("findings", ()))


def _threshold(
    model: Predictor, data: Path, place: str, scores: Path, progress: Progress, naming: Naming
) -> tuple[float, dict[str, str]]:
    """The score from which on findings are told of, and why this one."""
    config, _, split = place.rpartition("/")
    if split == VALIDATION or VALIDATION not in sets.read_head(data)["counts"][config]:
        why = "not fitted: " + ("it would be on this split" if split == VALIDATION else "there is no validation split")
        return Decoding().told, {"why": why}
    beside, own = scores.with_name(f"{scores.stem}.{VALIDATION}{scores.suffix}"), f"{config}/{VALIDATION}"
    answered = run({_NAME: model}, data, own, beside, fitting=True, progress=progress)
    labels = naming.of(model.task, _labels_said(answered))
    taken = map(labels.taken, images_of(answered, data, own))
    fitted = best_threshold(Matches.of(Compared.of(taken, labels.compared)))
    if fitted is None:
        return Decoding().told, {"why": f"not fitted: no finding on {VALIDATION} is right"}
    return fitted, {"why": f"the best F1 on {len(answered.classes)} images of {VALIDATION}"}


def _of_masks(compared: Compared, threshold: float, groups: Any) -> dict[str, Any]:
    """The figures by masks, and the mean IoU of those of the findings that are right."""
    told = told_report(Matches.of(compared, masks=True), threshold, groups)
    return finding_report(compared, groups, masks=True) | {"iou": told["iou"]}


def _without_masks(n: int) -> dict[str, Any]:
    return {key: undefined(n, "the data have no masks") for key in (*TITLES, "iou")}


def _worst(answered: Scores, data: Path, place: str, threshold: float, wrong: Any) -> list[Beside]:
    """The images with most errors: one further look at them."""
    order = np.argsort(-wrong, kind="stable")[:WORST].tolist()
    reading = sets.read_reading(data)
    chosen = dict(zip(order, timing.contents(data, place, answered.numbers[order].tolist()), strict=True))
    shown = {i: one for i, one in enumerate(images_of(answered, data, place)) if i in chosen}
    sources = [row["source"] for row in answered.rows() if "error" not in row]
    task = sets.read_objects(data)
    return [
        Beside(
            task,
            images.load(content, reading).rgb,
            tuple(as_finding(thing, shown[i]) for thing in shown[i].things),
            shown[i].findings,
            threshold,
            sources[i],
            int(wrong[i]),
        )
        for i, content in chosen.items()
    ]


def as_finding(thing: Thing, image: Shown) -> Finding:
    """A thing as a model that is sure of it would have found it."""
    sure = Finding(thing.name, 1.0, thing.box)
    if not thing.polygons:
        return sure
    from faster_coco_eval.core import mask

    polygons = [list(one) for one in thing.polygons]
    whole = mask.decode(mask.merge(mask.frPyObjects(polygons, image.height, image.width)))
    (top, left), (height, width) = sure.corner, sure.extent
    return replace(sure, mask=whole[top : top + height, left : left + width] > 0)


def _of_class(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return report["classes"][name] if name else report

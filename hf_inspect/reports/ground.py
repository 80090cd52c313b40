"""A VLM that says what is where + a split it has not seen -> results.json: its findings by COCO's rules, by class and
by group of classes, which labels were taken for what, and which answers broke off; and the same as plain numbers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect import data as sets
from hf_inspect import files
from hf_inspect.data.card import cell
from hf_inspect.metrics import rate_of
from hf_inspect.metrics.findings import TITLES, Compared, finding_report
from hf_inspect.metrics.labels import EXACT, SEMANTIC, SIMILAR, Labels, Naming, top, without_unmatched
from hf_inspect.metrics.matches import Matches, told_report
from hf_inspect.reports.asked import Asked
from hf_inspect.reports.detect import Measured, finder_report, images_of, said_figure
from hf_inspect.reports.heading import results_of
from hf_inspect.reports.sentences import PACKAGED, Sentences
from hf_inspect.schema import Progress, no_progress
from hf_inspect.scoring import Row, Scores

SECTION = "detection"  # of results.json: the same as of any model that finds things
_BREAKS_OFF = "breaks off"  # what notes and reasons say of an answer that ended before its end
_LISTED = 10  # labels that the terminal names
_IOUS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
_PLAIN = {"map": "mAP", "ap50": "AP@0.5", "ap75": "AP@0.75", "mar": "mAR"}


@dataclass(frozen=True, slots=True)
class Grounded:
    """What an evaluation gave: results.json, and what it was measured from, on the split `place` of `data`."""

    results: dict[str, Any]
    measured: Measured
    data: Path
    place: str

    def coco(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What is there as a COCO file, and what was found as COCO results: pycocotools gives the same figures of both.

        A finding has its `label` as it was said; one of no class is of a category of which nothing is there.
        """
        labels, there = self.measured.labels, self.measured.compared.there
        numbers = {name: i for i, name in enumerate(labels.compared.classes, 1)}
        found: list[dict[str, Any]] = []
        for number, image in enumerate(images_of(self.measured.answered, self.data, self.place), 1):
            for said, one in zip(image.findings, labels.taken(image).findings, strict=True):
                x0, y0, x1, y1 = one.box
                entry = {"image_id": number, "category_id": numbers[one.name], "bbox": [x0, y0, x1 - x0, y1 - y0]}
                entry |= {"score": one.score, "label": said.name}
                found.append(entry | ({"description": said.description} if said.description else {}))
        named = zip(there["images"], self.measured.answered.sources, strict=True)
        return there | {"images": [image | {"file_name": name} for image, name in named]}, found


def naming_of(match: str, threshold: float, embedder: str | None = None) -> tuple[Naming, dict[str, Any]]:
    """How labels are taken, and what results.json says of it; `embedder` is of `SEMANTIC` alone (`Sentences`)."""
    if match != SEMANTIC:
        return Naming(match, threshold), {"match": match}
    sentences = Sentences.from_pretrained(embedder or PACKAGED)
    return Naming(match, threshold, sentences), {"match": match, "threshold": threshold, **sentences.to_dict()}


def evaluate_ground(
    asked: Asked,
    data: Path,
    split: str,
    scores: Path,
    *,
    match: str = EXACT,
    threshold: float = SIMILAR,
    embedder: str | None = None,
    progress: Progress = no_progress,
) -> Grounded:
    """Measure what a model finds and calls in its own words; `match`, `threshold` and `embedder` as in `naming_of`.

    Answers go to `scores` as they were said, so that they may be measured again by another match. The threshold of the
    best F1 is fitted on the validation split of the same config. LeakageError and DataError as `finder_report`.
    """
    naming, how = naming_of(match, threshold, embedder)
    made = finder_report(asked.model, data, split, scores, progress, naming)
    place = "/".join(sets.place_of(sets.read_head(data), split))
    report = {**asked.stated, **made.report, "labels": how | _labels(made), "answers": _answers(made.answered)}
    if not asked.timed:
        del report["speed"]
    if groups := _groups(made, data, place):
        report["groups"] = groups
    figures = {SECTION: report, "inputs": {"models": dict(asked.weights)}}
    results = results_of(data, split, asked.name, figures, made.answered) | {"task": asked.model.task.to_dict()}
    return Grounded(results, made, data, place)


def plain_report(grounded: Grounded, responses: str) -> dict[str, Any]:
    """The figures as plain numbers: of what, over all, by category, and by group where classes are in groups.

    `responses` names the file of what was said.
    """
    report = grounded.results[SECTION]
    said = grounded.measured.answered.rows()
    return {
        "evaluation_info": {
            "responses_file": responses,
            "total_samples": report["n"],
            "total_gt_objects": report["objects"],
            "total_pred_objects": sum(len(row.get(SECTION, {}).get("findings", ())) for row in said),
            "iou_thresholds": _IOUS,
            "semantic_threshold": report["labels"].get("threshold"),
        },
        "overall_metrics": _plain(report),
        "category_metrics": {name: _plain(one) for name, one in report["classes"].items()},
        **({"group_metrics": {k: _plain(one) for k, one in report["groups"].items()}} if "groups" in report else {}),
    }


def write_coco(grounded: Grounded, out: Path) -> Path:
    """Write what was found as COCO results to `out`, and what is there beside it; returns the path of that."""
    there, found = grounded.coco()
    files.write_json(out, found)
    beside = truth_of(out)
    files.write_json(beside, there)
    return beside


def truth_of(responses: Path) -> Path:
    """The file beside one of responses that says what is there."""
    return responses.with_suffix(".truth.json")


def ground_lines(results: Mapping[str, Any]) -> str:
    """Which labels were taken for what, which answers were no whole ones, and each group of classes, for a terminal."""
    report = results[SECTION]
    labels, answers = report["labels"], report["answers"]
    none, listed = labels["of_no_class"], labels["unmatched"]
    lines = [f"{none['k']} of {none['n']} findings have a label of no class, by {_match(labels)}; they count as wrong."]
    lines += [f"  {one['n']} x {one['label']}{_near(one)}" for one in listed[:_LISTED]]
    lines += [f"  and {len(listed) - _LISTED} further labels"] if len(listed) > _LISTED else []
    lines += [f"  {one['n']} x {one['label']} is {one['class']}{_near(one)}" for one in labels["renamed"][:_LISTED]]
    lines.append(
        f"{report['unreadable']['k']} of {report['n']} answers could not be read, {answers['cut_off']['k']} broke off."
    )
    lines += [f"  {n} x {note}" for note, n in answers["notes"].items()]
    if "groups" in report:
        head = ["group", "objects", *TITLES.values()]
        rows = [[cell(name), str(one["objects"]), *_cells(one)] for name, one in report["groups"].items()]
        lines += ["", *("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])]
    return "\n".join(lines)


def _labels(made: Measured) -> dict[str, Any]:
    """The share of findings whose label is of no class, and both lists of labels."""
    readable = [row for row in made.answered.rows() if "error" not in row]
    said = [(name, group) for row, group in zip(readable, made.answered.groups.tolist(), strict=True)
            for name in _names(row)]  # fmt: skip
    strange = np.array([made.labels.said[name] is None for name, _ in said], np.bool_)
    return {
        "of_no_class": rate_of(strange, np.array([group for _, group in said], np.int64)),
        **made.labels.counted(name for name, _ in said),
    }


def _names(row: Row) -> Iterator[str]:
    yield from (one["class"] for one in row[SECTION].get("findings", ()))


def _answers(answered: Scores) -> dict[str, Any]:
    """The share of answers that break off, and how often each note was made, whatever its numbers."""
    told = [row[SECTION] for row in answered.rows() if "error" not in row]
    cut = [any(_BREAKS_OFF in one for one in (*row.get("notes", ()), row.get("unreadable", ""))) for row in told]
    notes = Counter(re.sub(r"\d+", "N", note) for row in told for note in row.get("notes", ()))
    return {"cut_off": rate_of(np.array(cut, np.bool_), answered.groups), "notes": dict(notes.most_common())}


def _groups(made: Measured, data: Path, place: str) -> dict[str, Any] | None:
    """Figures of the groups of classes, each taken for one class; None where every class is its own group."""
    classes = made.labels.task.classes
    if all(top(name) == name for name in classes):
        return None
    labels: Labels = made.labels.grouped()
    compared = Compared.of(map(labels.taken, images_of(made.answered, data, place)), labels.compared)
    told = told_report(Matches.of(compared), made.report["told"]["threshold"], made.answered.groups)
    found = without_unmatched(finding_report(compared, made.answered.groups) | {"told": told})
    members = {name: [own for own in classes if top(own) == name] for name in found["classes"]}
    return {
        name: {"classes": members[name], **one, **found["told"]["classes"][name]}
        for name, one in found["classes"].items()
    }


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    own = {title: None if figures[key]["value"] is None else float(figures[key]["value"])
           for key, title in _PLAIN.items()}  # fmt: skip
    return own | {"gt_objects": figures["objects"]}


def _match(labels: Mapping[str, Any]) -> str:
    return f"{labels['match']} match" + (f" from {labels['threshold']:g} on" if "threshold" in labels else "")


def _near(entry: Mapping[str, Any]) -> str:
    return f" (nearest: {entry['nearest']}, {entry['cosine']:.2f})" if "nearest" in entry else ""


def _cells(figures: Mapping[str, Any]) -> list[str]:
    return [said_figure(figures[key]) for key in TITLES]

"""Uploads -> verdicts, and verdicts and what-if as the HTML and CSV that a visitor of a web page sees.

Nothing here names a path of the server, and nothing is kept.
"""

import csv
import io
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect import hub, images
from hf_inspect.cascade import (
    ASK,
    CALIBRATION,
    IS_DEFECT,
    IS_GOOD,
    CalibrationScores,
    Certified,
    Composite,
    WhatIf,
)
from hf_inspect.errors import DataError, InspectError
from hf_inspect.inspector import Inspector
from hf_inspect.metrics import Rate
from hf_inspect.reports.plots import MODELS, what_if_plot
from hf_inspect.schema import Finding, TaskSpec, Verdict
from hf_inspect.scoring import read_rows
from hf_inspect.tasks.heat import png_of

MAX_FILES = 32  # of one upload
MAX_BYTES, MAX_BYTES_AT_ONCE = 20_000_000, 100_000_000  # of one file, and of all in one upload
MAX_PIXELS, MAX_PIXELS_AT_ONCE = 25_000_000, 200_000_000  # of one image, 75 MB decoded, and of all: seconds to decode
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP", "AVIF")  # PPM and JPEG 2000 take seconds an image
LIMITS = (
    f"Up to {MAX_FILES} images, {MAX_BYTES // 10**6} MB each, {MAX_BYTES_AT_ONCE // 10**6} MB and "
    f"{MAX_PIXELS_AT_ONCE // 10**6} million pixels together."
)
NO_VLM = "the VLM could not be loaded here"
DECIDED = {
    "edge": "decided by the edge model",
    "vlm": "decided by the VLM",
    "both": "decided by edge model and VLM together",
    "rule": "nobody may decide: a person looks",
}
MOST = "only what the edge alone is surest of"  # more than may be were lost to its early verdicts
COLUMNS = (
    "file", "verdict", "class", "P(class)", "P(defect)", "decided by", "reason", "P edge", "P VLM", "ms", "notes",
)  # fmt: skip
P_DEFECT, SEVERITY = "P(defect)", "severity"  # the second of a model whose answer is no probability
SIDE = 640  # pixels of the longer side of an image with its map over it
# What a spreadsheet takes for the beginning of a formula; the last four are as wide as a Chinese letter.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def open_cascade(cascade: str | Path) -> tuple[Inspector, CalibrationScores]:
    """The cascade of a folder or a repository under its `certified` policy, and the scores that set its limits.

    Where its VLM cannot be loaded, what the edge alone does not settle is undecided; why is printed, and every verdict
    that lacks an answer says so.
    """
    folder = hub.cascade_folder(cascade)
    scores = CalibrationScores.from_rows(read_rows(folder / CALIBRATION))
    try:
        return Inspector.from_pretrained(folder, policy=Certified.name, max_pixels=MAX_PIXELS), scores
    except (InspectError, ImportError, OSError) as error:
        alone = Inspector.from_pretrained(folder, policy=Certified.name, max_pixels=MAX_PIXELS, use_vlm=False)
        print(f"{NO_VLM}: {error}", file=sys.stderr)
        return replace(alone, no_vlm=NO_VLM), scores


def how_decided(policy: Certified, no_vlm: str = "") -> str:
    """A part's way to its verdict, in Markdown; `no_vlm` says why no VLM answers, if none does."""
    end = "What lies between the promise's limits nobody decides: a person looks."
    if policy.composite.vlm is None:
        return f"A small edge model looks, and this cascade asks no other. {end}"
    second = "Where it is not sure enough, a vision-language model (VLM) looks too, and both decide together."
    lacks = f" **No VLM answers here ({no_vlm}): where it would be asked, the part is undecided.**" if no_vlm else ""
    return f"A small edge model looks first. {second}{lacks} {end}"


def read_uploads(paths: Sequence[Path]) -> list[bytes]:
    """The content of each uploaded file; DataError for more than a page takes at once, or one that was deleted."""
    if len(paths) > MAX_FILES:
        raise DataError(f"{len(paths)} files came; this page takes up to {MAX_FILES} at once. Send fewer.")
    try:
        if (size := sum(path.stat().st_size for path in paths)) > MAX_BYTES_AT_ONCE:
            raise DataError(f"{_mega(size)} MB came; this page takes {_mega(MAX_BYTES_AT_ONCE)} at once. Send fewer.")
        return [path.read_bytes() for path in paths]
    except FileNotFoundError:
        raise DataError("what you sent was deleted before its turn came; send it again.") from None


def inspect_uploads(inspector: Inspector, contents: Sequence[bytes]) -> list[Verdict]:
    """The verdict of each uploaded file, in order; a file beyond the limits is `unreadable`.

    DataError for more pixels than a page takes at once.
    """
    headers = [images.header(content) for content in contents]
    refused = {i: why for i, content in enumerate(contents) if (why := _beyond_limits(content, *headers[i]))}
    pixels = sum(width * height for i, (_, width, height) in enumerate(headers) if i not in refused)
    if pixels > MAX_PIXELS_AT_ONCE:
        said = f"{len(contents)} images of {_mega(pixels)} million pixels came; this page takes"
        raise DataError(f"{said} {_mega(MAX_PIXELS_AT_ONCE)} million at once. Send fewer, or scale them down.")
    judged = inspector.inspect([content for i, content in enumerate(contents) if i not in refused])
    return [Verdict("unreadable", "rule", refused[i]) if i in refused else next(judged) for i in range(len(contents))]


def verdict_html(verdict: Verdict, policy: Certified) -> str:
    """One part's way through the cascade: the final verdict, then what edge, VLM and both together say."""
    if verdict.label == "unreadable":
        steps = {"The file": verdict.reason}
    else:
        steps = _steps(verdict, policy) | ({"The file": "; ".join(verdict.notes)} if verdict.notes else {})
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in steps.items())
    return f'<div class="verdict {verdict.label}" role="status"><p>{_final(verdict)}</p><dl>{listed}</dl></div>'


def heat_html(inspector: Inspector, content: bytes, verdict: Verdict) -> str:
    """The image with what was found, or the edge's map, over it, and what the VLM says of each thing.

    Empty where nobody says where.
    """
    shown = None if verdict.label == "unreadable" else inspector.shown(content, verdict, SIDE)
    if shown is None:
        return ""
    said, by = "Where the edge model finds it unlike the good parts: the redder, the more", verdict.finder
    if by is not None:
        whose = {"edge": "edge model", "vlm": "VLM"}[by]
        said = f"What the {whose} finds, from a score of {inspector.told_of(by):.2f} on"
    url = f"data:image/png;base64,{_base64(png_of(shown))}"
    picture = f'<img alt="{said}" src="{url}">'
    told = _told_html(verdict.evidence[by].findings or (), inspector.told_of(by)) if by is not None else ""
    return f'<figure class="heat">{picture}<figcaption>{said}.{told}</figcaption></figure>'


def _told_html(findings: Sequence[Finding], told: float) -> str:
    """What a model says of the things that it describes, as a list; empty where it describes none."""
    own = [one for one in findings if one.score >= told and one.description]
    listed = "".join(f"<li>{escape(one.name)} {one.score:.2f}: {escape(one.description)}</li>" for one in own)
    return f"<ul>{listed}</ul>" if listed else ""


def columns_of(task: TaskSpec) -> list[str]:
    """The heads of a table of verdicts: COLUMNS, in which the edge's severity is no P(defect) where it is none."""
    if task.score.kind == "probability" if task.score else not task.finds:
        return list(COLUMNS)
    own = {P_DEFECT: SEVERITY, "P edge": "severity edge"}
    return [own.get(name, name) for name in COLUMNS]


def what_if_html(found: WhatIf, scores: CalibrationScores, verdict: Verdict | None) -> tuple[str, str]:
    """What another promise does, as sentences with a table and as a plot; `verdict` is that of this image."""
    alone = found.undecided_alone
    rows = [
        ("Undecided", found.undecided, "of all parts: a person looks"),
        *((f"Undecided by the {MODELS[name]} alone", one, "of all parts, same promise") for name, one in alone.items()),
        ("Asked of the VLM", found.asked, "of all parts"),
        ("Escapes", found.escapes, "of the defects are called good"),
        ("Overkill", found.overkill, "of the good parts are called defects"),
    ]
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{_rate(one)}</td><td>{of}</td></tr>" for name, one, of in rows)
    table = f"<table><caption>On the calibration parts that set the limits</caption>{body}</table>"
    answers = _answers(verdict)
    said = f"{_wanted(found.policy)} {_placed(found.policy, answers)}".strip()
    score = nan if answers is None else _score(found.policy.composite, answers)
    return f"<p>{said}</p>{table}", _image(what_if_plot(scores, found, None if isnan(score) else score), said)


def table_of(names: Sequence[str], verdicts: Sequence[Verdict]) -> list[list[Any]]:
    """One row of COLUMNS a file; P(defect) is that of whoever decided, P edge and P VLM are each model's own."""
    return [
        [
            name, verdict.label, verdict.class_name or "", _round(verdict.p_class), _round(verdict.severity),
            verdict.decided_by, verdict.reason, _round(verdict.severity_of("edge")),
            _round(verdict.severity_of("vlm")), round(sum(verdict.ms.values()), 1), "; ".join(verdict.notes),
        ]
        for name, verdict in zip(names, verdicts, strict=True)
    ]  # fmt: skip


def csv_link(rows: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> str:
    """A link that saves rows of COLUMNS as verdicts.csv; it holds the file, so the server keeps none."""
    content = _base64(csv_of(rows, columns).encode())
    return f'<a download="verdicts.csv" href="data:text/csv;base64,{content}">Save as CSV</a>'


def csv_of(rows: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Rows of COLUMNS as CSV, under the heads `columns`.

    A value that a spreadsheet would run as a formula begins with an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # lines end in \r\n, so that a name with either is quoted
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"'{value}" if str(value).lstrip(" ").startswith(FORMULA) else value for value in row])
    return text.getvalue()


def _beyond_limits(content: bytes, kind: str, width: int, height: int) -> str:
    """Why a file of this format and size is not looked at; empty when it is."""
    if len(content) > MAX_BYTES:
        return f"the file has {len(content) / 1e6:.1f} MB, this page takes {_mega(MAX_BYTES)}; send a smaller one"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels are more than the {_mega(MAX_PIXELS)} million of this page; scale it down"
    if kind and kind not in FORMATS:
        return f"the file is {kind}, which this page does not take; save it as PNG"
    return ""


def _mega(n: int) -> int:
    """Millions, rounded up."""
    return -(-n // 10**6)


def _final(verdict: Verdict) -> str:
    of = P_DEFECT if verdict.decided_by in ("vlm", "both") else _named(verdict)
    p = "" if verdict.severity is None else f", {of} {verdict.severity:.3f}"
    decided = "not an image this page can read" if verdict.label == "unreadable" else DECIDED[verdict.decided_by]
    named = "" if verdict.class_name in (None, verdict.label) else f": {escape(str(verdict.class_name))}"
    sure = f", {verdict.p_class:.2f}" if named and verdict.p_class is not None else ""
    return f"<strong>{verdict.label}</strong>{named}{sure}{p}, {decided}"


def _named(verdict: Verdict) -> str:
    """What the edge's severity is called: P(defect), where the edge gives probabilities."""
    edge = verdict.evidence.get("edge")
    return SEVERITY if edge is not None and edge.probabilities is None else P_DEFECT


def _answers(verdict: Verdict | None) -> tuple[float, float] | None:
    """Severities of edge and VLM, NaN where the VLM was not asked or gave no answer; None without the edge's."""
    edge, vlm = (None, None) if verdict is None else map(verdict.severity_of, ("edge", "vlm"))
    return None if edge is None else (edge, nan if vlm is None else vlm)


def _steps(verdict: Verdict, policy: Certified) -> dict[str, str]:
    """What each step said, in their order."""
    answers = _answers(verdict)
    if answers is None:
        return {"Edge model": verdict.reason}
    edge, vlm = answers
    first = policy.first([edge])
    why, own = str(first.reasons[0]), f"{_named(verdict)} {edge:.3f}"
    took = f"{verdict.ms['edge']:.1f} ms"
    if policy.composite.vlm is None:
        against = _against(policy, answers, why, verdict.label)
        return {"Edge model": f"{own}, {took}", "VLM": "not asked by this cascade", "Against the limits": against}
    steps = {"Edge model": f"{own}, {why} ({_early(policy.composite)}), {took}"}
    if first.codes[0] != ASK:
        return steps | {"VLM": "not asked"}
    if isnan(vlm):
        because = verdict.reason.removeprefix(f"{why}; ").removeprefix("the VLM gave no answer: ")
        return steps | {"VLM": f"no answer: {because}"}
    said = str(policy.second([edge], [vlm]).reasons[0])
    return steps | {
        "VLM": f"{_of_vlm(verdict, policy.composite, vlm)}, {verdict.ms['vlm']:.1f} ms",
        "Both together": _against(policy, answers, said, verdict.label),
    }


def _of_vlm(verdict: Verdict, composite: Composite, severity: float) -> str:
    """What the VLM said in numbers: P(defect), which of one that finds things its severity comes to on validation."""
    if verdict.evidence["vlm"].findings is None or composite.vlm is None:
        return f"{P_DEFECT} {severity:.3f}"
    p = float(composite.vlm.probability(np.array([severity]))[0])
    notes = "".join(f"; {note}" for note in verdict.evidence["vlm"].notes)
    return f"{P_DEFECT} {p:.3f} (of its surest defect's score, {severity:.3f}){notes}"


def _against(policy: Certified, answers: tuple[float, float], why: str, label: str) -> str:
    """Where the composite's score of a part lies."""
    score = _score(policy.composite, answers)
    return f"{_score_name(policy.composite)} {score:.3f}, {why} ({_limits(policy)}): {label}"


def _score(composite: Composite, answers: tuple[float, float]) -> float:
    """The composite's score of one part's answers; NaN where it wants one that lacks."""
    edge, vlm = answers
    return float(composite.scores([edge], [vlm])[0])


def _score_name(composite: Composite) -> str:
    return SEVERITY if composite.edge is None else P_DEFECT


def _early(composite: Composite) -> str:
    """Where the edge decides without the VLM."""
    limits = {"of good below": composite.early_good, "of a defect above": composite.early_defect}
    sure = [f"{where} {limit:.3f}" for where, limit in limits.items() if limit is not None]
    return f"alone it is sure {' and '.join(sure)}" if sure else "the VLM is always asked"


def _limits(policy: Certified) -> str:
    """What the system says where, in the scale of the composite's score."""
    limits, own = policy.limits, policy.composite.edge is None
    low, high = limits.low, limits.high
    good = f"never, as {limits.defects} calibration defects are too few"
    if low is not None:
        good = f"below {low:.3f}" if own else _beyond("below", low) if low >= 0 else MOST
    defect = f"never, as {limits.goods} good calibration parts are too few"
    if high is not None:
        defect = f"above {high:.3f}" if own else _beyond("above", high) if high <= 1 else MOST
    return f"good: {good}; defect: {defect}; undecided: the rest"


def _beyond(where: str, limit: float) -> str:
    """Beyond a limit; one at the other end leaves the fused parts, in (0, 1), all on its side."""
    return f"{where} {limit:.3f}" if 0 <= limit <= 1 else "all but what the edge alone is surest of"


def _wanted(policy: Certified) -> str:
    """What a promise would ask for, and the limits that it takes."""
    promise, by = policy.promise, "the edge model" if policy.composite.vlm is None else "both together"
    return (
        f"For at most {promise.escape:.1%} of the defects called good and {promise.overkill:.1%} of the good parts "
        f"called defects, whoever decides, with confidence {promise.confidence:.0%}, "
        f"{_score_name(policy.composite)} by {by} would say {_limits(policy)}."
    )


def _placed(policy: Certified, answers: tuple[float, float] | None) -> str:
    """What would become of the visitor's part."""
    if answers is None:
        return ""
    edge, vlm = answers
    code = int(policy.first([edge]).codes[0])
    if code == ASK and isnan(vlm):
        return "It would ask the VLM about this image."
    if code == ASK:
        code = int(policy.second([edge], [vlm]).codes[0])
    said = {IS_GOOD: "call this image good", IS_DEFECT: "call this image a defect"}
    return f"It would {said.get(code, 'leave this image undecided')}."


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="Calibration scores by class. {escape(alt)}" src="data:image/png;base64,{_base64(png)}">'


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _rate(found: Rate) -> str:
    if found["value"] is None:
        return "none there"
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%}; {found['k']} of {found['n']})"


def _round(p: float | None) -> float | None:
    return None if p is None else round(p, 4)

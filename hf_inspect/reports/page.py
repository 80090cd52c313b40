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
from pathlib import Path
from typing import Any

from hf_inspect import hub, images
from hf_inspect.cascade import CALIBRATION, IS_DEFECT, IS_GOOD, Calibrated, CalibrationScores, WhatIf
from hf_inspect.errors import DataError, InspectError
from hf_inspect.inspector import Inspector
from hf_inspect.metrics import Rate
from hf_inspect.reports.plots import what_if_plot
from hf_inspect.schema import Verdict
from hf_inspect.scoring import read_rows

MAX_FILES = 32  # of one upload
MAX_BYTES, MAX_BYTES_AT_ONCE = 20_000_000, 100_000_000  # of one file, and of all in one upload
MAX_PIXELS, MAX_PIXELS_AT_ONCE = 25_000_000, 200_000_000  # of one image, 75 MB decoded, and of all: seconds to decode
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP", "AVIF")  # PPM and JPEG 2000 take seconds an image
LIMITS = (
    f"Up to {MAX_FILES} images, {MAX_BYTES // 10**6} MB each, {MAX_BYTES_AT_ONCE // 10**6} MB and "
    f"{MAX_PIXELS_AT_ONCE // 10**6} million pixels together."
)
NO_VLM = "the VLM could not be loaded here"
COLUMNS = (
    "file", "verdict", "class", "P(class)", "P(defect)", "decided by", "reason", "P edge", "P VLM", "ms", "notes",
)  # fmt: skip
# What a spreadsheet takes for the beginning of a formula; the last four are as wide as a Chinese letter.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def open_cascade(cascade: str | Path) -> tuple[Inspector, CalibrationScores]:
    """The cascade of a folder or a repository under its `calibrated` policy, and what its thresholds were set on.

    Where its VLM cannot be loaded the edge decides alone; why is printed, and every verdict that lacks it says so.
    """
    folder = hub.cascade_folder(cascade)
    scores = CalibrationScores.from_rows(read_rows(folder / CALIBRATION))
    try:
        return Inspector.from_pretrained(folder, policy=Calibrated.name, max_pixels=MAX_PIXELS), scores
    except (InspectError, ImportError, OSError) as error:
        alone = Inspector.from_pretrained(folder, policy=Calibrated.name, max_pixels=MAX_PIXELS, use_vlm=False)
        print(f"{NO_VLM}: {error}", file=sys.stderr)
        return replace(alone, no_vlm=NO_VLM), scores


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


def verdict_html(verdict: Verdict, policy: Calibrated) -> str:
    """One part's way through the cascade: the final verdict, then each step with its P(defect) and milliseconds."""
    steps = {"Edge model": _edge_says(verdict, policy), "VLM": _vlm_says(verdict, policy)}
    if verdict.label == "unreadable":
        steps = {"The file": verdict.reason}
    elif verdict.notes:
        steps["The file"] = "; ".join(verdict.notes)
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in steps.items())
    return f'<div class="verdict {verdict.label}" role="status"><p>{_final(verdict)}</p><dl>{listed}</dl></div>'


def what_if_html(found: WhatIf, scores: CalibrationScores, severity: float | None) -> tuple[str, str]:
    """What other thresholds do, as sentences with a table and as a plot; `severity` is the edge's of this part."""
    rows = [
        ("Handed to the VLM", found.escalated, "of all parts"),
        ("Escapes", found.escapes, "of the defects are passed as good"),
        ("Escapes, the edge alone", found.edge_escapes, "of the defects"),
        ("Overkill", found.overkill, "of the good parts are rejected"),
        ("Overkill, the edge alone", found.edge_overkill, "of the good parts"),
    ]
    if found.undecided["k"]:
        rows.append(("Undecided", found.undecided, "of all parts: nobody could say"))
    body = "".join(f"<tr><th scope='row'>{name}</th><td>{_rate(one)}</td><td>{of}</td></tr>" for name, one, of in rows)
    table = f"<table><caption>On the calibration parts that set the thresholds</caption>{body}</table>"
    said = f"With these risks the edge model says: {_limits(found.policy)}. {_placed(found, severity)}"
    return f"<p>{said}</p>{table}", _image(what_if_plot(scores, found, severity), said)


def table_of(names: Sequence[str], verdicts: Sequence[Verdict]) -> list[list[Any]]:
    """One row of COLUMNS a file."""
    return [
        [
            name, verdict.label, verdict.class_name or "", _round(verdict.p_class), _round(verdict.severity),
            verdict.decided_by, verdict.reason, _round(verdict.severity_of("edge")),
            _round(verdict.severity_of("vlm")), round(sum(verdict.ms.values()), 1), "; ".join(verdict.notes),
        ]
        for name, verdict in zip(names, verdicts, strict=True)
    ]  # fmt: skip


def csv_link(rows: Sequence[Sequence[Any]]) -> str:
    """A link that saves rows of COLUMNS as verdicts.csv; it holds the file, so the server keeps none."""
    return f'<a download="verdicts.csv" href="data:text/csv;base64,{_base64(csv_of(rows).encode())}">Save as CSV</a>'


def csv_of(rows: Sequence[Sequence[Any]]) -> str:
    """Rows of COLUMNS as CSV; a value that a spreadsheet would run as a formula begins with an apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # lines end in \r\n, so that a name with either is quoted
    writer.writerow(COLUMNS)
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
    by = {"edge": "decided by the edge model", "vlm": "decided by the VLM", "rule": "nobody could decide"}
    p = "" if verdict.severity is None else f", P(defect) {verdict.severity:.3f}"
    decided = "not an image this page can read" if verdict.label == "unreadable" else by[verdict.decided_by]
    named = "" if verdict.class_name in (None, verdict.label) else f": {escape(str(verdict.class_name))}"
    sure = f", {verdict.p_class:.2f}" if named and verdict.p_class is not None else ""
    return f"<strong>{verdict.label}</strong>{named}{sure}{p}, {decided}"


def _edge_says(verdict: Verdict, policy: Calibrated) -> str:
    severity = verdict.severity_of("edge")
    if severity is None:
        return "not asked"
    reason = "" if verdict.decided_by == "rule" else f", {verdict.reason}"  # a rule's reason stands at the VLM
    then = "decided here" if verdict.decided_by == "edge" else "not decided here"
    return f"P(defect) {severity:.3f}{reason} ({_limits(policy)}): {then}, {verdict.ms['edge']:.1f} ms"


def _vlm_says(verdict: Verdict, policy: Calibrated) -> str:
    severity = verdict.severity_of("vlm")
    if severity is None:
        return f"not asked: {verdict.reason}" if verdict.decided_by == "rule" else "not asked"
    side = "below" if severity < policy.cloud_threshold else "not below"
    threshold = f"{side} {policy.cloud_threshold:g}: {verdict.label}"
    return f"P(defect) {severity:.3f}, {threshold}, {verdict.ms['vlm']:.1f} ms"


def _limits(policy: Calibrated) -> str:
    good = "never says good" if policy.low is None else f"good below {policy.low:.3f}"
    return f"{good}, {'never says defect' if policy.high is None else f'defect above {policy.high:.3f}'}"


def _placed(found: WhatIf, severity: float | None) -> str:
    """What would become of the visitor's part."""
    if severity is None:
        return ""
    code = int(found.policy.route_batch([severity]).codes[0])
    said = {IS_GOOD: "call this image good", IS_DEFECT: "call this image a defect"}
    return f"It would {said.get(code, 'hand this image to the VLM')}."


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

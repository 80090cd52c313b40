"""Paths -> a table of verdicts and a summary; with a file to write to, a run that can be stopped and goes on."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError
from hf_inspect.inspector import Inspector
from hf_inspect.schema import Progress, Verdict, no_progress

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm", ".jp2", ".avif"}
)

_ROW_START = b'{"path": "'


def run(
    cascade: str | Path,
    paths: Sequence[Path],
    out: Path | None = None,
    *,
    show: Callable[[str], None] = lambda line: None,
    progress: Progress = no_progress,
    **settings: Any,
) -> dict[str, dict[str, int]]:
    """Inspect files and folders with a cascade (folder, or org/name); returns the summary.

    `show` gets a line a file, and those of the summary. `settings` go to `Inspector.from_pretrained` (policy, fallback,
    revision, max_pixels).
    """
    found, other = find_images(paths)
    inspector = Inspector.from_pretrained(cascade, **settings)
    rows = []
    for name, row in predict(inspector, found, out):
        rows.append(row)
        progress("inspected", len(rows), len(found))
        show(_line(name, row))
    summary = summarise(rows)
    show(f"{len(rows)} inspected: {_counted(summary['label'])}; decided by {_counted(summary['decided_by'])}")
    for reason, n in summary["reason"].items():
        show(f"  undecided {n}: {reason}")
    if other:
        show(f"  {other} other files in these folders have no image's name and were left out")
    return summary


def find_images(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Files to inspect, each once, and how many other files the folders hold.

    A path that is given is inspected whatever it is called, a missing one too; folders are walked for image names.
    A folder that has an image's name and nothing in it is kept: it stands where an image was meant to be.
    """
    found: dict[Path, None] = {}
    other = 0
    for path in paths:
        if not path.is_dir() or _is_mistaken(path):
            found[path] = None
            continue
        for inside in sorted(path.rglob("*")):
            if inside.suffix.lower() in SUFFIXES and (not inside.is_dir() or _is_mistaken(inside)):
                found[inside] = None
            elif not inside.is_dir():
                other += 1
    return list(found), other


def predict(
    inspector: Inspector,
    paths: Iterable[Path],
    out: Path | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inspect the paths in order, yielding (path, row); a row is a Verdict as plain values.

    With `out`, rows are appended to it as JSON lines and what it already holds is not inspected again: a torn last
    line of a killed run is cut off first. DataError when `out` is of another cascade or another fallback.
    """
    names = [str(path) for path in paths]
    done = {} if out is None else _resume(out, inspector.identity)
    yield from ((name, done[name]) for name in names if name in done)
    waiting = [name for name in names if name not in done]
    yield from _append(out, zip(waiting, inspector.inspect(waiting), strict=True), inspector.identity)


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many rows by label, by who decided, and by the reason of what is undecided or unreadable."""
    rows = list(rows)
    return {
        "label": dict(Counter(row["label"] for row in rows)),
        "decided_by": dict(Counter(row["decided_by"] for row in rows)),
        "reason": dict(Counter(row["reason"] for row in rows if row["label"] == "undecided")),
    }


def _line(name: str, row: dict[str, Any]) -> str:
    named = row["class"] if row["class"] not in (None, row["label"]) else None
    p = row["severity"] if row["p_class"] is None else row["p_class"]
    said = row["label"] + (f": {_plain(named)}" if named else "") + ("" if p is None else f", {p:.3f}")
    notes = f" ({'; '.join(row['notes'])})" if row["notes"] else ""
    return f"{said:17} {row['decided_by']:4}  {name}: {row['reason']}{notes}"


def _plain(name: str) -> str:
    """A class name on one line of a terminal: what would move its cursor is shown as an escape."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing"


def _is_mistaken(folder: Path) -> bool:
    return folder.is_dir() and folder.suffix.lower() in SUFFIXES and not any(folder.iterdir())


def _append(
    out: Path | None, verdicts: Iterable[tuple[str, Verdict]], identity: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    if out is None:
        yield from ((name, verdict.to_dict()) for name, verdict in verdicts)
        return
    with out.open("a", encoding="utf-8") as file:
        for name, verdict in verdicts:
            row = verdict.to_dict()
            file.write(json.dumps({"path": name, "cascade": identity, **row}) + "\n")
            file.flush()
            yield name, row
        os.fsync(file.fileno())


def _resume(out: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Rows that `out` already holds, by path; its torn last line is removed."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        return {}
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    torn = content[len(whole) :]
    if not torn.startswith(_ROW_START[: len(torn)]):
        raise DataError(f"{out} was not written by 'hf-inspect predict'; give another --out.")
    done = {}
    for number, line in enumerate(whole.decode(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            name, of = row.pop("path"), row.pop("cascade")
        except (ValueError, KeyError, AttributeError):
            raise DataError(f"{out}, line {number} is no row of 'hf-inspect predict'; give another --out.") from None
        if of != identity:
            raise DataError(f"{out} was written by {of}, this run is {identity}; give another --out.")
        done[name] = row
    os.truncate(out, len(whole))
    return done

"""Exports of a model in several formats -> size, time, memory and quality of each, as table and picture."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hf_inspect import files
from hf_inspect.data import load_split, read_head
from hf_inspect.data.card import cell
from hf_inspect.errors import DataError
from hf_inspect.reports.evaluate import VALIDATION
from hf_inspect.reports.heading import data_section, environment
from hf_inspect.runtime import INSPECT, TITLES, TRAINED_ON, runtime_of
from hf_inspect.runtime.folder import read_folder
from hf_inspect.runtime.measure import BATCHES
from hf_inspect.schema import Progress, no_progress
from hf_inspect.tasks.canvas import new_figure, png_of

IMAGES = 200  # that are timed
_COLOUR = "#0072B2"
_HEAD = ("", "runs on", "weights", "size", "load", "p50 / p95 of 1", "of 8", "images/s", "peak memory")


def compare_formats(
    folders: Sequence[Path],
    data: Path,
    images: int = IMAGES,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """What exported folders take and are worth, on images of validation, each in a process of its own.

    The quality is what the export was judged by: of the network whose hashes inspect.json states, on the same images.
    DataError for a folder that was judged by other data, or for fewer images than a batch.
    """
    if images < max(BATCHES):
        raise DataError(f"{images} images are to be timed; give {max(BATCHES)} or more.")
    infos = {files.portable_name(folder): _info(folder, data) for folder in folders}
    if len(infos) < len(folders):
        raise DataError("A folder came twice, or two are called alike; give each once.")
    found = {}
    with TemporaryDirectory() as place:
        paths = _images(data, images, Path(place))
        for done, (folder, (name, info)) in enumerate(zip(folders, infos.items(), strict=True)):
            progress("formats", done, len(folders))
            found[name] = _stated(folder, info) | _measured(folder, paths, threads)
    head = {"data": data_section(data, VALIDATION, 0), "environment": environment()}
    return head | {"threads": threads, "formats": found}


def formats_table(results: Mapping[str, Any]) -> str:
    """A row a folder; times in milliseconds from image file to answer, of a call."""
    qualities = list(dict.fromkeys(one["quality"]["name"] for one in results["formats"].values() if one["quality"]))
    lines: list[Sequence[str]] = [(*_HEAD, *qualities), ("---",) * (len(_HEAD) + len(qualities))]
    for name, one in results["formats"].items():
        calls = (one["batches"][str(n)] for n in BATCHES)
        peak = "-" if one["peak_memory"] is None else files.sized(one["peak_memory"])
        of = one["quality"] or {"name": None}
        lines.append(
            (
                cell(name), TITLES[one["runtime"]], one["weights"].upper(), files.sized(one["size"]),
                f"{one['load']:.2f} s", *(f"{call['p50']:.1f} / {call['p95']:.1f} ms" for call in calls),
                f"{one['batches'][str(BATCHES[-1])]['images_per_second']:.1f}", peak,
                *(f"{of['value']:.4f}" if of["name"] == quality else "-" for quality in qualities),
            )
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_formats(results: Mapping[str, Any], out: Path) -> None:
    """Bars of size, time of one image (its p95 as a line), images a second and quality to `out` (PNG)."""
    found = results["formats"]
    names, first, last = list(found), str(BATCHES[0]), str(BATCHES[-1])
    of = next((one["quality"]["name"] for one in found.values() if one["quality"]), "quality")
    bars = {
        "size, MB": [one["size"] / 1e6 for one in found.values()],
        "one image, ms (bar: p50, line: p95)": [one["batches"][first]["p50"] for one in found.values()],
        f"images a second, {last} at once": [one["batches"][last]["images_per_second"] for one in found.values()],
        of: [(one["quality"] or {"value": 0.0})["value"] for one in found.values()],
    }
    figure = new_figure(9.6, 1.8 + 0.6 * len(names))
    for axes, (title, values) in zip(figure.subplots(2, 2).flat, bars.items(), strict=True):
        axes.barh(names, values, color=_COLOUR, height=0.6)
        if "p95" in title:
            beyond = [one["batches"][first]["p95"] - value for one, value in zip(found.values(), values, strict=True)]
            axes.errorbar(values, names, xerr=[np.zeros(len(names)), beyond], fmt="none", color="black", capsize=3)
        axes.set(title=title)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    files.write_bytes(out, png_of(figure))


def _info(folder: Path, data: Path) -> dict[str, Any]:
    """inspect.json of an exported folder that was judged by these data."""
    info, fingerprint = read_folder(folder), read_head(data)["fingerprint"]
    judged = info.get("parity", {}).get("data")
    if judged != fingerprint:
        raise DataError(f"{folder / INSPECT} was judged by other data than {data}; give those of its export.")
    return info


def _stated(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says of itself: what runs it, its weights, the bytes of its network, and its quality."""
    size = sum((folder / name).stat().st_size for name in info["files"] if name != TRAINED_ON)
    return {
        "runtime": runtime_of(info),
        "weights": info["weights"],
        "size": size,
        "quality": _quality(info["parity"]),
        "files": info["files"],
    }


def _quality(parity: Mapping[str, Any]) -> dict[str, Any] | None:
    """mAP of what finds things, accuracy of what tells classes, after the export and before; None of other models."""
    if "map" in parity:
        before, after = (parity["map"][when]["map"] for when in ("before", "after"))
        return {"name": "mAP", "value": after, "before": before}
    if "accuracy" in parity:
        before, after = (parity["accuracy"][when]["value"] for when in ("before", "after"))
        return {"name": "accuracy", "value": after, "before": before}
    return None


def _images(data: Path, n: int, folder: Path) -> list[Path]:
    """Files of `n` images of validation, evenly over it; some come twice where it has fewer."""
    rows = load_split(data, VALIDATION)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(np.int64))
    paths = [folder / f"{row:06}" for row in chosen]
    for path, image in zip(paths, rows.select(chosen)["image"], strict=True):
        path.write_bytes(image["bytes"])
    return [paths[i % len(paths)] for i in range(n)]


def _measured(folder: Path, images: Sequence[Path], threads: int | None) -> dict[str, Any]:
    """What `runtime.measure` says of a folder, in a process that imports what the box at the line imports."""
    given = [sys.executable, "-m", "hf_inspect.runtime.measure", str(folder), *map(str, images)]
    limit = [] if threads is None else ["--threads", str(threads)]
    done = subprocess.run([*given, *limit], capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DataError(f"{folder} could not be measured: {why[-1]}")
    return json.loads(done.stdout.splitlines()[-1])

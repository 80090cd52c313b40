"""An anomaly model, or one a category, + a split it has not seen -> results.json, its table, and maps beside masks."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import data as sets
from hf_inspect import files, hub, images
from hf_inspect.data import sheet
from hf_inspect.data.classes import LABEL
from hf_inspect.errors import DataError
from hf_inspect.images import Reading, Rgb
from hf_inspect.metrics.intervals import Figure
from hf_inspect.metrics.pixels import PixelCounts
from hf_inspect.reports.evaluate import model_report, model_speed
from hf_inspect.reports.heading import count_evaluation, data_section, environment, results_of
from hf_inspect.schema import ANOMALY, DEFECT, GOOD, Prediction, Progress, no_progress
from hf_inspect.scoring import Scores, run
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.heat import in_pixels, overlay, png_of

if TYPE_CHECKING:
    from hf_inspect.anomaly import AnomalyDetector

FIGURES = {"auroc": "AUROC", "average_precision": "average precision", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SHOWN = {DEFECT: 6, GOOD: 2}  # images of a category on the sheet
_AT_ONCE = 16
_MASK = "mask"


@dataclass(frozen=True, slots=True)
class Mapped:
    """An image of a split `of`, with its map, its mask where it has one, and what stands below it on the sheet."""

    of: str
    rgb: Rgb
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    caption: str


def evaluate_anomaly(
    folder: str | Path, data: Path, split: str, scores: Path, progress: Progress = no_progress
) -> tuple[dict[str, Any], list[Mapped]]:
    """results.json of an anomaly model, and some of its maps; of a folder of models, each on its category's split.

    Of several, `categories` has each one's section and `anomaly` their means. Every answer goes to `scores`, which a
    killed run goes on from.
    """
    models = models_of(folder)
    if "" in models:
        answered, report, shown = _evaluated(models[""], data, split, scores, progress)
        figures = {"anomaly": report, "inputs": {"models": files.weights(models[""])}}
        return results_of(data, split, str(folder), figures, answered), shown
    reports, sections, every = {}, {}, []
    for name, one in models.items():
        place, own = f"{name}/{split}", scores.with_name(f"{scores.stem}.{name}{scores.suffix}")
        answered, reports[name], shown = _evaluated(one, data, place, own, progress)
        sections[name] = data_section(data, place, count_evaluation(data, place, str(folder), answered.begun))
        every += shown
    whole = {"n": sum(one["n"] for one in reports.values()), "categories": len(reports)}
    means = {key: _mean([one[key] for one in reports.values()]) for key in FIGURES if _all_have(reports, key)}
    weights = {name: sha256 for category, at in models.items() for name, sha256 in files.weights(at, category).items()}
    stated = {key: next(iter(sections.values()))[key] for key in ("name", "fingerprint")} | {"split": split}
    head = {"data": stated | {"categories": sections}, "environment": environment()}
    figures = {"anomaly": whole | means, "categories": reports, "inputs": {"models": weights}}
    return head | {"task": sets.read_task(data).to_dict()} | figures, every


def models_of(folder: str | Path) -> dict[str, Path]:
    """The models of a folder by category, "" for one that is a model itself; DataError where there is none."""
    found = hub.resolve(folder)
    if (found / "config.json").is_file():
        return {"": found}
    inside = {path.parent.name: path.parent for path in sorted(found.glob("*/config.json"))}
    if not inside:
        raise DataError(f"{folder} holds no anomaly model; give a folder that recipes/anomaly/train.py wrote.")
    return inside


def anomaly_table(results: Mapping[str, Any]) -> str:
    """A row a category, and their mean, or one row: each figure with its 95 % interval."""
    rows = {**results.get("categories", {}), "mean" if "categories" in results else "all": results["anomaly"]}
    names = {key: title for key, title in FIGURES.items() if all(key in report for report in rows.values())}
    head = ["", "n", *names.values()]
    lines = [head, ["---"] * len(head)]
    lines += [[name, str(report["n"]), *(_said(report[key]) for key in names)] for name, report in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_curves(out: Path, results: Mapping[str, Any]) -> None:
    """ROC and histogram of a model to `out` (PNG), or of each category's to a file beside it, `out`-<category>."""
    for category, report in results.get("categories", {"": results["anomaly"]}).items():
        TASKS[ANOMALY].draw(report, out.with_stem(f"{out.stem}-{category}") if category else out)


def write_sheet(out: Path, shown: Sequence[Mapped]) -> None:
    """Each image, its map over it, and its mask, side by side, as one PNG; the maps of a split are on one scale."""
    cells = []
    for of in dict.fromkeys(one.of for one in shown):
        own = [one for one in shown if one.of == of]
        low = float(np.median([np.median(one.map) for one in own]))
        high = float(max(np.quantile(one.map, 0.995) for one in own))
        for one in own:
            mask = (
                np.full_like(one.rgb, 255) if one.mask is None else np.repeat(one.mask[..., None], 3, 2) * np.uint8(255)
            )
            cells += [
                (png_of(one.rgb), one.caption),
                (png_of(overlay(one.rgb, one.map, low, high)), "map"),
                (png_of(mask), "no mask" if one.mask is None else "mask"),
            ]
    sheet.of_images(cells, out, columns=6)


def _evaluated(
    folder: Path, data: Path, split: str, scores: Path, progress: Progress
) -> tuple[Scores, dict[str, Any], list[Mapped]]:
    from hf_inspect.anomaly import AnomalyDetector

    model = AnomalyDetector.from_pretrained(folder)
    answered = run({"anomaly": model}, data, split, scores, progress=progress)
    assert model.task.score is not None
    report = model_report(answered, "anomaly", model, model.task.score.threshold)
    report |= {"score": {"means": str(model.task.score), **model.task.score.to_dict()}}
    pixels, shown = _mapped(model, answered, data, split, progress)
    return answered, report | pixels | {"speed": model_speed(model, answered, data, split)}, shown


def _mapped(
    model: "AnomalyDetector", answered: Scores, data: Path, split: str, progress: Progress
) -> tuple[dict[str, Any], list[Mapped]]:
    """Pixel figures where the split has masks, and the images for the sheet: one further look at those it needs."""
    reading, chosen = sets.read_reading(data), _chosen(answered)
    masked = _MASK in sets.load_split(data, split).features
    columns = ["image", LABEL, "group", *([_MASK] if masked else [])]
    names = _sources(data)
    counts, shown, missing, number = PixelCounts(), list[Mapped](), 0, 0
    wanted = set(answered.numbers.tolist()) if masked else chosen
    for rows in sets.stream(data, split, columns, _AT_ONCE):
        own = [(number + i, row) for i, row in enumerate(rows) if number + i in wanted]
        number += len(rows)
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for _, row in own]
        for (at, row), rgb, said in zip(own, rgbs, model.predict(rgbs), strict=True):
            mask = _mask(row, rgb, reading) if masked else None
            missing += masked and mask is None
            assert said.map is not None
            if mask is not None:
                counts.add(in_pixels(said.map, *rgb.shape[:2]), mask, row["group"])
            if at in chosen:
                shown.append(Mapped(split, rgb, said.map, mask, _caption(row, said, names)))
        progress(f"{split}, maps", number, sets.count(data, split))
    shown.sort(key=lambda one: one.mask is None or not one.mask.any())
    return (counts.report() | {"without_mask": missing} if masked else {}), shown


def _mask(row: Mapping[str, Any], rgb: Rgb, reading: Reading) -> NDArray[np.bool_] | None:
    """Where a row's image is defect (h, w); nowhere on a good part, None for a defect without a mask."""
    if row[_MASK] is None:
        return np.zeros(rgb.shape[:2], np.bool_) if row[LABEL] == GOOD else None
    return images.load(row[_MASK]["bytes"], reading).rgb.max(2) > 0


def _chosen(answered: Scores) -> set[int]:
    """Places in the split of the images for the sheet: of each side, evenly from the lowest severity to the highest."""
    severity, found = answered.answers["anomaly"].severity, set[int]()
    for side, n in ((0, SHOWN[GOOD]), (1, SHOWN[DEFECT])):
        own = np.flatnonzero((answered.labels == side) & ~np.isnan(severity))
        order = own[np.argsort(severity[own], kind="stable")]
        found |= set(
            answered.numbers[order[np.unique(np.linspace(0, len(order) - 1, n).astype(int))]].tolist()
            if len(order)
            else []
        )
    return found


def _sources(data: Path) -> dict[str, str]:
    """SHA-256 of a data set's image files -> their paths in what it was built from."""
    return {one["sha256"]: one["source"] for one in sets.read_manifest(data)["images"]}


def _caption(row: Mapping[str, Any], said: Prediction, names: Mapping[str, str]) -> str:
    """What the image is, what the model says, and where it came from: in many sets files have each other's names."""
    image = row["image"]
    path = Path(names.get(hashlib.sha256(image["bytes"]).hexdigest(), image["path"]))
    return "\n".join([f"{row[LABEL]}, score {said.severity:.3g}", path.parent.as_posix(), path.name])


def _all_have(reports: Mapping[str, Any], key: str) -> bool:
    return all(one.get(key, {}).get("value") is not None for one in reports.values())


def _mean(found: Sequence[Figure]) -> dict[str, Any]:
    """The mean of independent figures; its limits are as far off as the root of their mean squares by the root of n."""
    value = [float(one["value"] or 0.0) for one in found]
    down = [v - float(one["low"] or 0.0) for v, one in zip(value, found, strict=True)]
    up = [float(one["high"] or 0.0) - v for v, one in zip(value, found, strict=True)]
    mean, n = float(np.mean(value)), len(value)
    low, high = mean - float(np.linalg.norm(down)) / n, mean + float(np.linalg.norm(up)) / n
    method = f"mean of {n} categories, these taken as given"
    return {
        "value": mean,
        "low": max(0.0, low),
        "high": min(1.0, high),
        "n": sum(one["n"] for one in found),
        "method": method,
    }


def _said(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return str(figure["method"])
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"

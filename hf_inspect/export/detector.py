"""A detection model -> a folder for the edge that finds what it finds; or nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.detectors import Detector
from hf_inspect.detectors.families import family_of
from hf_inspect.errors import DataError, ParityError
from hf_inspect.export.formats import Format, format_named
from hf_inspect.export.int8 import calibration_rows, quantized
from hf_inspect.metrics.findings import Compared, Shown, point_figures
from hf_inspect.runtime import FORMAT, INSPECT, PRECISION, TRAINED_ON, Engine
from hf_inspect.schema import SEGMENTATION, Prediction
from hf_inspect.tasks import TASKS

if TYPE_CHECKING:
    import torch

SHIFT, SCORE = 1.0, 0.01  # that a matched box's side, in pixels, and a score may move by in FP32
IOU = 0.95  # of a mask with the export's, at least, in FP32
MAP_FALL = 0.01  # that mAP may fall by in INT8
_AT_ONCE = 8
_VALIDATION = "validation"


def export_detector(model: Path, out: Path, *, data: Path, int8: bool = False, to: str = "openvino") -> dict[str, Any]:
    """Export a detection model's folder to a format in `out`, and return the parity report of inspect.json.

    The written folder is run as the edge will run it, on every image of validation. In FP32 no finding that is told of
    may be lost, no side of a box move by more than SHIFT pixels, no score by more than SCORE, no mask overlap its own
    by less than IOU; in INT8 mAP, of boxes and of masks, may not fall by more than MAP_FALL. Beyond that nothing is
    written: ParityError. DataError where the data show other things, are read otherwise, or the model's record names no
    images.
    """
    form, detector = format_named(to), Detector.from_pretrained(model)
    if not detector.history.sources:
        raise DataError(f"{model / TRAINED_ON} states no training data and licence; train the model again.")
    detector.task.refuse_things(sets.read_objects(data), f"the model {model}", f"the data {data}")
    reading = sets.read_reading(data)
    reading.refuse_model(detector.reading, f"the data {data}", f"the model {model}")
    with files.staged_folder(out, [model, data]) as stage:
        _write(detector, stage, form, data if int8 else None)
        sets.write_history(stage, detector.history)
        info = _describe(detector, stage, form, "int8" if int8 else "fp32")
        files.write_json(stage / INSPECT, info)
        report = _compare(Engine.from_pretrained(stage), detector, data, int8)
        _refuse_beyond(report, model)
        files.write_json(stage / INSPECT, info | {"parity": report})
    return report


def described(report: Mapping[str, Any]) -> str:
    """A parity report in lines."""
    lost, before, after = report["lost"], report["map"]["before"], report["map"]["after"]
    return (
        f"{lost['k']} of {lost['n']} findings told of (score {report['told']:.3f} or more) have no partner on "
        f"{report['images']} images of {report['split']}\nboxes move by up to {report['shift']:.3g} pixels, scores by "
        f"{report['score']:.2g}\nmAP {before['map']:.4f} before, {after['map']:.4f} after; AP50 {before['ap50']:.4f}, "
        f"{after['ap50']:.4f}"
    )


def _write(detector: Detector, folder: Path, form: Format, data: Path | None) -> None:
    """Write the network for any number of images of the model's one size; in 8 bits where data for ranges came."""
    network = form.convert(_answers(detector), detector.preprocess.height, detector.preprocess.width)
    if data is not None:
        rows = calibration_rows(sets.load_split(data, "train"), detector.task)
        network = quantized(
            form, network, rows, detector.preprocess, sets.read_reading(data), detector.task, detector.tiles
        )
    form.save(network, folder)


def _answers(detector: Detector) -> "torch.nn.Module":
    """The detector's network, whose outputs are what its family answers."""
    import torch

    model, family = detector.model.cpu(), family_of(detector.model.config)

    class Answers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return family.answers(self.model, pixel_values)

    return Answers().eval()


def _describe(detector: Detector, folder: Path, form: Format, weights: str) -> dict[str, Any]:
    """Everything the runtime and the cards need of an export, the parity report apart."""
    return {
        "format": FORMAT,
        "task": detector.task.to_dict(),
        "decoding": detector.decoding.to_dict(),
        "runtime": form.runtime,
        "architecture": detector.architecture,
        "reading": detector.reading.to_dict(),
        "preprocess": detector.preprocess.to_dict(),
        "tiles": None if detector.tiles is None else detector.tiles.to_dict(),
        "weights": weights,
        "precision": PRECISION,
        "licence": " AND ".join(detector.licences),
        "trained_on": detector.history.summary(),
        "files": {name: files.sha256(folder / name) for name in (*form.files, TRAINED_ON)},
        "made_with": form.versions() | family_of(detector.model.config).made_with(),
    }


def _compare(engine: Engine, detector: Detector, data: Path, int8: bool) -> dict[str, Any]:
    """Both on every image of validation, some at a time -> what changed, mAP of either, and the limits."""
    reading, names = sets.read_reading(data), sets.read_objects(data).classes
    answers: dict[str, list[Prediction]] = {"before": [], "after": []}
    shown: dict[str, list[Shown]] = {"before": [], "after": []}
    for rows in sets.stream(data, _VALIDATION, ["image", "objects"], _AT_ONCE):
        rgbs = [images.load(row["image"]["bytes"], reading).rgb for row in rows]
        for when, model in (("before", detector), ("after", engine)):
            found = model.predict(rgbs)
            answers[when] += found
            shown[when] += [
                Shown(rgb.shape[0], rgb.shape[1], sets.things_of(row["objects"], names), one.findings or ())
                for row, rgb, one in zip(rows, rgbs, found, strict=True)
            ]
    told = detector.decoding.told
    changed = TASKS[detector.task.kind].compare(detector.task, None, answers["before"], answers["after"], told)
    masks = detector.task.kind == sets.read_objects(data).kind == SEGMENTATION
    compared = {when: Compared.of(one, detector.task, masks=masks) for when, one in shown.items()}
    figures = {when: point_figures(one) for when, one in compared.items()}
    of_masks = {when: point_figures(one, masks=True) for when, one in compared.items()} if masks else None
    limits = {"map_fall": MAP_FALL} if int8 else {"lost": 0, "shift": SHIFT, "score": SCORE, "iou": IOU}
    head = {"split": _VALIDATION, "data": sets.read_head(data)["fingerprint"], "weights": "int8" if int8 else "fp32"}
    return head | changed | {"map": figures, "limits": limits} | ({"map_masks": of_masks} if of_masks else {})


def _refuse_beyond(report: Mapping[str, Any], model: Path) -> None:
    """Raise ParityError naming every limit that a report of `_compare` breaks."""
    limits, lost = report["limits"], report["lost"]
    broken = []
    if "lost" in limits and lost["k"]:
        broken.append(f"{lost['k']} of {lost['n']} findings told of have no partner")
    for name, unit in (("shift", " pixels"), ("score", "")):
        if name in limits and not report[name] <= limits[name]:
            broken.append(f"a {name} of {report[name]:.3g}{unit} (limit {limits[name]:g})")
    if "iou" in limits and not report["iou"] >= limits["iou"]:
        broken.append(f"a mask overlaps its own by {report['iou']:.3f} alone (limit {limits['iou']})")
    for key in (key for key in ("map", "map_masks") if "map_fall" in limits and key in report):
        before, after = (report[key][when]["map"] for when in ("before", "after"))
        if not after >= before - limits["map_fall"]:
            of = "mAP" if key == "map" else "mAP of masks"
            broken.append(f"{of} falls from {before:.4f} to {after:.4f} (limit {limits['map_fall']:.2f})")
    if broken:
        raise ParityError(
            f"The export of {model} does not find what the model does: {'; '.join(broken)}. Nothing was written; keep "
            "FP32, or train the model further."
        )

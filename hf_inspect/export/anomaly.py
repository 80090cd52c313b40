"""An anomaly model -> a folder for the edge, its subspaces inside the graph, that answers and shows as it does."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.anomaly import AnomalyDetector
from hf_inspect.anomaly.graph import converted
from hf_inspect.data import place_of, read_head, read_reading, read_task, write_history
from hf_inspect.errors import DataError, ParityError
from hf_inspect.export.parity import compared
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, OPENVINO, PRECISION, TRAINED_ON, Engine

FLIPS = 0.005  # share of the images, at most, that change their side of the threshold
MAPS = 0.999  # correlation, at least, of each map with that of the export


def export_anomaly(model: Path, out: Path, *, data: Path, category: str = "") -> dict[str, Any]:
    """Export an anomaly model's folder to OpenVINO in `out`, and return the parity report that inspect.json carries.

    On every image of validation (of train where there is none: what is compared is the two, not the truth) the written
    folder is run as the edge will run it. Beyond FLIPS or MAPS nothing is written: ParityError. DataError where the
    data ask another question, are read otherwise, or are not those that the record of the model names.
    """
    detector = AnomalyDetector.from_pretrained(model)
    if not detector.history.sources:
        raise DataError(f"{model / TRAINED_ON} states no training data and licence; fit the model again.")
    read_task(data).refuse_model(detector.task, f"the data {data}", f"the model {model}")
    read_reading(data).refuse_model(detector.reading, f"the data {data}", f"the model {model}")
    split = _split(data, category)
    with files.staged_folder(out, [model, data]) as stage:
        _write(detector, stage)
        write_history(stage, detector.history)
        info = _describe(detector, stage)
        files.write_json(stage / INSPECT, info)
        report = _compare(Engine.from_pretrained(stage), detector, data, split)
        _refuse_beyond(report, model)
        files.write_json(stage / INSPECT, info | {"parity": report})
    return report


def described(report: dict[str, Any]) -> str:
    """The parity report in lines."""
    flips = report["flips"]
    return (
        f"{flips['k']} of {flips['n']} images of {report['split']} change their side of severity "
        f"{report['threshold']:.3g}\nmaps correlate by {report['maps']:.6f} or more\n"
        f"severity changes by up to {report['max_change']:.2g}"
    )


def _split(data: Path, category: str) -> str:
    """The split to compare on: validation of the category, or train; DataError for a category that is not there."""
    counts = read_head(data)["counts"]
    names = [name for name in counts if category in ("", name)]
    there = "validation" if any("validation" in counts[name] for name in names) else "train"
    return "/".join(place_of(read_head(data), f"{category}/{there}" if category else there))


def _write(detector: AnomalyDetector, folder: Path) -> None:
    """Write the graph in float32, for any number of images of the model's one size."""
    graph = converted(detector.model.cpu(), detector.preprocess.height, detector.preprocess.width)
    import openvino

    openvino.save_model(graph, folder / MODEL, compress_to_fp16=False)


def _describe(detector: AnomalyDetector, folder: Path) -> dict[str, Any]:
    """Everything the runtime needs of an export, the parity report apart."""
    network = detector.model.config.network
    decide = (MODEL, str(Path(MODEL).with_suffix(".bin")), TRAINED_ON)
    return {
        "format": FORMAT,
        "task": detector.task.to_dict(),
        "architecture": network.get("architecture", network["model_type"]),
        "reading": detector.reading.to_dict(),
        "preprocess": detector.preprocess.to_dict(),
        "weights": "fp32",
        "runtime": OPENVINO,
        "precision": PRECISION,
        "licence": " AND ".join(detector.history.licences),
        "trained_on": detector.history.summary(),
        "files": {name: files.sha256(folder / name) for name in decide},
        "made_with": {name: version(name) for name in ("openvino", "timm", "transformers")},
    }


def _compare(engine: Engine, detector: AnomalyDetector, data: Path, split: str) -> dict[str, Any]:
    """Run both on every image of a split, some at a time -> what `TASKS` compares, the split and the limits."""
    found = compared(engine, detector.predict, read_task(data), data, split)
    head = {"split": split.removeprefix("default/"), "data": read_head(data)["fingerprint"]}
    return head | found | {"limits": {"flips": FLIPS, "maps": MAPS}}


def _refuse_beyond(report: dict[str, Any], model: Path) -> None:
    """Raise ParityError where a report of `_compare` breaks a limit."""
    k, n = report["flips"]["k"], report["flips"]["n"]
    broken = [f"{k} of {n} images change their side (limit {FLIPS:.1%})"] if k > FLIPS * n else []
    if not report["maps"] >= MAPS:
        broken.append(f"a map correlates by {report['maps']:.4f} alone (limit {MAPS})")
    if broken:
        raise ParityError(f"The export of {model} does not answer as the model does: {'; '.join(broken)}. Nothing was "
                          "written; fit the model again, in fp32.")  # fmt: skip

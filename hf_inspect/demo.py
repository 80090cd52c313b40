"""The shipped solar-cell cascade, from raw images to measured results on this machine, in minutes and without a hub."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hf_inspect import files
from hf_inspect.calibrate import calibrate
from hf_inspect.console import Steps
from hf_inspect.data import build
from hf_inspect.errors import DataError
from hf_inspect.export import export_student
from hf_inspect.inspector import Inspector
from hf_inspect.reports import data_section, environment, model_report, plots, results_table
from hf_inspect.reports.evaluate import cascade_reports, model_speed, promise_report
from hf_inspect.reports.heading import count_evaluation
from hf_inspect.runtime import Engine
from hf_inspect.schema import DEFECT, Progress, no_progress
from hf_inspect.scoring import Scores, read_rows, write_rows
from hf_inspect.scoring import run as score
from hf_inspect.vlm import demo_base

RISK: dict[str, Any] = {"escape": 0.05, "overkill": 0.10, "confidence": 0.95}
BASE = "demo-base"
TEST_SCORES = "test_scores.jsonl"


def assets() -> Path:
    """The folder of the shipped solar-cell models; DataError in an installation without them."""
    folder = Path(__file__).parent / "assets" / "elpv"
    if not (folder / "edge_int8" / "inspect.json").is_file():
        raise DataError(f"{folder} holds no shipped models; install the whole wheel, or run 'make demo-train'.")
    return folder


def run(
    out: Path,
    progress: Progress = no_progress,
    models: Path | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> str:
    """Make `out`/data, `out`/edge, `out`/cascade, `out`/results.json and plots; returns the table.

    `models` holds edge/, edge_int8/ and adapter/; the shipped ones by default. What is there already and was made
    from the same inputs is not made again. `show` is given lines that say what is done and what came out.
    """
    models, data = models or assets(), out / "data"
    begin, steps = perf_counter(), Steps(5, show)
    with steps.step("data: build the solar cells of PyPI's elpv-dataset") as came:
        manifest = build("elpv", data, accept_license=True)
        came(f"{_counted(manifest)} -> {data}")
    inputs = {"data": manifest["fingerprint"], "models": _weights(models), "risk": RISK}
    results_file = files.refuse_other(out / "results.json", ("inputs", "environment"))
    if results_file.exists() and files.read_json(results_file)["inputs"] == inputs:
        show(f"{results_file} is of these data and models: nothing to do")
        return results_table(files.read_json(results_file))
    with steps.step("base: assemble the VLM's base from EfficientNet-Lite0 and SmolLM2-135M") as came:
        came(f"-> {demo_base()}")
    with steps.step("export: the edge student to OpenVINO, held against the student itself") as came:
        gate = export_student(models / "edge", out / "edge", data=data, int8=False)
        came(f"{gate['flips']['k']} of {gate['flips']['n']} answers differ -> {out / 'edge'}")
    with steps.step("calibrate: ask edge (INT8) and VLM about validation and calibration, certify") as came:
        stated = calibrate(
            models / "edge_int8", (BASE, models / "adapter"), data, out / "cascade", **RISK, progress=progress
        )
        came(stated["policies"]["certified"]["statement"])
        came(stated["second_look"])
        came(f"-> {out / 'cascade'}")
    with steps.step("measure: everything on the test split, which nothing was fitted on") as came:
        results, scores = measure(out / "cascade", out / "edge", data, out, progress)
        results |= {"seconds": round(perf_counter() - begin, 1), "inputs": inputs}
        write_rows(out / TEST_SCORES, scores.rows())
        write_plots(results, read_rows(out / TEST_SCORES), out / "plots")
        files.write_json(results_file, results)
        came(f"{len(scores.classes)} images -> {results_file}, {out / 'plots'}")
    return results_table(results)


def _weights(models: Path) -> dict[str, str]:
    """SHA-256 of the weights of the models that the demo runs, by their paths."""
    parts = ("adapter", "edge", "edge_int8")
    return {name: sha256 for part in parts for name, sha256 in files.weights(models / part, part).items()}


def _counted(manifest: dict[str, Any]) -> str:
    splits = {name: sum(classes.values()) for name, classes in manifest["counts"]["default"].items()}
    return f"{sum(splits.values()):,} images: {', '.join(f'{name} {n:,}' for name, n in splits.items())}"


def measure(
    cascade: Path, edge_fp32: Path, data: Path, work: Path, progress: Progress = no_progress
) -> tuple[dict[str, Any], Scores]:
    """Figures of FP32 edge, INT8 edge, VLM and both policies on the test split, and the scores they come from.

    `work` is where the files of answers lie that a killed run goes on from.
    """
    inspector = Inspector.from_pretrained(cascade)
    if inspector.vlm is None:
        raise DataError(f"the demo needs its VLM: {inspector.no_vlm}.")
    fp32 = Engine.from_pretrained(edge_fp32)
    models = {"edge": inspector.edge, "vlm": inspector.vlm}
    of_fp32 = score({"edge": fp32}, data, "test", work / "fp32.scores.jsonl", progress=progress)
    scores = score(models, data, "test", work / "test.scores.jsonl", complexity=True, progress=progress)
    results = {
        "data": data_section(data, "test", count_evaluation(data, "test", "demo", scores.begun)),
        "environment": environment(),
        "task": scores.task.to_dict(),
        "edge": model_report(of_fp32, "edge", fp32),
        "edge_int8": model_report(scores, "edge", inspector.edge),
        "vlm": model_report(scores, "vlm", inspector.vlm),
        "cascade": cascade_reports(inspector, cascade, scores, data, "test"),
        **promise_report(cascade, scores),
    }
    for name, model in (("edge", fp32), ("edge_int8", inspector.edge), ("vlm", inspector.vlm)):
        results[name]["speed"] = model_speed(model, scores, data, "test")
    return results, scores


def write_plots(results: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> None:
    """undecided.png, roc.png and reliability.png from results.json's content and the test split's scores."""
    labels = np.array([row["label"] == DEFECT for row in rows])
    edge, vlm = (np.array([row[name]["severity"] for row in rows]) for name in ("edge", "vlm"))
    plots.roc_plot(out / "roc.png", labels, {"edge, INT8": edge, "VLM": vlm}, [row["group"] for row in rows])
    plots.undecided_plot(out / "undecided.png", results)
    reliabilities = {"edge, INT8": results["edge_int8"]["reliability"], "VLM": results["vlm"]["reliability"]}
    plots.reliability_plot(out / "reliability.png", reliabilities)

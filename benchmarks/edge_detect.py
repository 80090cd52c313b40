"""How much sooner the Engine finds things than Ultralytics' predict on its own OpenVINO export of the same weights.

From image files to findings, in batches of each size, all taking turns in one process on as many cores. OpenVINO
computes in bf16 on processors that have it unless it is told otherwise, as the Engine tells it; so Ultralytics is
asked as it comes, and in fp32:
python benchmarks/edge_detect.py DETECTOR EXPORTED IMAGES [--cores 1] [--images 64] [--batches 1 8]
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

Found = tuple[str, float, tuple[float, float, float, float]]  # class, score, x0, y0, x1, y1 in pixels
Ask = Callable[[list[Path]], list[list[Found]]]  # image files -> what is found in each
WARM_UP = 2  # batches
SAME_BOX, SAME_SCORE = 0.99, 0.01  # least overlap and largest difference of two findings that are equal
WANTED = 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("detector", type=Path, help="folder of a YOLO detector that recipes/edge_detector wrote")
    parser.add_argument("exported", type=Path, help="its export")
    parser.add_argument("folder", type=Path, help="folder of square images, which both resize alike")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix in {".png", ".jpg", ".bmp"})[: arguments.images]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    os.environ["OMP_NUM_THREADS"] = str(arguments.cores)
    with TemporaryDirectory() as folder:
        ours, told = with_engine(arguments.exported)
        for size in arguments.batches:
            theirs = export(arguments.detector, size, Path(folder) / str(size))
            askers = {
                "engine": ours,
                "ultralytics in fp32": with_ultralytics(theirs, arguments.detector, told, "f32"),
                "ultralytics as it comes": with_ultralytics(theirs, arguments.detector, told, None),
            }
            whole = len(files) // size * size  # its export takes batches of one size
            report(size, compare(askers, [files[start : start + size] for start in range(0, whole, size)]))


def with_engine(folder: Path) -> tuple[Ask, float]:
    """The Engine, and the score from which on it tells of what it finds."""
    from hf_inspect.runtime import Engine

    engine = Engine.from_pretrained(folder)

    def ask(files: list[Path]) -> list[list[Found]]:
        answers = engine.predict(files)
        return [[(f.name, f.score, f.box) for f in one.findings or () if f.score >= engine.told] for one in answers]

    return ask, engine.told


def export(detector: Path, batch: int, out: Path) -> Path:
    """Ultralytics' OpenVINO export of a detector's network, for batches of one size -> its folder."""
    from hf_inspect.detectors import Detector
    from hf_inspect.students.yolo import quietly

    with quietly():
        from ultralytics import YOLO
        from ultralytics.utils import DEFAULT_CFG_DICT
    model = Detector.from_pretrained(detector)
    network, config = model.model.yolo, model.model.config
    size = (model.preprocess.height, model.preprocess.width)
    made = YOLO(f"{config.network}.yaml", task="detect")
    network.names, network.args = dict(enumerate(model.task.classes)), {**DEFAULT_CFG_DICT, "imgsz": max(size)}
    network.task, network.pt_path = "detect", str(out / "network.pt")  # whose folder and name the export has
    made.model = network.cpu()  # not by way of its own file, which holds half precision
    out.mkdir()
    return Path(made.export(format="openvino", imgsz=size, batch=batch, verbose=False))


def with_ultralytics(folder: Path, detector: Path, told: float, precision: str | None) -> Ask:
    """Its `predict` of its export, which finds as much, and as far apart, as the detector's decoding says."""
    from ultralytics import YOLO

    from hf_inspect.detectors import Detector

    own = Detector.from_pretrained(detector)
    model = YOLO(folder, task="detect")
    settings: dict[str, Any] = {
        "imgsz": (own.preprocess.height, own.preprocess.width), "conf": told, "iou": own.decoding.overlap,
        "max_det": own.decoding.most, "device": "cpu", "verbose": False,
    }  # fmt: skip

    def ask(files: list[Path]) -> list[list[Found]]:
        results = model.predict([str(file) for file in files], batch=len(files), **settings)
        return [
            [
                (one.names[int(kind)], float(score), tuple(box))
                for kind, score, box in zip(
                    one.boxes.cls.tolist(), one.boxes.conf.tolist(), one.boxes.xyxy.tolist(), strict=True
                )
            ]
            for one in results
        ]

    if precision is not None:
        set_precision(model, folder, settings, precision)
    return ask


def set_precision(model: Any, folder: Path, settings: dict[str, Any], precision: str) -> None:
    """Compile its network anew, with its own settings and a precision."""
    import numpy as np
    import openvino

    model.predict(np.zeros((64, 64, 3), np.uint8), **settings)  # loads it
    backend = getattr(model.predictor.model, "backend", model.predictor.model)
    own = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    backend.ov_compiled_model = openvino.Core().compile_model(next(folder.glob("*.xml")), "CPU", own)


def compare(askers: dict[str, Ask], batches: list[list[Path]]) -> dict[str, tuple[list[list[Found]], list[float]]]:
    """Findings an image and seconds an image of each, on every batch after the warm-up; who is first changes."""
    found: dict[str, tuple[list[list[Found]], list[float]]] = {name: ([], []) for name in askers}
    for ask in askers.values():
        for files in batches[:WARM_UP]:
            ask(files)
    for turn, files in enumerate(batches):
        order = list(askers) if turn % 2 else list(askers)[::-1]
        for name in order:
            begin = perf_counter()
            answers = askers[name](files)
            found[name][1].append((perf_counter() - begin) / len(files))
            found[name][0].extend(answers)
    return found


def report(size: int, found: dict[str, tuple[list[list[Found]], list[float]]]) -> None:
    """Print medians, ratios, and how many of all findings have their equal on the other side."""
    own, times = found["engine"]
    print(f"batch {size}, {len(own)} images: engine, median {median(times) * 1e3:.1f} ms an image")
    for name, (theirs, seconds) in found.items():
        if name == "engine":
            continue
        ratio = median(seconds) / median(times)
        n = sum(map(len, own)) + sum(map(len, theirs))
        k = sum(equals(a, b) + equals(b, a) for a, b in zip(own, theirs, strict=True))
        missed = "" if ratio >= WANTED else f" (wanted: {WANTED})"
        print(f"  {name}: {median(seconds) * 1e3:.1f} ms, {ratio:.2f}x{missed}; {k} of {n} findings are equal")


def equals(some: list[Found], others: list[Found]) -> int:
    """How many findings have one of their class in the same place, with the same score."""
    return sum(
        any(a[0] == b[0] and abs(a[1] - b[1]) <= SAME_SCORE and overlap(a[2], b[2]) >= SAME_BOX for b in others)
        for a in some
    )


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    from hf_inspect.tasks.detection import box_overlap

    return box_overlap(a, b)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

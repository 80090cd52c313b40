"""Images of coloured squares with COCO boxes and polygons, and an exported model that finds them cell by cell."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from hf_inspect import files
from hf_inspect.metrics.findings import Shown, Thing
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.schema import DETECTION, SEGMENTATION, Finding, TaskSpec
from hf_inspect.tasks.detection import Decoding
from tests.scripted import HISTORY

SIDE, CELL = 64, 16  # pixels of an image, and of a square
NAMES = ("blue", "red")


def task_of(masks: bool, names: tuple[str, ...] = NAMES) -> TaskSpec:
    return TaskSpec(names, ("defect",) * len(names), SEGMENTATION if masks else DETECTION)


def generated(
    seed: int, n: int = 40, *, masks: bool = False, names: tuple[str, ...] = ("a", "b"), crowds: float = 0.1
) -> list[Shown]:
    """Random things of many sizes, crowds among them, and what a middling model would find; some images are empty."""
    rng, side, shown = np.random.default_rng(seed), 320.0, []
    for _ in range(n):
        things, found = [], []
        for _ in range(rng.integers(0, 5)):
            corner, extent = rng.uniform(0, 250, 2), rng.uniform(8, 160, 2)
            x0, y0, x1, y1 = map(float, (*corner, *np.minimum(corner + extent, side)))
            polygon = (x0, y0, x1, y0, x1, y1, (x0 + x1) / 2, y1)
            name = str(rng.choice(names))
            things.append(Thing(name, (x0, y0, x1, y1), (polygon,) if masks else (), crowd=bool(rng.random() < crowds)))
            for _ in range(rng.integers(0, 4)):
                box = np.clip(np.array([x0, y0, x1, y1]) + rng.normal(0, 4, 4), 0, side)
                of = name if rng.random() < 0.9 else str(rng.choice(names))
                found += [] if (box[2:] - box[:2] < 2).any() else [_found(rng, of, box, masks, 1.0)]
        for _ in range(rng.integers(0, 3)):
            corner = rng.uniform(0, 250, 2)
            box = np.append(corner, corner + rng.uniform(8, 60, 2))
            found.append(_found(rng, str(rng.choice(names)), box, masks, 0.5))
        shown.append(Shown(int(side), int(side), tuple(things), tuple(found)))
    return shown


def _found(rng: np.random.Generator, name: str, box: np.ndarray, masks: bool, most: float) -> Finding:
    """A finding whose score is one of few, as many scores as there are ties; its mask lacks a corner."""
    found = Finding(name, round(float(rng.uniform(0, most)), 2), tuple(box.tolist()))
    if not masks:
        return found
    mask = np.ones(found.extent, bool)
    mask[: mask.shape[0] // 4, : mask.shape[1] // 4] = False
    return Finding(name, found.score, found.box, mask)


def pictures(
    folder: Path,
    n: int = 80,
    *,
    polygons: bool = True,
    good: float = 0.3,
    seed: int = 0,
    names: tuple[str, ...] = NAMES,
) -> Path:
    """A COCO folder of dark images: strong squares, faint ones that are missed, and bright ones that nobody marked."""
    rng, annotations = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for number in range(1, n + 1):
        coarse = Image.fromarray(rng.integers(0, 70, (8, 8, 3), np.uint8))
        pixels = np.array(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        cells = rng.permutation(16)[: 0 if rng.random() < good else rng.integers(1, 4)]
        for cell in cells.tolist():
            kind, level = int(rng.integers(2)), 255 if rng.random() < 0.8 else 90
            x, y = CELL * (cell % 4), CELL * (cell // 4)
            pixels[y : y + CELL, x : x + CELL] = 0
            pixels[y : y + CELL, x : x + CELL, 2 if kind == 0 else 0] = level
            edge = [[x, y, x + CELL, y, x + CELL, y + CELL, x, y + CELL]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0,
                 "bbox": [x, y, CELL, CELL], **({"segmentation": edge} if polygons else {})}
            )  # fmt: skip
        if len(cells) and rng.random() < 0.2:
            pixels[:CELL, :CELL] = (200, 0, 0) if 0 not in cells.tolist() else pixels[:CELL, :CELL]
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    listed = [{"id": i, "file_name": f"{i:03}.png", "width": SIDE, "height": SIDE} for i in range(1, n + 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def built(
    folder: Path,
    n: int = 80,
    *,
    polygons: bool = True,
    shares: str = "20/30/10/40",
    good: float = 0.3,
    names: tuple[str, ...] = NAMES,
) -> Path:
    """The built data set of `pictures`, CC0, in `folder`/data."""
    from hf_inspect.data import build

    options = {"license": "cc0-1.0", "shares": shares}
    src = pictures(folder / "raw", n, polygons=polygons, good=good, names=names)
    build("coco", folder / "data", src=src, options=options)
    return folder / "data"


def engine(folder: Path, *, masks: bool = False, names: tuple[str, ...] = ("red", "blue")) -> Path:
    """Write an exported folder that needs no training: a query a cell, whose scores are its redness and blueness.

    Its classes stand in another order than the data's. With `masks`, a pixel is inside where it is bright.
    """
    import openvino as ov
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, 3, SIDE, SIDE], np.float32)
    cells = ops.avg_pool(pixels, [CELL, CELL], [0, 0], [0, 0], [CELL, CELL], True)
    flat = ops.transpose(ops.reshape(cells, np.array([0, 3, 16]), True), np.array([0, 2, 1]))
    red, blue = (ops.gather(flat, np.array([i]), np.array(2)) for i in (0, 2))
    scores = ops.clamp(ops.concat([red, blue], 2), 0.0, 1.0)
    corners = [(c % 4 / 4, c // 4 / 4, (c % 4 + 1) / 4, (c // 4 + 1) / 4) for c in range(16)]
    nothing = ops.multiply(red, np.float32(0))
    outputs = [scores, ops.add(nothing, np.array([corners], np.float32))]
    if masks:
        bright = ops.subtract(ops.reduce_max(pixels, np.array([1]), True), np.float32(0.4))
        outputs += [ops.add(nothing, np.float32(1)), bright]
    folder.mkdir(parents=True)
    ov.save_model(ov.Model(outputs, [pixels]), folder / MODEL, compress_to_fp16=False)
    files.write_json(folder / TRAINED_ON, HISTORY.to_dict())
    preprocess = {
        "height": SIDE, "width": SIDE, "resize": "squash", "interpolation": "bilinear",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    info = {
        "format": FORMAT, "task": task_of(masks, names).to_dict(), "preprocess": preprocess, "precision": PRECISION,
        "decoding": Decoding(least=0.1).to_dict(), "architecture": "cells", "weights": "fp32",
        "files": {p.name: files.sha256(p) for p in sorted(folder.iterdir())},
    }  # fmt: skip
    files.write_json(folder / INSPECT, info)
    return folder

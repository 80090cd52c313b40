"""A small sound COCO file with everything in it, the images that it lists, and mistakes to make in it."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hf_inspect.errors import DataError
from tests import raw

SIZE = 40, 30  # width, height of every image
NAMES = ("a.png", "sub/b.png", "ü 3.png", "empty.png")
RUNS = [30 * 10 + 5, 10, 20, 10, 30 * 40 - 30 * 10 - 45]  # two columns of ten pixels: x 10 to 12, y 5 to 15
ODD = (
    None, True, -1, 0, 1, 2, 7, 39.5, 1e9, 1e308, math.inf, -math.inf, math.nan, 10**30, "", "1", "x", "1.0",
    "../a.png", "/etc/passwd", "C:\\a.png", "\ud800", "\0", [], {}, [[]], [0, 0, 0, 0], [1, 2, 3, 4], [-5, -5, 90, 90],
    [[1, 1, 9, 9, 9, 1, 1, 9]], [[0, 0, 5, 5]], {"size": [30, 40], "counts": "0"}, {"size": [40, 30], "counts": RUNS},
    {"size": [3, 3], "counts": [9]},
    {"size": [30, 40], "counts": [-1]}, {"size": [30, 40], "counts": "ÿ"},
)  # fmt: skip


def images(folder: Path) -> Path:
    """The folder of the images."""
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        raw.picture(np.random.default_rng(number), *SIZE).save(folder / name)
    return folder


def compressed(counts: list[int] = RUNS) -> dict[str, Any]:
    """An RLE as a text."""
    from faster_coco_eval import mask

    packed = mask.frPyObjects({"size": [SIZE[1], SIZE[0]], "counts": counts}, SIZE[1], SIZE[0])
    return {"size": [SIZE[1], SIZE[0]], "counts": packed["counts"].decode()}


def sound() -> dict[str, Any]:
    """Four images, one without annotations; boxes, polygons, both RLEs, a crowd and keypoints; nothing is wrong."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 9, 9], "area": 81, "iscrowd": 0}
    corners = [[5, 5, 25, 5, 25, 15, 5, 15]]
    drawn = {**box, "id": 2, "category_id": 2, "bbox": [5, 5, 20, 10], "area": 200, "segmentation": corners}
    painted = {**box, "id": 3, "image_id": 2, "bbox": [10, 5, 2, 10], "area": 20, "segmentation": compressed()}
    crowd = {**painted, "id": 4, "image_id": 3, "iscrowd": 1, "segmentation": {"size": [30, 40], "counts": RUNS}}
    points = {**box, "id": 5, "image_id": 3, "category_id": 3, "keypoints": [5, 5, 2, 0, 0, 0], "num_keypoints": 1}
    named = [{"id": 1, "name": "dent"}, {"id": 2, "name": "Riß"}, {"id": 3, "name": "pin", "keypoints": ["tip", "end"]}]
    listed = [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(NAMES, 1)]
    content = {"info": {"year": 2026}, "images": listed, "annotations": [box, drawn, painted, crowd, points]}
    return copy.deepcopy({**content, "categories": named})


def written(folder: Path, content: Any, name: str = "x.json") -> Path:
    """A file of the content, as Python writes JSON: NaN and lone surrogates as well."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


MISTAKES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), min_size=2, max_size=5),
        st.sampled_from(("set", "set", "set", "drop", "again", "key")),
        st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    ),
    min_size=1,
    max_size=6,
)


def mistaken(mistakes: list[tuple[list[int], str, Any]]) -> dict[str, Any]:
    """A sound file with mistakes in it: a value changed, dropped, doubled, or its key renamed, somewhere below."""
    content = sound()
    for way, how, value in mistakes:
        within: Any = content
        for step in way[:-1]:
            inside = [one for one in _values(within) if isinstance(one, dict | list) and one]
            within = inside[step % len(inside)] if inside else within
        _make(within, way[-1], how, copy.deepcopy(value))
    return content


def _values(within: Any) -> list[Any]:
    return list(within.values()) if isinstance(within, dict) else within


def _make(within: Any, step: int, how: str, value: Any) -> None:
    key = list(within)[step % len(within)] if isinstance(within, dict) else step % len(within)
    if how == "drop":
        del within[key]
    elif how == "again" and isinstance(within, list):
        within.append(copy.deepcopy(within[key]))
    elif how == "key" and isinstance(within, dict):
        within[str(value)] = within.pop(key)
    else:
        within[key] = value


def refusal(call: Callable[[], Any]) -> str | None:
    """The sentence that a call ends in, None where it does not."""
    try:
        call()
    except DataError as error:
        return str(error)
    return None

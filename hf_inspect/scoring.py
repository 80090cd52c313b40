"""A split of a built data set + edge and VLM -> one row of scores an image; what calibration and reports rest on."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, images
from hf_inspect.cascade import complexity
from hf_inspect.data import load_split, refuse_seen
from hf_inspect.errors import DataError
from hf_inspect.schema import Progress, Scorer, no_progress

_AT_ONCE = 64  # images decoded and held in memory together


@dataclass(frozen=True, slots=True)
class Scores:
    """One row an image, arrays of (n,): labels 0 or 1, group ids, P(defect) of each model, complexity in [0, 1].

    A model that was not asked has NaN. `ms` is the mean milliseconds an image by model, decoding included.
    """

    sources: list[str]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    p_edge: NDArray[np.float64]
    p_vlm: NDArray[np.float64]
    complexity: NDArray[np.float64]
    ms: dict[str, float]

    def rows(self, **constant: Any) -> list[dict[str, Any]]:
        """The scores as JSON rows, NaN as null, with `constant` added to each."""
        columns = zip(
            self.sources, self.labels.tolist(), self.groups.tolist(), _nullable(self.p_edge), _nullable(self.p_vlm),
            _nullable(self.complexity), strict=True,
        )  # fmt: skip
        names = ("source", "label", "group", "p_edge", "p_vlm", "complexity")
        return [constant | dict(zip(names, row, strict=True)) for row in columns]


def score(
    data: Path,
    split: str,
    edge: Scorer | None = None,
    vlm: Scorer | None = None,
    *,
    fitting: bool = False,
    progress: Progress = no_progress,
) -> Scores:
    """Score a split with the models given; LeakageError when one of them was trained on any of its images.

    `fitting` lifts that refusal, for choosing settings on the validation split, whose images stopped the training.
    `progress` is called with the model's name, images done, images in all.
    """
    rows = load_split(data, split)
    contents, sources = [row["bytes"] for row in rows["image"]], [row["path"] for row in rows["image"]]
    models = {name: model for name, model in (("edge", edge), ("vlm", vlm)) if model is not None}
    if not fitting:
        for model in models.values():
            if model.trained_on is not None:
                refuse_seen(model.trained_on, contents, sources)
    found: dict[str, NDArray[np.float64]] = {}
    ms: dict[str, float] = {}
    for name, model in models.items():
        found[name], ms[name] = _timed(model.p_defect, contents, partial(progress, f"{split}, {name}"))
    found["complexity"], ms["complexity"] = _timed(_complexities, contents, partial(progress, f"{split}, complexity"))
    nothing = np.full(len(contents), np.nan)
    return Scores(
        sources=sources,
        labels=np.array(rows["label"], np.int64),
        groups=np.array(rows["group"], np.int64),
        p_edge=found.get("edge", nothing),
        p_vlm=found.get("vlm", nothing),
        complexity=found["complexity"],
        ms=ms,
    )


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of a file `write_scores` wrote; DataError when it is missing or broken."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run 'hf-inspect calibrate' again.") from None


def _timed(
    function: Callable[[list[Any]], Any], contents: list[bytes], progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float64], float]:
    """The function's value of every image, fed in chunks, and the milliseconds it took an image."""
    parts, begin = [], perf_counter()
    for start in range(0, len(contents), _AT_ONCE):
        chunk = contents[start : start + _AT_ONCE]
        parts.append(function([images.load(content).rgb for content in chunk]))
        progress(start + len(chunk), len(contents))
    return np.concatenate(parts), (perf_counter() - begin) * 1000 / len(contents)


def _complexities(loaded: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    return np.array([complexity(rgb) for rgb in loaded])


def _nullable(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 9) for value in values]

"""The engine of an exported folder: files or RGB arrays in, answers out, with no setting of its own."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess, Reading, Rgb, check_rgb, load, prepare
from hf_inspect.runtime.backends import BACKENDS, Backend, described, fits
from hf_inspect.runtime.folder import INSPECT, NETWORKS, TRAINED_ON, read_folder, runtime_of
from hf_inspect.runtime.process import LoadedHere
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import Decoding
from hf_inspect.tasks.tiles import Tiles, predicted


class Engine:
    """An exported student, anomaly or detection model on OpenVINO or ONNX Runtime, a `Predictor`.

    Threads may share one: its network answers one of them at a time. Processes may not: load one in each, by `spawn`
    (ForkError).

    `task`, `reading`, `preprocess` and `tiles` (None: it looks at whole images) say what it answers and how it sees,
    `info` is the whole inspect.json.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any], threads: int | None = None) -> None:
        """Load a folder's network with the settings of `info`; most callers want `from_pretrained`."""
        self.info, self._folder = info, folder
        self.task = TaskSpec.from_dict(info["task"], folder / INSPECT)
        self.task.refuse_one_sided(f"The student in {folder}")
        self.reading = Reading.from_dict(info.get("reading"), folder / INSPECT)
        self.preprocess = Preprocess.from_dict(info["preprocess"])
        self.tiles = Tiles.from_dict(info.get("tiles"), folder / INSPECT)
        self._loaded_here, self._lock = LoadedHere("An Engine"), Lock()
        runtime, size = runtime_of(info), (self.preprocess.height, self.preprocess.width)
        self._network = BACKENDS[runtime](folder / NETWORKS[runtime], size, threads)
        self._check(self._network, NETWORKS[runtime])
        self._infer(np.zeros((1, 3, *size), np.float32))  # compiled and warm before the first image

    @classmethod
    def from_pretrained(cls, folder: str | Path, threads: int | None = None) -> "Engine":
        """Load what `hf-inspect export` wrote; `threads` limits the runtime's own threads (all cores by default).

        Raises DataError or ParityError when the folder is not as it was written, MissingExtraError when what runs it
        is not installed.
        """
        folder = Path(folder)
        return cls(folder, read_folder(folder), threads)

    @property
    def identity(self) -> str:
        """SHA-256 of inspect.json's content, which holds those of the model's files."""
        return hashlib.sha256(json.dumps(self.info, sort_keys=True).encode()).hexdigest()

    @property
    def told(self) -> float:
        """The score from which on what it finds is told of; 1 where it looks for nothing."""
        return Decoding.from_dict(self.info.get("decoding"), self._folder / INSPECT).told if self.task.finds else 1.0

    @cached_property
    def history(self) -> History:
        """trained_on.json of its folder, read when it is first asked for: the line does not need it."""
        path = self._folder / TRAINED_ON
        return History.from_dict(files.read_json(path), path)

    def predict(self, images: Sequence[str | Path | bytes | Rgb], batch_size: int = 16) -> list[Prediction]:
        """Files (paths or bytes) or RGB arrays uint8 (h, w, 3) of any sizes -> an answer for each, in order.

        Other forms go through `images.load(..., engine.reading).rgb` first, as in an Inspector. DataError for a file
        that cannot be read. `batch_size`, of images and of their tiles, changes speed and memory, not results.
        """
        self._loaded_here.check()
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; give 1 or more.")
        chunks = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return [one for chunk in chunks for one in self._predict_chunk(chunk, batch_size)]

    def _predict_chunk(self, chunk: Sequence[str | Path | bytes | Rgb], at_once: int) -> list[Prediction]:
        rgbs = [_rgb(image, self.reading) for image in chunk]
        return predicted(rgbs, self.tiles, self._predict_batch, self.task, self.info.get("decoding"), at_once)

    def _predict_batch(self, rgbs: Sequence[Rgb]) -> list[Prediction]:
        batch = np.stack([prepare(rgb, self.preprocess) for rgb in rgbs])
        sizes = [rgb.shape[:2] for rgb in rgbs]
        return TASKS[self.task.kind].decode(self._infer(batch), self.task, sizes, self.info.get("decoding"))

    def _infer(self, batch: NDArray[np.float32]) -> Any:
        """Inputs (n, 3, h, w) -> the task's outputs in float64, one or several. One thread at a time."""
        with self._lock:
            found = [one.astype(np.float64) for one in self._network.infer(batch)]
        return found[0] if len(found) == 1 else tuple(found)

    def _check(self, network: Backend, name: str) -> None:
        """DataError unless a network takes and gives what inspect.json wants of it."""
        height, width = self.preprocess.height, self.preprocess.width
        wanted, answers = [-1, 3, height, width], TASKS[self.task.kind].outputs(self.task, height, width)
        told = network.told
        fit = len(told) == len(answers) and all(fits(a, b) for a, b in zip(told, answers, strict=True))
        if not (fit and fits(network.given, wanted)):
            raise DataError(
                f"{name} maps {described(network.given)} to {_listed(told)}; {INSPECT} wants {described(wanted)} to "
                f"{_listed(answers)}. Export the model again."
            )


def _listed(shapes: Sequence[Sequence[int] | None]) -> str:
    return " and ".join(map(described, shapes))


def _rgb(image: str | Path | bytes | Rgb, reading: Reading) -> Rgb:
    """Pixels of whatever `predict` takes."""
    if isinstance(image, str | Path | bytes):
        return load(image, reading).rgb
    check_rgb(image)
    return image

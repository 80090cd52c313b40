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
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import Preprocess, Reading, Rgb, check_rgb, load, prepare
from hf_inspect.runtime.folder import INSPECT, MODEL, PRECISION, TRAINED_ON, read_folder
from hf_inspect.runtime.process import LoadedHere
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import Decoding


class Engine:
    """An exported student or anomaly model on OpenVINO, a `Predictor`.

    Threads may share one: its network answers one of them at a time. Processes may not: load one in each, by `spawn`
    (ForkError).

    `task`, `reading` and `preprocess` say what it answers and how it sees, `info` is the whole inspect.json.
    """

    def __init__(self, model: Any, info: Mapping[str, Any], folder: Path, threads: int | None = None) -> None:
        """Compile an OpenVINO model with the settings of `info`; most callers want `from_pretrained`."""
        self.info, self._folder = info, folder
        self.task = TaskSpec.from_dict(info["task"], folder / INSPECT)
        self.task.refuse_one_sided(f"The student in {folder}")
        self.reading = Reading.from_dict(info.get("reading"), folder / INSPECT)
        self.preprocess = Preprocess.from_dict(info["preprocess"])
        self._model, self._threads = model, threads
        self._loaded_here, self._lock = LoadedHere("An Engine"), Lock()
        self._requests = {True: self._compile(single=True)}

    @classmethod
    def from_pretrained(cls, folder: str | Path, threads: int | None = None) -> "Engine":
        """Load what `hf-inspect export` wrote; `threads` limits OpenVINO's own threads (all cores by default).

        Raises DataError or ParityError when the folder is not as it was written.
        """
        folder = Path(folder)
        info = read_folder(folder)
        core = _openvino().Core()
        try:
            return cls(core.read_model(folder / MODEL), info, folder, threads)
        except RuntimeError as error:
            raise DataError(
                f"{folder / MODEL} does not run on OpenVINO ({error}); export the student again."
            ) from error

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
        that cannot be read. `batch_size` changes speed and memory, not results.
        """
        self._loaded_here.check()
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; give 1 or more.")
        chunks = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return [one for chunk in chunks for one in self._predict_batch(chunk)]

    def _predict_batch(self, chunk: Sequence[str | Path | bytes | Rgb]) -> list[Prediction]:
        rgbs = [_rgb(image, self.reading) for image in chunk]
        batch = np.stack([prepare(rgb, self.preprocess) for rgb in rgbs])
        sizes = [rgb.shape[:2] for rgb in rgbs]
        return TASKS[self.task.kind].decode(self._infer(batch), self.task, sizes, self.info.get("decoding"))

    def _infer(self, batch: NDArray[np.float32]) -> Any:
        """Inputs (n, 3, h, w) -> the task's outputs in float64, one or several. One thread at a time."""
        single = len(batch) == 1
        with self._lock:
            if single not in self._requests:
                self._requests[single] = self._compile(single)
            request = self._requests[single]
            request.infer([batch], share_inputs=True)
            found = [tensor.data.astype(np.float64) for tensor in request.output_tensors]
        return found[0] if len(found) == 1 else tuple(found)

    def _compile(self, single: bool) -> Any:
        """An inference request for one image (a fixed shape is a fifth faster) or for any number."""
        openvino = _openvino()
        model = self._model.clone()
        shape = openvino.PartialShape([1 if single else -1, 3, self.preprocess.height, self.preprocess.width])
        of_task = TASKS[self.task.kind].outputs(self.task, self.preprocess.height, self.preprocess.width)
        answers = [openvino.PartialShape(one) for one in of_task]
        given, told = model.input(0).partial_shape, [one.partial_shape for one in model.outputs]
        fits = len(told) == len(answers) and all(a.compatible(b) for a, b in zip(told, answers, strict=True))
        if not (given.compatible(shape) and fits):
            raise DataError(
                f"{MODEL} maps {given} to {_listed(told)}; {INSPECT} wants {shape} to {_listed(answers)}. Export the "
                "model again."
            )
        model.reshape(shape)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISION, "PERFORMANCE_HINT": "LATENCY"}
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("Running an exported student needs OpenVINO: pip install 'hf-inspect[edge]'") from error
    return openvino


def _listed(shapes: Sequence[Any]) -> str:
    return " and ".join(map(str, shapes))


def _rgb(image: str | Path | bytes | Rgb, reading: Reading) -> Rgb:
    """Pixels of whatever `predict` takes."""
    if isinstance(image, str | Path | bytes):
        return load(image, reading).rgb
    check_rgb(image)
    return image

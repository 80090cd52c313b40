"""The engine of an exported folder: files or RGB arrays in, P(defect) out, with no setting of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import Preprocess, Rgb, check_rgb, load, prepare
from hf_inspect.runtime.folder import INSPECT, MODEL, PRECISION, TRAINED_ON, read_folder


class Engine:
    """An exported student on OpenVINO; threads may share one.

    `labels`, `preprocess` and `info` (the whole inspect.json) say what it is, `trained_on` what it has seen.
    """

    def __init__(
        self, model: Any, info: Mapping[str, Any], trained_on: Mapping[str, Any], threads: int | None = None
    ) -> None:
        """Compile an OpenVINO model with the settings of `info`; most callers want `from_pretrained`."""
        self.info, self.trained_on = info, trained_on
        self.labels = tuple(info["labels"])
        self.preprocess = Preprocess.from_dict(info["preprocess"])
        self._model, self._threads = model, threads
        self._lock = Lock()
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
            return cls(core.read_model(folder / MODEL), info, files.read_json(folder / TRAINED_ON), threads)
        except RuntimeError as error:
            raise DataError(
                f"{folder / MODEL} does not run on OpenVINO ({error}); export the student again."
            ) from error

    def predict(self, images: Sequence[str | Path | bytes | Rgb], batch_size: int = 16) -> NDArray[np.float64]:
        """Files (paths or bytes) or RGB arrays uint8 (h, w, 3) of any sizes -> P(defect) (n,) in [0, 1].

        DataError for a file that cannot be read. `batch_size` changes speed and memory, not results.
        """
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; give 1 or more.")
        chunks = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return np.concatenate([np.empty(0), *(self._predict_batch(chunk) for chunk in chunks)])

    def p_defect(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """RGB arrays uint8 (h, w, 3) -> P(defect) (n,): what a VLM offers under the same name."""
        return self.predict(images)

    def _predict_batch(self, chunk: Sequence[str | Path | bytes | Rgb]) -> NDArray[np.float64]:
        batch = np.stack([prepare(_rgb(image), self.preprocess) for image in chunk])
        logits = self._infer(batch)
        if not np.isfinite(logits).all():
            raise DataError("The model gave logits that are not finite; export the student again.")
        return _softmax(logits)[:, self.labels.index("defect")]

    def _infer(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Inputs (n, 3, h, w) -> logits (n, labels). One request a shape, so one thread at a time."""
        single = len(batch) == 1
        with self._lock:
            if single not in self._requests:
                self._requests[single] = self._compile(single)
            request = self._requests[single]
            request.infer([batch], share_inputs=True)
            return request.get_output_tensor(0).data.astype(np.float64)

    def _compile(self, single: bool) -> Any:
        """An inference request for one image (a fixed shape is a fifth faster) or for any number."""
        openvino = _openvino()
        model = self._model.clone()
        shape = openvino.PartialShape([1 if single else -1, 3, self.preprocess.height, self.preprocess.width])
        stated = model.input(0).partial_shape, model.output(0).partial_shape
        if not (stated[0].compatible(shape) and stated[1].compatible(openvino.PartialShape([-1, len(self.labels)]))):
            raise DataError(
                f"{MODEL} maps {stated[0]} to {stated[1]}; {INSPECT} wants {shape} to {len(self.labels)} labels. "
                "Export the student again."
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


def _rgb(image: str | Path | bytes | Rgb) -> Rgb:
    """Pixels of whatever `predict` takes."""
    if isinstance(image, str | Path | bytes):
        return load(image).rgb
    check_rgb(image)
    return image


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of (n, k) to probabilities; the largest logit is taken off first, so none overflows."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)

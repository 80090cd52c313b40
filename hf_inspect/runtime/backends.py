"""What runs an exported network: OpenVINO or ONNX Runtime, behind one way to ask either; none of them needs torch."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.runtime.folder import ONNX_RUNTIME, OPENVINO, PRECISION, TITLES

Shape = list[int] | None  # -1 stands for any length, None for any shape


class Backend(Protocol):
    """A network that was loaded from its file.

    `given` is the shape of the images that it takes, `told` those of its outputs.
    """

    given: Shape
    told: list[Shape]

    def infer(self, batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Images (n, 3, h, w) -> the outputs, which may be overwritten by the next call. One thread at a time."""
        ...


class OpenVino:
    """A network on OpenVINO: compiled once for one image, a fifth faster, and once for any number."""

    def __init__(self, path: Path, size: tuple[int, int], threads: int | None) -> None:
        """Read a .xml file and the .bin beside it; DataError where it does not run."""
        self._openvino, self._size, self._threads = _library(OPENVINO, "edge"), size, threads
        self._path, self._requests = path, dict[bool, Any]()
        try:
            self._model = self._openvino.Core().read_model(path)
            self.given = _static(self._model.input(0).partial_shape)
            self.told = [_static(one.partial_shape) for one in self._model.outputs]
        except RuntimeError as error:
            raise _does_not_run(path, OPENVINO, error) from error

    def infer(self, batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """As of any `Backend`."""
        single = len(batch) == 1
        if single not in self._requests:
            self._requests[single] = self._compiled(single)
        request = self._requests[single]
        request.infer([batch], share_inputs=True)
        return [tensor.data for tensor in request.output_tensors]

    def _compiled(self, single: bool) -> Any:
        model = self._model.clone()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISION, "PERFORMANCE_HINT": "LATENCY"}
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        try:
            model.reshape(self._openvino.PartialShape([1 if single else -1, 3, *self._size]))
            return self._openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise _does_not_run(self._path, OPENVINO, error) from error


class OnnxRuntime:
    """A network on ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, size: tuple[int, int], threads: int | None) -> None:
        """Load a .onnx file; DataError where it does not run."""
        runtime = _library(ONNX_RUNTIME, "onnx")
        runtime.disable_telemetry_events()  # of its builds for Windows
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common but this
            raise _does_not_run(path, ONNX_RUNTIME, error) from error
        (images,) = self._session.get_inputs()
        self._name, self.given = images.name, _known(images.shape)
        self.told = [_known(one.shape) for one in self._session.get_outputs()]

    def infer(self, batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """As of any `Backend`."""
        return list(self._session.run(None, {self._name: batch}))


BACKENDS: Mapping[str, Callable[[Path, tuple[int, int], int | None], Backend]] = {
    OPENVINO: OpenVino,
    ONNX_RUNTIME: OnnxRuntime,
}


def fits(came: Shape, wanted: Sequence[int]) -> bool:
    """Whether what a network states may be a shape, in which -1 stands for any length."""
    return came is None or (
        len(came) == len(wanted) and all(a == b or -1 in (a, b) for a, b in zip(came, wanted, strict=True))
    )


def described(shape: Sequence[int] | None) -> str:
    """`[?,3,224,224]`."""
    return "[...]" if shape is None else f"[{','.join('?' if n == -1 else str(n) for n in shape)}]"


def _library(name: str, extra: str) -> Any:
    """The module of a runtime; MissingExtraError without it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"Running this exported model needs {TITLES[name]}: pip install 'hf-inspect[{extra}]'"
        ) from error


def _does_not_run(path: Path, runtime: str, error: Exception) -> DataError:
    return DataError(f"{path} does not run on {TITLES[runtime]} ({error}); export the model again.")


def _static(shape: Any) -> Shape:
    """OpenVINO's shape."""
    if shape.rank.is_dynamic:
        return None
    return [one.get_length() if one.is_static else -1 for one in shape]


def _known(shape: Sequence[int | str | None]) -> Shape:
    """ONNX Runtime's shape, in which a length that is free has a name."""
    return [one if isinstance(one, int) else -1 for one in shape]

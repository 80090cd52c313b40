"""An exported folder and images -> answers, on OpenVINO or ONNX Runtime, without torch."""

from hf_inspect.runtime.engine import Engine
from hf_inspect.runtime.folder import (
    FORMAT,
    INSPECT,
    MODEL,
    NETWORKS,
    ONNX_RUNTIME,
    OPENVINO,
    PRECISION,
    TITLES,
    TRAINED_ON,
    runtime_of,
)
from hf_inspect.runtime.process import LoadedHere

__all__ = [
    "FORMAT", "INSPECT", "MODEL", "NETWORKS", "ONNX_RUNTIME", "OPENVINO", "PRECISION", "TITLES", "TRAINED_ON",
    "Engine", "LoadedHere", "runtime_of",
]  # fmt: skip

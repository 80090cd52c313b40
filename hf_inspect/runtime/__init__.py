"""An exported folder and images -> P(defect), on OpenVINO, without torch."""

from hf_inspect.runtime.engine import Engine
from hf_inspect.runtime.folder import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON
from hf_inspect.runtime.process import LoadedHere

__all__ = ["FORMAT", "INSPECT", "MODEL", "PRECISION", "TRAINED_ON", "Engine", "LoadedHere"]

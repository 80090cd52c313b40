"""An exported folder and images -> P(defect), on OpenVINO, without torch."""

from hf_inspect.runtime.engine import Engine
from hf_inspect.runtime.folder import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON

__all__ = ["FORMAT", "INSPECT", "MODEL", "PRECISION", "TRAINED_ON", "Engine"]

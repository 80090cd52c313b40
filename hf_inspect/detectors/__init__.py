"""Built data sets of boxes -> small models that find things in images without a prompt, and their predictions."""

from hf_inspect.detectors.labels import teacher_of
from hf_inspect.detectors.predictor import Detector, ancestors_of, new_detector

__all__ = ["Detector", "ancestors_of", "new_detector", "teacher_of"]

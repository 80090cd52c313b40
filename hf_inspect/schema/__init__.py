"""The frozen values that cross module borders, checked once at construction."""

from collections.abc import Callable

from hf_inspect.schema.answers import DecidedBy, Decision, Prediction, Predictor, Verdict
from hf_inspect.schema.findings import Box, Finding
from hf_inspect.schema.history import HISTORY_FORMAT, RECORD_FIELDS, History, Source
from hf_inspect.schema.meaning import LEAST, Meaning
from hf_inspect.schema.pieces import Part, Sample
from hf_inspect.schema.task import (
    ANOMALY,
    BINARY,
    DEFECT,
    DETECTION,
    GOOD,
    KINDS,
    SEGMENTATION,
    Disposition,
    TaskSpec,
)

__all__ = [
    "ANOMALY", "BINARY", "DEFECT", "DETECTION", "GOOD", "HISTORY_FORMAT", "KINDS", "LEAST", "RECORD_FIELDS",
    "SEGMENTATION", "Box", "DecidedBy", "Decision", "Disposition", "Finding", "History", "Meaning", "Part",
    "Prediction", "Predictor", "Progress", "Sample", "Source", "TaskSpec", "Verdict", "no_progress",
]  # fmt: skip

Progress = Callable[[str, int, int], None]  # what is under way, how many are done, how many there are


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""

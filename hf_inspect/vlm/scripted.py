"""A stand-in for a VLM, for tests of what is built around one."""

import hashlib
import json
from collections.abc import Sequence
from threading import Lock

from hf_inspect.errors import DataError
from hf_inspect.images import Rgb
from hf_inspect.schema import BINARY, History, Prediction, TaskSpec


class ScriptedVLM:
    """A `Predictor` whose `answers` are the severities in [0, 1] it gives, in order and from the start again.

    An answer of None could not be read. `asked` counts the images. Threads may share one: each answer is given once in
    a round, and which thread gets it is chance.
    """

    history = History()
    reading = None

    def __init__(self, answers: Sequence[float | None], task: TaskSpec = BINARY) -> None:
        task.refuse_one_sided("A scripted VLM")
        if not answers or any(one is not None and not 0.0 <= one <= 1.0 for one in answers):
            raise DataError(f"Scripted answers are one or more severities in [0, 1], or None; got {list(answers)}.")
        self.answers, self.task, self.asked = list(answers), task, 0
        self._lock = Lock()

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over the script and its task."""
        return hashlib.sha256(json.dumps([self.answers, self.task.to_dict()]).encode()).hexdigest()

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """The next scripted answer for each image, the probability on the first good and the first defect class."""
        with self._lock:
            at = [(self.asked + i) % len(self.answers) for i in range(len(images))]
            self.asked += len(images)
        return [self._prediction(self.answers[i]) for i in at]

    def _prediction(self, severity: float | None) -> Prediction:
        if severity is None:
            return Prediction(None, unreadable="the script has no answer here")
        share = {self.task.good[0]: 1.0 - severity, self.task.defects[0]: severity}
        return Prediction(severity, tuple(share.get(name, 0.0) for name in self.task.classes))

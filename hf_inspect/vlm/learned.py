"""What the training of a VLM that says where things are states of it, beside its prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect.cascade.composite import meaning_of
from hf_inspect.errors import DataError
from hf_inspect.schema import Meaning
from hf_inspect.tasks.detection import Decoding

LEARNED = "grounding"  # its key in prompt.json
LONGEST = 256  # tokens of an answer where no training says


@dataclass(frozen=True, slots=True)
class Learned:
    """What the training of a grounded VLM states beside its prompt.

    `confidence` turns the mean probability of an object's tokens into that of its being right, `told` is the score from
    which findings are told of; `longest` are the tokens of the longest answer.
    """

    confidence: Meaning | None = None
    told: float = Decoding().told
    longest: int = LONGEST

    @classmethod
    def from_dict(cls, value: Any, where: Path) -> "Learned":
        """What `to_dict` wrote into the record `where`; DataError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {"confidence", "told", "longest"}:
            raise DataError(f"{where} does not say what its scores mean ({value!r}); train it with recipes/vlm_ground.")
        stated = value["confidence"]
        return cls(
            None if stated is None else Meaning.from_dict(stated, where), float(value["told"]), int(value["longest"])
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        stated = None if self.confidence is None else self.confidence.to_dict()
        return {"confidence": stated, "told": self.told, "longest": self.longest}


def with_confidence(learned: Learned, scores: Sequence[float], right: Sequence[bool], told: float | None) -> Learned:
    """What findings on validation say: the chance of being right by Platt's scaling, where some were and some not."""
    found = learned if told is None else replace(learned, told=told)
    if not (any(right) and not all(right)):
        return found
    return replace(found, confidence=meaning_of(np.array(scores), np.array(right, np.int64), "validation"))

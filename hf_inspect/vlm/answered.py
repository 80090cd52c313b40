"""An answer as it travels, and back: a prediction as JSON, of which no more is believed than has an answer's shape.

A VLM sees an image at the size at which it is sent, and says where things are in pixels of that: boxes are put back
into those of the original where the answer is read.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_inspect.errors import DataError
from hf_inspect.prompts.sizing import Size
from hf_inspect.schema import Box, Finding, Prediction, TaskSpec
from hf_inspect.vlm.wire import Unanswered

MOST = 100  # findings of an answer, the surest, as those of a detection model
_KEYS = {"class", "score", "box"}
_TEXTS = {"description"}


def answer_of(found: Prediction) -> dict[str, Any]:
    """What travels of a prediction, as plain JSON values: of its findings the `MOST` surest, without masks.

    A note says how many more there were.
    """
    if found.findings is None:
        return found.to_dict()
    kept = tuple(replace(one, mask=None) for one in found.findings[:MOST])
    more = len(found.findings) - len(kept)
    notes = (*found.notes, f"{more} findings beyond the {MOST} surest left out") if more else found.notes
    return replace(found, findings=kept, notes=notes).to_dict()


def prediction_of(stated: Any, task: TaskSpec, sent: Size, size: Size) -> Prediction:
    """The prediction of a model of `task` that JSON states; the image, `size` high and wide, was sent `sent` high and
    wide. Boxes are in pixels of the image, and clipped to it.

    Unanswered, as garbage, for what `answer_of` does not write.
    """
    try:
        severity, p, found = stated.get("severity"), stated.get("probabilities"), stated.get("findings")
        why, notes = stated.get("unreadable"), stated.get("notes", [])
        if not (severity is None or _is_number(severity)) or not (why is None or isinstance(why, str)):
            raise TypeError("severity")
        if not isinstance(notes, list) or not all(isinstance(one, str) for one in notes):
            raise TypeError("notes")
        findings = None if found is None else _findings(found, sent, size)
        said = Prediction(severity, None if p is None else tuple(p), why, findings=findings, notes=tuple(notes))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError):
        raise Unanswered("garbage", "its server answered what is no prediction") from None
    if p is not None and len(p) != len(task.classes):
        raise Unanswered("garbage", f"its server answered {len(p)} probabilities, not {len(task.classes)}")
    if (findings is not None) > task.finds or (severity is not None and findings is None and task.finds):
        raise Unanswered("garbage", f"its server answered {'no ' * task.finds}findings of a {task.kind}")
    return said


def _findings(stated: Any, sent: Size, size: Size) -> tuple[Finding, ...]:
    """The findings of a list of JSON objects, the surest first."""
    if not isinstance(stated, list) or len(stated) > MOST:
        raise TypeError("findings")
    return tuple(sorted((_finding(one, sent, size) for one in stated), key=lambda one: -one.score))


def _finding(stated: Any, sent: Size, size: Size) -> Finding:
    if not isinstance(stated, Mapping) or not _KEYS <= set(stated) <= _KEYS | _TEXTS:
        raise TypeError("finding")
    name, said = stated["class"], stated.get("description", "")
    if not (isinstance(name, str) and name.strip() and isinstance(said, str) and _is_number(stated["score"])):
        raise TypeError("finding")
    return Finding(name, float(stated["score"]), _box(stated["box"], sent, size), description=said)


def _box(stated: Any, sent: Size, size: Size) -> Box:
    """Four numbers in pixels of the sent image -> a box in pixels of the original, inside it."""
    if not isinstance(stated, list) or len(stated) != 4 or not all(map(_is_number, stated)):
        raise TypeError("box")
    x0, y0, x1, y1 = (
        min(max(value * size[axis] / sent[axis], 0.0), float(size[axis]))
        for value, axis in zip(stated, (1, 0, 1, 0), strict=True)
    )
    return x0, y0, x1, y1


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""A VLM's server + the validation split -> what sending images as JPEG saves in bytes, and costs in answers."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from hf_inspect.errors import DataError
from hf_inspect.reports.heading import data_section, environment
from hf_inspect.schema import BINARY, Prediction, Progress, no_progress
from hf_inspect.scoring import Answers, run
from hf_inspect.tasks import TASKS
from hf_inspect.vlm.remote import RemoteVLM

VALIDATION = "validation"  # a setting is chosen here, and nothing is reported of it
_DEADLINE = 120.0  # seconds an image: what is late here would be a gap in the comparison


def wire_cost(url: str, data: Path, jpeg: int, scores: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Ask the server at `url` about every validation image twice, as it is and at a JPEG quality.

    `wire` has `flips` (another class, or another side of severity 0.5, which is all of a VLM that finds things), what
    `tasks.compare` says besides, bytes a part of both, and how many images had no answer in one of them. `scores` is
    the file of answers to go on from.
    """
    sent = {"lossless": RemoteVLM.connect(url, deadline=_DEADLINE)}
    sent["jpeg"] = RemoteVLM.connect(url, deadline=_DEADLINE, jpeg=jpeg)
    found = run(dict(sent), data, VALIDATION, scores, fitting=True, progress=progress)
    whole = ~np.any([np.isnan(one.severity) for one in found.answers.values()], axis=0)
    if not whole.any():
        raise DataError(f"{url} answered none of the {len(whole)} validation images both ways; look after the server.")
    before, after = (_predictions(found.answers[name][whole]) for name in ("lossless", "jpeg"))
    named = found.task.same_as(sent["lossless"].task)
    task, classes = (found.task, found.classes) if named else (BINARY, found.labels)
    cost = TASKS[task.kind].compare(task, classes[whole], before, after)
    bytes_a_part = {
        name: one.wire.counts["bytes"] / one.wire.counts["asked"]
        for name, one in sent.items()
        if one.wire.counts["asked"]
    }
    stated = {"quality": jpeg, "bytes": bytes_a_part, "unanswered": int((~whole).sum()), **cost}
    head = {"data": data_section(data, VALIDATION, 0), "environment": environment()}
    return head | {"task": found.task.to_dict(), "wire": stated}


def described(results: dict[str, Any]) -> str:
    """What `wire_cost` found, in a sentence or two."""
    cost = results["wire"]
    flips, sizes = cost["flips"], cost["bytes"]
    line = f"JPEG {cost['quality']}: {flips['k']} of {flips['n']} validation images are answered otherwise"
    line += f" (probabilities move by up to {cost['max_change']:.3f})"
    if len(sizes) == 2:
        line += f"; {sizes['jpeg']:,.0f} bytes a part instead of {sizes['lossless']:,.0f}"
    return f"{line}." + (f" {cost['unanswered']} had no answer." if cost["unanswered"] else "")


def _predictions(answers: Answers) -> list[Prediction]:
    """The answers; of a model that knows no classes of whole images, good and defect by its severity."""
    rows = zip(answers.severity.tolist(), answers.probabilities.tolist(), strict=True)
    return [Prediction(x, (1 - x, x) if math.isnan(sum(p)) else tuple(p)) for x, p in rows]

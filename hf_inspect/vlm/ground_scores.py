"""What a grounded VLM in training finds in validation images: figures to choose a checkpoint by, and at the end what
its scores mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect.cascade.composite import meaning_of
from hf_inspect.data.pool import Pool
from hf_inspect.images import Rgb
from hf_inspect.metrics.findings import Compared, Shown, point_figures
from hf_inspect.metrics.matches import Matches, best_threshold
from hf_inspect.prompts import Grounding
from hf_inspect.schema import DEFECT, Prediction
from hf_inspect.tasks.detection import Decoding, severity_of
from hf_inspect.vlm.ground_training import GroundedRows, own_head
from hf_inspect.vlm.grounded import GroundedVLM, merged
from hf_inspect.vlm.guiding import Guide
from hf_inspect.vlm.learned import Learned, with_confidence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_ONCE = 8  # images in memory
Predict = Callable[[Sequence[Rgb]], Sequence[Prediction]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A validation image: what is there and what was found of the task's classes, the answer, and its class."""

    shown: Shown
    said: Prediction
    defect: bool


def figures(
    model: "PreTrainedModel",
    rows: GroundedRows,
    learned: Learned,
    pool: Pool | None,
    num: int,
    most: int,
    batch: int,
    text: bool = True,
) -> dict[str, float]:
    """`figures_of` of answers in the standard way, of those guided by `num` exemplars (`_guided`), and of the model's
    detection head (`_head`), where there are any; of `most` images. Without `text`, of the head alone.
    """
    ask = _asking(model, rows, learned, batch)
    found = figures_of(answered(rows, ask().predict, most), rows.question) if text else {}
    if pool is not None:
        guided = figures_of(answered(rows, ask(guide=Guide(pool, num)).predict, most), rows.question)
        found |= {f"{name}_guided": value for name, value in guided.items()}
    if (head := own_head(model)) is not None:
        of_head = figures_of(answered(rows, ask(head=head, by="head").predict, most), rows.question)
        found |= {f"{name}_head": of_head[name] for name in of_head if name not in ("unreadable", "unknown")}
    return found


def figures_of(answers: Sequence[Answered], question: Grounding) -> dict[str, float]:
    """mAP and its kin, the share of answers `unreadable`, and findings an image of names that are no class."""
    n = len(answers)
    unknown = sum(len(one.said.findings or ()) - len(one.shown.findings) for one in answers)
    unreadable = sum(one.said.severity is None for one in answers)
    compared = Compared.of([one.shown for one in answers], question.task)
    return point_figures(compared) | {"unreadable": unreadable / n, "unknown": unknown / n}


def fitted(
    model: "PreTrainedModel", rows: GroundedRows, learned: Learned, most: int, batch: int, text: bool = True
) -> tuple[Learned, Grounding]:
    """What scores mean, by answers to `most` validation images: that of a finding, and that of a whole image.

    A said finding's becomes the chance that it is right. From which score on findings are told of is that of the best
    F1, of text and head together where there is a head; so is severity, which becomes P(defect) where validation has
    good parts and defects. What cannot be fitted stays as it is. Without `text`, of the head alone.
    """
    question, least, ask = rows.question, Decoding().least, _asking(model, rows, learned, batch)
    head = own_head(model)
    answers = answered(rows, ask().predict if text else ask(head=head, by="head").predict, most)
    matches = Matches.of(Compared.of([one.shown for one in answers], question.task))
    if text:
        learned = with_confidence(learned, matches.scores.tolist(), (matches.partners >= 0).tolist(), None)
        answers = [_said(one, _scored(one.said, learned), question) for one in answers]
    if text and head is not None:
        seen = answered(rows, ask(head=head, by="head").predict, most)
        answers = [
            _said(one, merged(one.said, other.said, question.task), question)
            for one, other in zip(answers, seen, strict=True)
        ]
    told = best_threshold(Matches.of(Compared.of([one.shown for one in answers], question.task)))
    learned = learned if told is None else replace(learned, told=told)
    answers = [one for one in answers if one.said.severity is not None]
    strongest = [max(severity_of(one.said.findings or (), question.task, least), least) for one in answers]
    defects = [int(one.defect) for one in answers]
    if 0 < sum(defects) < len(defects):
        score = meaning_of(np.array(strongest), np.array(defects), "validation")
        question = replace(question, task=replace(question.task, score=score))
    return learned, question


def answered(rows: GroundedRows, predict: Predict, most: int) -> list[Answered]:
    """What `predict` says of `most` images, spread over all."""
    sides, found = rows.rows.features["label"].names, list[Answered]()
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)).tolist()
    for at in range(0, len(numbers), _AT_ONCE):
        some = [rows.rows[i] for i in numbers[at : at + _AT_ONCE]]
        read = [rows.read(row) for row in some]
        for row, (rgb, things), said in zip(some, read, predict([rgb for rgb, _ in read]), strict=True):
            asked = Answered(Shown(rgb.shape[0], rgb.shape[1], things, ()), said, sides[row["label"]] == DEFECT)
            found.append(_said(asked, said, rows.question))
    return found


def _asking(model: "PreTrainedModel", rows: GroundedRows, learned: Learned, batch: int) -> Callable[..., GroundedVLM]:
    """What makes a predictor of a model in training, which answers as its weights are then."""

    def ask(**given: Any) -> GroundedVLM:
        return GroundedVLM(
            model, rows.processor, rows.question, learned=learned, reading=rows.reading, batch_size=batch, **given
        )

    return ask


def _said(answer: Answered, said: Prediction, question: Grounding) -> Answered:
    """The same image with another answer."""
    known = tuple(one for one in said.findings or () if one.name in question.task.classes)
    return replace(answer, said=said, shown=replace(answer.shown, findings=known))


def _scored(said: Prediction, learned: Learned) -> Prediction:
    """An answer whose findings' scores are what the confidence makes of them."""
    if learned.confidence is None or not said.findings:
        return said
    scores = learned.confidence.severity(np.array([one.score for one in said.findings])).clip(0, 1)
    pairs = zip(said.findings, scores, strict=True)
    return replace(said, findings=tuple(replace(one, score=float(score)) for one, score in pairs))

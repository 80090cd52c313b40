"""What a smaller detection model learns from a larger one besides labels: scores of places, and features.

Four terms, each with a share of the loss: `detection` and `segmentation` are the student's own losses against the
labels, `logits` and `features` hold it against the teacher. One whose part either side lacks is left out, and the
shares of the others are brought to a sum of 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_inspect.detectors.families import Parts, family_of
from hf_inspect.detectors.predictor import Detector
from hf_inspect.detectors.training import settings_of, task_of, tiles_of
from hf_inspect.errors import DataError
from hf_inspect.images import Reading
from hf_inspect.schema import SEGMENTATION

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

SHARES: Mapping[str, float] = {"detection": 0.3, "segmentation": 0.3, "logits": 0.2, "features": 0.2}
_OF_TEACHER = ("logits", "features")
_TINY = 1e-6  # added to what is divided by


@dataclass(frozen=True, slots=True)
class Plan:
    """Which terms a student learns by, and how.

    `shares` of those that are there add up to 1, `left_out` says of the others why. `classes` are the positions of the
    student's classes among the teacher's, `widths` the channels of student and teacher by the stride of the features
    that both have.
    """

    shares: dict[str, float]
    left_out: dict[str, str]
    classes: tuple[int, ...]
    widths: dict[int, tuple[int, int]]
    temperature: float
    alpha: float

    def __str__(self) -> str:
        kept = ", ".join(f"{name} {share:.3f}" for name, share in self.shares.items())
        return "; ".join([f"learned by {kept}", *(f"no {name}: {why}" for name, why in self.left_out.items())])

    def to_dict(self) -> dict[str, Any]:
        """What the training's log says of it."""
        return {
            "shares": self.shares, "left_out": self.left_out, "temperature": self.temperature, "alpha": self.alpha,
            "strides": list(self.widths) if "features" in self.shares else [],
        }  # fmt: skip


def planned(
    student: "PreTrainedModel",
    teacher: Detector,
    shares: Mapping[str, float],
    temperature: float,
    alpha: float,
    reading: Reading,
) -> Plan:
    """The plan for a student that learns from a teacher, images read as `reading` says.

    Classes are known by their names. DataError for shares and settings that cannot be, a teacher that finds other
    things or sees images otherwise, and where nothing of it reaches the student.
    """
    _check(shares, temperature, alpha)
    task, (own, _), theirs = task_of(student), settings_of(student), teacher.preprocess
    task.refuse_things(teacher.task, "the student", f"the teacher {teacher.folder.name}")
    if (own.height, own.width) != (theirs.height, theirs.width):
        raise DataError(
            f"the teacher {teacher.folder.name} sees images of {theirs.height} x {theirs.width} pixels, the student "
            f"{own.height} x {own.width}; give --height {theirs.height} --width {theirs.width}."
        )
    if tiles_of(student) != teacher.tiles:
        raise DataError(
            f"the teacher {teacher.folder.name} looks at {teacher.tiles or 'whole images'}, the student at "
            f"{tiles_of(student) or 'whole images'}; give --tile {teacher.tiles.side if teacher.tiles else 0}"
            f"{f' --overlap {teacher.tiles.overlap}' if teacher.tiles else ''}."
        )
    reading.refuse_model(teacher.reading, "The data set", f"the teacher {teacher.folder.name}")
    answers, parts = _probed(teacher.model, own.height, own.width), _probed(student, own.height, own.width)
    strides = [one for one, own in parts.features.items() if _size(own) == _size(answers.features.get(one))]
    why = {
        "detection": None,
        "segmentation": None if task.kind == SEGMENTATION else "the student finds boxes alone",
        "logits": _unlike(student, teacher.model, parts, answers),
        "features": None if strides else "no map of the two is of one stride and size",
    }
    asked = {**SHARES, **shares}
    left_out = {name: reason or "its share is 0" for name, reason in why.items() if reason or not asked[name]}
    kept = {name: asked[name] for name in SHARES if name not in left_out}
    if not set(kept) & set(_OF_TEACHER):
        said = "; ".join(f"no {name}: {left_out[name]}" for name in _OF_TEACHER)
        raise DataError(f"nothing of the teacher reaches the student ({said}); leave it out, or give another.")
    return Plan(
        {name: share / sum(kept.values()) for name, share in kept.items()},
        left_out,
        tuple(teacher.task.index(name) for name in task.classes),
        {one: (parts.features[one].shape[1], answers.features[one].shape[1]) for one in strides},
        temperature,
        alpha,
    )


def projections(plan: Plan) -> "nn.ModuleDict":
    """1 x 1 convolutions from the student's width to the teacher's, by stride, where they differ.

    They are learned with the student, and no part of it. Torch's random numbers go on as if none had been drawn.
    """
    import torch
    from torch import nn

    widths = plan.widths if "features" in plan.shares else {}
    with torch.random.fork_rng(devices=[]):
        return nn.ModuleDict({str(one): nn.Conv2d(a, b, 1) for one, (a, b) in widths.items() if a != b})


def terms(plan: Plan, student: Parts, teacher: Parts, projected: "nn.ModuleDict") -> "dict[str, torch.Tensor]":
    """The terms of the plan for a batch, each a number.

    `logits` is, as Hinton et al. have it (arXiv 1503.02531), alpha * soft + (1 - alpha) * hard: hard is the student's
    own loss of the classes against the labels, soft is `soft_loss`. `features` is the mean of `feature_loss` over the
    strides.
    """
    import torch

    found: dict[str, torch.Tensor] = {
        name: student.losses[name] for name in ("detection", "segmentation") if name in plan.shares
    }
    if "logits" in plan.shares:
        assert student.logits is not None
        assert teacher.logits is not None
        soft = soft_loss(student.logits, teacher.logits[..., list(plan.classes)], plan.temperature)
        found["logits"] = plan.alpha * soft + (1 - plan.alpha) * student.losses["classes"]
    if "features" in plan.shares:
        losses = []
        for stride in plan.widths:
            own, name = student.features[stride], str(stride)
            own = projected[name](own) if name in projected else own
            losses.append(feature_loss(own, teacher.features[stride]))
        found["features"] = torch.stack(losses).mean()
    return found


def mixed(plan: Plan, found: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """The loss: the terms by their shares."""
    import torch

    return torch.stack([share * found[name] for name, share in plan.shares.items()]).sum()


def soft_loss(student: "torch.Tensor", teacher: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """How far a student's logits (n, q, k) are from a teacher's: 0 where they are equal.

    Each class is a yes or no (a sigmoid), so it is the Kullback-Leibler divergence of two coins, sigmoid(teacher / T)
    from sigmoid(student / T), summed over the classes, times T^2, which keeps its slope beside the hard loss at any T.
    A place counts by the teacher's surest class there, max over k of sigmoid(teacher), as in Feature-Richness Score
    (arXiv 2111.00674): of thousands of places few hold a thing.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    own, theirs = student.float() / temperature, teacher.float() / temperature
    said = theirs.sigmoid()
    apart = cross_entropy(own, said, reduction="none") - cross_entropy(theirs, said, reduction="none")
    weights = teacher.float().sigmoid().amax(-1)
    return temperature**2 * (weights * apart.sum(-1)).sum() / (weights.sum() + _TINY)


def feature_loss(student: "torch.Tensor", teacher: "torch.Tensor") -> "torch.Tensor":
    """How far two maps (n, c, h, w) are apart once each channel of a batch has mean 0 and deviation 1.

    Half the mean squared error, which is 1 - Pearson's correlation: PKD (arXiv 2207.02039). A channel's scale and
    shift, which differ between networks, say nothing.
    """
    return (_normed(student) - _normed(teacher)).square().mean() / 2


def _normed(maps: "torch.Tensor") -> "torch.Tensor":
    channels = maps.float().transpose(0, 1).flatten(1)
    centred = channels - channels.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + _TINY)


def _check(shares: Mapping[str, float], temperature: float, alpha: float) -> None:
    if unknown := [name for name in shares if name not in SHARES]:
        raise DataError(f"shares names {unknown[0]!r}; the terms are {', '.join(SHARES)}.")
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise DataError(f"the share of {name} is {share!r}; give a number from 0 on, 0 to leave it out.")
    if not 0 < temperature < math.inf or not 0 <= alpha <= 1:
        raise DataError(f"temperature is {temperature}, alpha {alpha}; give one above 0, and one from 0 to 1.")


def _probed(model: "PreTrainedModel", height: int, width: int) -> Parts:
    """What a model gives for a black image, whatever it was doing."""
    import torch

    training = model.training
    with torch.no_grad():
        found = family_of(model.config).parts(model.eval(), torch.zeros(1, 3, height, width, device=model.device), None)
    model.train(training)
    return found


def _size(maps: "torch.Tensor | None") -> "torch.Size | None":
    return None if maps is None else maps.shape[-2:]


def _unlike(student: "PreTrainedModel", teacher: "PreTrainedModel", own: Parts, theirs: Parts) -> str | None:
    """Why the logits of a student and a teacher cannot be held against each other; None where they can."""
    kinds = student.config.model_type, teacher.config.model_type
    for kind, parts in zip(kinds, (own, theirs), strict=True):
        if parts.logits is None:
            return f"{kind} scores no fixed places"
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} scores places otherwise than {kinds[1]}"
    assert own.logits is not None
    assert theirs.logits is not None
    places = own.logits.shape[1], theirs.logits.shape[1]
    return None if places[0] == places[1] else f"the student scores {places[0]} places, the teacher {places[1]}"

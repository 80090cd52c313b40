"""Channels taken out of a detection model's body, whole ones: a smaller network that is to be trained further.

Which channels hang together torch-pruning finds (DepGraph, arXiv 2301.12900); those with the smallest weights go. What
is left of each layer stands in the model's config, so that a folder is loaded as any other.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hf_inspect.detectors.families import family_of
from hf_inspect.detectors.fcos import FcosForInspectionDetection
from hf_inspect.detectors.widths import widths_of
from hf_inspect.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_ROUND = 8  # channels of a layer are multiples of it, as vectors of processors are


def prune(model: "PreTrainedModel", share: float) -> dict[str, int]:
    """Take a share of the channels of each layer out of the model's body -> parameters before and after.

    Stages that are frozen, pyramid and head keep theirs. DataError for a share that cannot be, for a family that is not
    built by widths, and where nothing could be taken out.
    """
    import torch

    if not 0 < share < 1:
        raise DataError(f"prune is {share}; give a share of channels between 0 and 1.")
    if not isinstance(model, FcosForInspectionDetection):
        raise DataError(f"a model of type {model.config.model_type!r} came; FCOS on a network of timm's can be pruned.")
    whole, before = widths_of(model), _count(model)
    learns = {name: one.requires_grad for name, one in model.named_parameters()}
    training = model.training
    model.eval().requires_grad_(True)  # the library follows gradients
    try:
        _take_out(model, share, [name for name, kept in learns.items() if not kept])
    finally:
        for name, one in model.named_parameters():
            one.requires_grad_(learns[name])
        model.train(training)
    model.config.widths |= {name: one for name, one in widths_of(model).items() if one != whole[name]}
    if (after := _count(model)) == before:
        raise DataError(f"prune is {share}, and no layer that learns has a channel to lose; freeze fewer.")
    with torch.no_grad():
        model(torch.zeros(1, 3, model.config.height, model.config.width))
    return {"before": before, "after": after}


def _take_out(model: FcosForInspectionDetection, share: float, frozen: list[str]) -> None:
    import torch
    from torch import nn

    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("Pruning needs torch-pruning: pip install 'hf-inspect[train]'") from error
    family = family_of(model.config)

    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return family.answers(self.model, pixel_values)

    torch_pruning.pruner.MagnitudePruner(
        Answers(),
        torch.zeros(1, 3, model.config.height, model.config.width),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=list(_kept(model, frozen)),
        round_to=_ROUND,
    ).step()


def _kept(model: "nn.Module", frozen: list[str]) -> "Iterator[nn.Module]":
    """Layers whose own channels stay: those outside the body, and of its frozen stages."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and (not name.startswith("network.") or f"{name}.weight" in frozen):
            yield module


def _count(model: "nn.Module") -> int:
    return sum(one.numel() for one in model.parameters())


def described(counts: Mapping[str, int]) -> str:
    """What was taken out, in a line."""
    return (
        f"pruned: {counts['after']:,} of {counts['before']:,} parameters are left "
        f"({counts['after'] / counts['before']:.0%})"
    )

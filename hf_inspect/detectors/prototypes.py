"""Masks as YOLACT makes them (arXiv 1904.02689): prototypes of an image, and coefficients of them at each place."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation, box_convert, roi_align
from transformers.loss.loss_for_object_detection import dice_loss

PLACES, POINTS = 64, 48  # of a batch that masks are learned at, and points along each side of a thing's box there


class Masks(nn.Module):
    """Levels of a pyramid, the finest first -> coefficients (n, q, m) and prototypes (n, m, h, w), twice as fine."""

    def __init__(self, channels: int, convolutions: int, prototypes: int) -> None:
        super().__init__()
        block = partial(Conv2dNormActivation, channels, channels, norm_layer=partial(nn.GroupNorm, 32))
        self.prototypes = nn.Sequential(
            block(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            block(),
            nn.Conv2d(channels, prototypes, 1),
            nn.ReLU(),
        )
        tower = [block() for _ in range(convolutions)]
        self.coefficients = nn.Sequential(*tower, nn.Conv2d(channels, prototypes, 3, padding=1), nn.Tanh())

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients of every position, in the order of FCOS's head, and the prototypes."""
        every = [self.coefficients(level).flatten(2).transpose(1, 2) for level in levels]
        return torch.cat(every, 1), self.prototypes(levels[0])


def mask_loss(
    coefficients: torch.Tensor,
    prototypes: torch.Tensor,
    matched: Sequence[torch.Tensor],
    labels: Sequence[Mapping[str, torch.Tensor]],
) -> torch.Tensor:
    """Cross-entropy and dice of masks at points of their things' boxes, the mean over places that lie in a thing.

    `matched` (q,) is the thing of each place of an image, -1 for none; `labels` are an image's `boxes` (m, 4), centre
    and size as shares, and `masks` (m, height, width). At most PLACES of a batch are looked at, by chance: a step costs
    no more where things are many or large. A thing whose mask has no pixel teaches nothing; 0 where there is no other.
    """
    masks = torch.cat([one["masks"] for one in labels]).to(prototypes)
    boxes = box_convert(torch.cat([one["boxes"] for one in labels]).to(prototypes), "cxcywh", "xyxy")
    before = torch.tensor([0, *(len(one["masks"]) for one in labels[:-1])], device=masks.device).cumsum(0)
    of_places = torch.stack(list(matched))
    image, place = (of_places >= 0).nonzero(as_tuple=True)
    thing = before[image] + of_places[image, place]
    teaches = masks.flatten(1).any(1)[thing].nonzero()[:, 0]
    chosen = teaches[torch.randperm(len(teaches), device=teaches.device)[:PLACES]]
    if not len(chosen):
        return (coefficients.sum() + prototypes.sum()) * 0.0
    image, place, thing = image[chosen], place[chosen], thing[chosen]
    wanted = _points(masks[:, None], thing, boxes[thing])[:, 0].clamp(0, 1)
    logits = torch.einsum("pm,pmyx->pyx", coefficients[image, place], _points(prototypes, image, boxes[thing]))
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    return entropy + dice_loss(logits.flatten(1), wanted.flatten(1), len(chosen))


def _points(maps: torch.Tensor, number: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """POINTS x POINTS points of boxes (p, 4), xyxy as shares, each in the map (c, h, w) of its `number` (p,)."""
    height, width = maps.shape[-2:]
    places = boxes * boxes.new_tensor((width, height, width, height))
    rois = torch.cat([number[:, None].to(places), places], 1)
    return roi_align(maps, rois, POINTS, sampling_ratio=1, aligned=True)

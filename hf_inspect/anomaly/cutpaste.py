"""Patches cut from an image and pasted elsewhere in it: planted defects to learn features by (CutPaste, 2104.04015).

Everything is drawn from torch's own random numbers, which a training's seed sets and its checkpoints hold.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

Kind = Literal["normal", "scar"]
AREA = (0.02, 0.15)  # share of the image that a patch of the kind `normal` covers
ASPECT = (0.3, 1 / 0.3)  # its height over its width
LONG, BROAD = (10 / 256, 25 / 256), (2 / 256, 16 / 256)  # of a scar, as shares of the image's side
TURN = 45.0  # degrees that a scar is turned by at most, either way


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of `height` x `width` pixels at (`top`, `left`), turned by `angle` degrees where it is pasted."""

    top: int
    left: int
    height: int
    width: int
    angle: float = 0.0


def draw_patch(kind: Kind, height: int, width: int, area: tuple[float, float] = AREA) -> Patch:
    """A patch of an image of height x width pixels: a `normal` one of `area`, a share; a `scar` is long and thin."""
    if kind == "normal":
        share, aspect = _between(*area), math.exp(_between(*map(math.log, ASPECT)))
        tall, wide = math.sqrt(share * aspect) * height, math.sqrt(share / aspect) * width
    else:
        tall, wide = _between(*LONG) * height, _between(*BROAD) * width
    tall, wide = min(max(1, round(tall)), height), min(max(1, round(wide)), width)
    angle = _between(-TURN, TURN) if kind == "scar" else 0.0
    return Patch(_place(height - tall), _place(width - wide), tall, wide, angle)


def cut_paste(
    pixels: torch.Tensor, kind: Kind, area: tuple[float, float] = AREA, jitter: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (3, h, w) -> the same with a patch of itself elsewhere, and where that lies (h, w) bool.

    `jitter` is the largest change of the patch's brightness, contrast and saturation.
    """
    _, height, width = pixels.shape
    patch = draw_patch(kind, height, width, area)
    cut = pixels[:, patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
    cut = v2.ColorJitter(jitter, jitter, jitter)(cut)
    shape = torch.ones(1, patch.height, patch.width, dtype=torch.uint8)
    if patch.angle:
        cut, shape = (functional.rotate(one, patch.angle, expand=True)[:, :height, :width] for one in (cut, shape))
    tall, wide = cut.shape[1:]
    top, left = _place(height - tall), _place(width - wide)
    where = torch.zeros(height, width, dtype=torch.bool)
    where[top : top + tall, left : left + wide] = shape[0].bool()
    pasted = pixels.clone()
    pasted[:, where] = cut[:, shape[0].bool()]
    return pasted, where


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _place(room: int) -> int:
    """A position from 0 to `room`, each as likely."""
    return int(torch.randint(room + 1, ()).item())

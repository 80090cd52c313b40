"""Small data sets of good parts and planted defects with masks, for the tests of anomaly models."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hf_inspect.data import build

SIDE = 64  # pixels
RANDOM = "random:test_efficientnet"


def part(rng: np.random.Generator, defect: bool, stripes: int) -> tuple[Image.Image, Image.Image]:
    """A textured part of so many stripes, of which no two are alike, and the mask of its defect: a dark blot."""
    x = np.arange(SIDE) / SIDE * 2 * np.pi
    wave = np.sin(stripes * x + rng.uniform(0, 6)) + 0.5 * np.cos(rng.uniform(1, 2) * x + rng.uniform(0, 6))[:, None]
    pixels = 140 + 30 * wave + rng.normal(0, 6, (SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if defect:
        top, left = rng.integers(8, SIDE - 24, 2)
        mask[top : top + 16, left : left + 16] = 255
        pixels = np.where(mask, rng.normal(40, 25, (SIDE, SIDE)), pixels)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB"), Image.fromarray(mask)


def mvtec(root: Path, counts: Mapping[str, tuple[int, int, int]], seed: int = 0) -> Path:
    """MVTec AD's layout: category -> good parts to fit to, good ones and defects to test on; each with its mask."""
    rng = np.random.default_rng(seed)
    for number, (category, (train, good, defects)) in enumerate(counts.items()):
        for place, n in (("train/good", train), ("test/good", good), ("test/blot", defects)):
            (root / category / place).mkdir(parents=True)
            for i in range(n):
                image, mask = part(rng, place == "test/blot", 2 + number)
                image.save(root / category / place / f"{i:03}.png")
                if place == "test/blot":
                    (root / category / "ground_truth/blot").mkdir(parents=True, exist_ok=True)
                    mask.save(root / category / "ground_truth/blot" / f"{i:03}_mask.png")
    return root


def built_mvtec(folder: Path, counts: Mapping[str, tuple[int, int, int]]) -> Path:
    """The built data set of `mvtec`, in `folder`/data."""
    source = mvtec(folder / "raw", counts)
    build("mvtec_ad", folder / "data", src=source, accept_license=True)
    return folder / "data"


def built_parts(folder: Path, good: int, defects: int, shares: str = "50/30/0/20") -> Path:
    """A built data set of good parts and defects, dealt to the splits, in `folder`/data."""
    rng = np.random.default_rng(1)
    for name, n in (("good", good), ("blot", defects)):
        (folder / "raw" / name).mkdir(parents=True)
        for i in range(n):
            part(rng, name == "blot", 3)[0].save(folder / "raw" / name / f"{i:03}.png")
    options = {"license": "cc0-1.0", "good": "good", "shares": shares}
    build("folder", folder / "data", src=folder / "raw", options=options)
    return folder / "data"

"""Six classes with names that break what does not quote them, as folders of pictures and as built data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from hf_inspect.schema import TaskSpec

NAMES = ('Kratzer, tief|"quer"', "<b>", "ok", "Riß ü", "🙂", "it's $x$")
GOOD = ("ok", "🙂")
TASK = TaskSpec.of(sorted(NAMES), GOOD)  # as `folder` orders them
COLOURS = dict(
    zip(NAMES, np.array([(9, 2, 2), (2, 9, 2), (2, 2, 9), (9, 9, 2), (9, 2, 9), (2, 9, 9)]) / 9, strict=True)
)


def part(name: str, rng: np.random.Generator) -> Image.Image:
    """A smooth random picture (48, 40) in its class's colour: no two look alike, and a small network tells classes."""
    coarse = Image.fromarray(rng.integers(60, 256, (8, 8), np.uint8))
    grey = np.asarray(coarse.resize((48, 40), Image.Resampling.BICUBIC))
    return Image.fromarray((grey[:, :, None] * COLOURS[name]).astype(np.uint8))


def raw(folder: Path, each: int, seed: int) -> Path:
    """A folder of class folders with so many pictures a class."""
    rng = np.random.default_rng(seed)
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            part(name, rng).save(folder / name / f"{i:03}.png")
    return folder


def built(folder: Path, each: int, seed: int, licence: str) -> Path:
    """A data set of them, built."""
    from hf_inspect.data import build

    options = {"license": licence, "good": ",".join(GOOD)}
    build("folder", folder / "data", src=raw(folder / "raw", each, seed), options=options)
    return folder / "data"

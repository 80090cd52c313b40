"""A product before a fixed camera: parts of one shape and print, each with a surface of its own, as their shots."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

PRINT = 8.0  # grey levels of what is printed on every part alike
SURFACE = 4.0  # grey levels of what is each part's own


def shots(
    n: int, seed: int = 0, side: int = 512, noise: float = 3, jitter: float = 1.5, scratched: int = 0, first: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """n parts, the first `scratched` with a scratch, as grey shots (side, side); part k of a seed is always the same.

    `noise` is the sensor's, in grey levels; each shot is off by up to `jitter` pixels each way.
    """
    scene, inside = _fixture(seed, side)
    for number in range(first, first + n):
        rng = np.random.default_rng([seed, number])
        part = scene + inside * _texture(rng, side, 1.2 * side / 512, SURFACE)
        if number - first < scratched:
            _scratch(part, rng)
        moved = shift(part, rng.uniform(-jitter, jitter, 2), order=3, mode="nearest")
        yield (moved + rng.normal(0, noise, moved.shape)).clip(0, 255).round().astype(np.uint8)


def write_product(root: Path, good: int, scratched: int, side: int = 256, noise: float = 3, first: int = 0) -> Path:
    """Folders `good` and `scratched` of one product's shots, as PNG."""
    made = enumerate(shots(good + scratched, side=side, noise=noise, scratched=scratched, first=first))
    for number, pixels in made:
        path = root / ("scratched" if number < scratched else "good") / f"{first + number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def _fixture(seed: int, side: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What every shot shows, and where the part lies in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    inside = (abs(x - 0.5) < 0.36) & (abs(y - 0.5) < 0.30)
    scene = 90 + 30 * x + 60 * inside
    for hole_x, hole_y in ((0.3, 0.4), (0.7, 0.6)):
        scene -= 50 * ((x - hole_x) ** 2 + (y - hole_y) ** 2 < 0.006)
    for _ in range(6):
        at_x, at_y, wide, high = rng.uniform((0.2, 0.25, 0.02, 0.01), (0.8, 0.75, 0.1, 0.05))
        scene += rng.choice([-25, 25]) * ((abs(x - at_x) < wide) & (abs(y - at_y) < high))
    return gaussian_filter(scene + inside * _texture(rng, side, 3 * side / 512, PRINT), 0.7), inside


def _texture(rng: np.random.Generator, side: int, coarse: float, levels: float) -> NDArray[np.float64]:
    smooth = gaussian_filter(rng.standard_normal((side, side)), coarse, mode="wrap")
    return levels * (smooth - smooth.mean()) / smooth.std()


def _scratch(part: NDArray[np.float64], rng: np.random.Generator) -> None:
    start, way = rng.uniform(0.3, 0.6, 2), rng.uniform(-0.15, 0.15, 2)
    for t in np.linspace(0, 1, 200):
        row, column = ((start + t * way) * len(part)).astype(int)
        part[row : row + 2, column : column + 2] -= 50

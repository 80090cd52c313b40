"""Draws the Space's example images: solar cells as an electroluminescence camera shows them, out of noise and lines.

`python draw.py` writes them beside this file. No photograph is in them, so they carry no data set's licence.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 300
WIDER = 400  # the texture's side before it is turned and its empty corners cut off
CUT = (WIDER - SIDE) // 2
BUSBARS = (78, 220)  # rows of the two dark lines
OCTAVES = ((8, 31.0), (24, 20.0), (80, 13.0), (200, 7.0))  # grid cells a side, grey levels
DARK = [(0, 130), (60, 122), (170, 146), (280, 190), (190, 176), (80, 192), (0, 176)]  # a cut-off region's corners
CRACKS = [[(0, 40), (90, 52), (200, 30), (300, 60)], [(120, 220), (180, 255), (260, 240), (300, 285)]]


def cell(seed: int) -> Image.Image:
    """A polycrystalline cell without a defect, grey, SIDE x SIDE."""
    rng = np.random.default_rng(seed)
    grey = np.full((SIDE, SIDE), 150.0)
    for cells, levels in OCTAVES:
        grid = Image.fromarray(rng.normal(0, levels, (cells, cells * 2 // 3)).astype(np.float32))
        texture = grid.resize((WIDER, WIDER), Image.Resampling.BICUBIC).rotate(20, Image.Resampling.BILINEAR)
        grey += np.asarray(texture)[CUT : CUT + SIDE, CUT : CUT + SIDE]
    rows = np.arange(SIDE)
    border = np.minimum(rows, SIDE - 1 - rows)
    frame = np.clip(np.minimum.outer(border, border) / 7, 0.35, 1)
    bars = np.ones(SIDE)
    for row in BUSBARS:
        bars *= 1 - 0.72 * np.exp(-(((rows - row) / 2.2) ** 2))
    grey = np.clip(grey * frame * bars[:, None], 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))


def with_defect(image: Image.Image) -> Image.Image:
    """The cell with a region that a crack cut off, three quarters of its light gone, and two cracks more."""
    lit = Image.new("L", image.size, 255)
    draw = ImageDraw.Draw(lit)
    draw.polygon(DARK, fill=64)
    for crack in CRACKS:
        draw.line(crack, fill=102, width=2)
    lit = lit.filter(ImageFilter.GaussianBlur(0.8))
    return Image.fromarray((np.asarray(image) * (np.asarray(lit) / 255.0)).astype(np.uint8))


def drawings() -> dict[str, Image.Image]:
    """Every example by its file name."""
    return {
        "good.png": cell(49),
        "defective.png": with_defect(cell(2)),
        "doubtful.png": cell(3),  # nothing is wrong with it; the edge is not sure
    }


if __name__ == "__main__":
    for name, image in drawings().items():
        image.save(Path(__file__).with_name(name), optimize=True)

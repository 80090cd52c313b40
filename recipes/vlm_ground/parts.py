"""Draw plates with holes and dents as a COCO data set: `python recipes/vlm_ground/parts.py OUT --images 2000`.

A set to prove on that a VLM learns to say where things are, in minutes and without a download. A plate may have screws
as well, which are as they should be; the same seed draws the same plates.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from hf_inspect import files
from hf_inspect.errors import InspectError

NAMES = ("hole", "dent/deep", "dent/shallow")
SCREW = "screw"
MOST = 4  # things on a plate
_SHARES = (0.15, 0.3)  # of the shorter side
_GAP = 4  # pixels between things
_TRIES = 40


def plate(rng):
    """One plate, RGB uint8 (h, w, 3), and its defects: name, box x0, y0, x1, y1 in pixels, description."""
    width, height = (int(side) for side in rng.integers(224, 321, 2))
    light = np.linspace(rng.uniform(-25, 25), rng.uniform(-25, 25), width)
    brushed = rng.normal(0, 6, (height, 1)) + rng.normal(0, 3, (height, width))
    pixels = (rng.uniform(130, 190) + light + brushed)[..., None] * rng.uniform(0.92, 1.05, 3)
    things, taken = [], []
    for _ in range(int(rng.integers(0, MOST + 1))):
        name = (*NAMES, SCREW)[int(rng.integers(len(NAMES) + 1))]
        if box := free_place(rng, name, width, height, taken):
            taken.append(box)
            said = draw(rng, pixels, name, box)
            if name != SCREW:
                things.append((name, box, said))
    return pixels.clip(0, 255).astype(np.uint8), things


def free_place(rng, name, width, height, taken):
    """A box inside the plate that touches no other; None where none was found."""
    for _ in range(_TRIES):
        w = rng.uniform(*_SHARES) * min(width, height)
        h = w * (rng.uniform(0.6, 1.6) if name.startswith("dent") else 1.0)
        x, y = rng.uniform(2, width - w - 2), rng.uniform(2, height - h - 2)
        box = (x, y, x + w, y + h)
        if all(x > b[2] + _GAP or box[2] < b[0] - _GAP or y > b[3] + _GAP or box[3] < b[1] - _GAP for b in taken):
            return box
    return None


def draw(rng, pixels, name, box):
    """Draw a thing into its box of float pixels (h, w, 3), and say what it is."""
    x0, y0, x1, y1 = box
    rows, columns = slice(int(y0), int(y1) + 1), slice(int(x0), int(x1) + 1)
    y, x = np.mgrid[rows, columns] + 0.5
    u, v = (x - (x0 + x1) / 2) / ((x1 - x0) / 2), (y - (y0 + y1) / 2) / ((y1 - y0) / 2)  # -1 to 1 inside the box
    from_middle, edge = np.hypot(u, v), (x1 - x0) / 2
    own = pixels[rows, columns]

    def paint(inside, shade):
        own[:] += inside[..., None] * (shade - own)

    if name.startswith("dent"):
        deep = name.endswith("deep")
        paint((1 - from_middle).clip(0, 0.15) / 0.15 * 0.9, rng.uniform(25, 55) if deep else rng.uniform(80, 105))
        return "wide" if x1 - x0 > y1 - y0 else "high"
    disc = ((1 - from_middle) * edge).clip(0, 1)
    paint(disc, rng.uniform(205, 240))
    if name == "hole":
        paint(((0.7 - from_middle) * edge).clip(0, 1), rng.uniform(10, 40))
        return "without its screw"
    turn = rng.uniform(0, np.pi)
    for angle in (turn, turn + np.pi / 2):
        across = np.abs(u * np.sin(angle) - v * np.cos(angle))
        paint(((0.12 - across) * edge).clip(0, 1) * (from_middle < 0.75), 50)
    return "cross slot"


def write(out, images, seed):
    """Images and annotations.json into `out`; returns how many defects were drawn."""
    annotations, listed = [], []
    with files.staged_folder(out) as stage:
        (stage / "images").mkdir()
        for number in range(1, images + 1):
            pixels, things = plate(np.random.default_rng([seed, number]))
            path = f"images/plate_{number:05}.png"
            Image.fromarray(pixels).save(stage / path)
            height, width = pixels.shape[:2]
            listed.append({"id": number, "file_name": path, "width": width, "height": height})
            for name, (x0, y0, x1, y1), said in things:
                box = [round(x0, 2), round(y0, 2), round(x1 - x0, 2), round(y1 - y0, 2)]
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": number, "category_id": NAMES.index(name) + 1,
                        "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "description": said,
                    }
                )  # fmt: skip
        categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        files.write_text(stage / "annotations.json", json.dumps(content))
    return len(annotations)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        things = write(given.out, given.images, given.seed)
    except InspectError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{given.out}: {given.images} plates with {things} defects")


if __name__ == "__main__":
    main()

"""Imitations of raw data sets in their exact layouts and counts, with small images of which no two look alike."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import datasets

SIDE = 24  # pixels

# category: good images to train on, good ones to test on, defects to test on by type
MVTEC = {
    "bottle": (209, 20, {"broken_large": 20, "broken_small": 22, "contamination": 21}),
    "cable": (
        224,
        58,
        {
            "bent_wire": 13,
            "cable_swap": 12,
            "combined": 11,
            "cut_inner_insulation": 14,
            "cut_outer_insulation": 10,
            "missing_cable": 12,
            "missing_wire": 10,
            "poke_insulation": 10,
        },
    ),
    "capsule": (219, 23, {"crack": 23, "faulty_imprint": 22, "poke": 21, "scratch": 23, "squeeze": 20}),
    "carpet": (280, 28, {"color": 19, "cut": 17, "hole": 17, "metal_contamination": 17, "thread": 19}),
    "grid": (264, 21, {"bent": 12, "broken": 12, "glue": 11, "metal_contamination": 11, "thread": 11}),
    "hazelnut": (391, 40, {"crack": 18, "cut": 17, "hole": 18, "print": 17}),
    "leather": (245, 32, {"color": 19, "cut": 19, "fold": 17, "glue": 19, "poke": 18}),
    "metal_nut": (220, 22, {"bent": 25, "color": 22, "flip": 23, "scratch": 23}),
    "pill": (
        267,
        26,
        {
            "color": 25,
            "combined": 17,
            "contamination": 21,
            "crack": 26,
            "faulty_imprint": 19,
            "pill_type": 9,
            "scratch": 24,
        },
    ),
    "screw": (
        320,
        41,
        {"manipulated_front": 24, "scratch_head": 24, "scratch_neck": 25, "thread_side": 23, "thread_top": 23},
    ),
    "tile": (230, 33, {"crack": 17, "glue_strip": 18, "gray_stroke": 16, "oil": 18, "rough": 15}),
    "toothbrush": (60, 12, {"defective": 30}),
    "transistor": (213, 60, {"bent_lead": 10, "cut_lead": 10, "damaged_case": 10, "misplaced": 10}),
    "wood": (247, 19, {"color": 8, "combined": 11, "hole": 10, "liquid": 10, "scratch": 21}),
    "zipper": (
        240,
        32,
        {
            "broken_teeth": 19,
            "combined": 16,
            "fabric_border": 17,
            "fabric_interior": 16,
            "rough": 17,
            "split_teeth": 18,
            "squeezed_teeth": 16,
        },
    ),
}
GREY = frozenset({"grid", "screw", "zipper"})  # MVTec AD's 8-bit grey categories
KSDD2 = {"train": (2085, 246), "test": (894, 110)}  # good, defect as published
KSDD2_FIRST = {"train": 10000, "test": 20000}


def picture(rng: np.random.Generator, width: int = SIDE, height: int = SIDE, mode: str = "RGB") -> Image.Image:
    """A smooth random picture, unlike any other."""
    coarse = rng.integers(0, 256, (height // 2, width // 2, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert(mode)


def mask(rng: np.random.Generator, width: int = SIDE, height: int = SIDE, marked: bool = True) -> Image.Image:
    """A grey mask: zero, and 255 in a random rectangle if `marked`."""
    pixels = np.zeros((height, width), np.uint8)
    if marked:
        x, y = int(rng.integers(0, width - 4)), int(rng.integers(0, height - 4))
        pixels[y : y + 4, x : x + 4] = 255
    return Image.fromarray(pixels)


def mvtec(root: Path, counts: Mapping[str, tuple[int, int, Mapping[str, int]]] = MVTEC, seed: int = 0) -> Path:
    """MVTec AD's folder: <category>/train/good, test/<type>/000.png, ground_truth/<type>/000_mask.png, two texts."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for category, (train, good, defects) in counts.items():
        folder, mode = root / category, "L" if category in GREY else "RGB"
        (folder / "ground_truth").mkdir(parents=True)
        for place, n in {
            "train/good": train,
            "test/good": good,
            **{f"test/{t}": n for t, n in defects.items()},
        }.items():
            (folder / place).mkdir(parents=True)
            for i in range(n):
                picture(rng, mode=mode).save(folder / place / f"{i:03}.png")
        for kind, n in defects.items():
            (folder / "ground_truth" / kind).mkdir()
            for i in range(n):
                mask(rng).save(folder / "ground_truth" / kind / f"{i:03}_mask.png")
        for text in ("license.txt", "readme.txt"):
            (folder / text).write_text("CC BY-NC-SA 4.0")
    return root


def ksdd2(root: Path, counts: Mapping[str, tuple[int, int]] = KSDD2, seed: int = 0) -> Path:
    """KSDD2's folder: train/10000.png and 10000_GT.png, good and defect mixed, with the archive's two stray copies."""
    rng = np.random.default_rng(seed)
    for split, (good, defect) in counts.items():
        folder = root / split
        folder.mkdir(parents=True)
        marked = rng.permutation([False] * good + [True] * defect)
        for number, one in enumerate(marked, KSDD2_FIRST[split]):
            picture(rng, 16, 40).save(folder / f"{number}.png")
            mask(rng, 16, 40, bool(one)).save(folder / f"{number}_GT.png")
    first = root / "train" / str(KSDD2_FIRST["train"])
    for mark in ("", "_GT"):  # in the archive these are of 10301
        copy = Path(f"{first}{mark} (copy).png")
        copy.write_bytes(Path(f"{first}{mark}.png").read_bytes())
    return root


def classes(root: Path, counts: Mapping[str, int], seed: int = 0, side: int = SIDE, suffix: str = ".png") -> Path:
    """A folder a class with so many pictures, 000.png and so on."""
    rng = np.random.default_rng(seed)
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            picture(rng, side, side).save(root / name / f"{i:03}{suffix}")
    return root


def read_back(folder: Path, *config: str) -> "datasets.DatasetDict":
    """What plain `load_dataset` reads, with a cache beside the folder: the user's may hold an older run's."""
    import datasets

    return datasets.load_dataset(str(folder), *config, cache_dir=str(folder.parent / ".cache"))


def built_parts(folder: Path, good: str = "good", /, **counts: int) -> Path:
    """A built data set, CC0, of so many pictures a class, of which `good` are, in `folder`/data."""
    from hf_inspect.data import build

    classes(folder / "raw", counts)
    build("folder", folder / "data", src=folder / "raw", options={"license": "cc0-1.0", "good": good})
    return folder / "data"


def coco(path: Path, labels: Mapping[str, Sequence[str]], side: int = SIDE, **more: Any) -> dict[str, Any]:
    """Write a COCO JSON: file_name -> the categories of its annotations, each with one box; returns its content."""
    names = list(dict.fromkeys(name for of_image in labels.values() for name in of_image))
    content = {
        "images": [{"id": i, "file_name": name, "width": side, "height": side} for i, name in enumerate(labels, 1)],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": names.index(name), "bbox": [2, 2, 8, 6], "iscrowd": 0}
            for i, (image_id, name) in enumerate((i, n) for i, of in enumerate(labels.values(), 1) for n in of)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    } | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def pictures(root: Path, names: Iterable[str], seed: int = 0, side: int = SIDE) -> Path:
    """Pictures of these names below `root`, in folders where the names have some."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(rng, side, side).save(root / name)
    return root


def masks(root: Path, names: Iterable[str], seed: int = 0, side: int = SIDE) -> Path:
    """Masks of these names below `root`."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        mask(rng, side, side).save(root / name)
    return root


def pairs(folder):
    """A built set of a good part and one with a dent of each of 250 numbers, which are one group."""
    from hf_inspect.data import build

    classes(folder / "raw", {"dent": 250, "good": 250})
    build("folder", folder / "data", src=folder / "raw", options={"license": "cc0-1.0", "group_rule": r"(\d+)"})
    return folder / "data"

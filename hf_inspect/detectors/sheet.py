"""A built data set of boxes -> a contact sheet: images beside what augmentation makes of them, with what they show."""

from collections.abc import Callable
from pathlib import Path

from hf_inspect import data, images
from hf_inspect.data import sheet
from hf_inspect.detectors.augment import Sample, sample_of
from hf_inspect.errors import DataError
from hf_inspect.schema import Finding, TaskSpec
from hf_inspect.tasks.detection import drawn
from hf_inspect.tasks.heat import png_of

_IMAGES, _VERSIONS = 6, 3
_SIDE = 256  # pixels of an image on the sheet
_COLUMNS = 4  # an image and its versions


def augmentation_sheet(
    folder: Path, out: Path, augment: Callable[[Sample], Sample], split: str = "train", seed: int = 0
) -> int:
    """Write the PNG `out` of six images of a split, each with three versions that `augment` makes of it.

    Images are drawn by `seed` among those that show something, and so are the versions. Returns how many there are;
    DataError where no image of the split shows anything.
    """
    import numpy as np
    import torch

    task, reading = data.read_objects(folder), data.read_reading(folder)
    rows = data.load_split(folder, split)
    names = rows.features["objects"]["category"].feature.names
    ids = [task.index(name) for name in names]
    showing = [i for i, row in enumerate(rows.select_columns(["objects"])) if row["objects"]["bbox"]]
    if not showing:
        raise DataError(f"{folder}: no image of {split} has a box; give another split, or another data set.")
    chosen = sorted(np.random.default_rng(seed).permutation(showing)[:_IMAGES].tolist())
    cells = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for row in map(rows.__getitem__, chosen):
            sample = sample_of(images.load(row["image"]["bytes"], reading).rgb, row["objects"], ids)
            cells.append((_picture(sample, task), str(row["image"]["path"] or row["image_id"])))
            cells += [_version(augment(sample), len(sample["labels"]), task) for _ in range(_VERSIONS)]
    sheet.of_images(cells, out, _COLUMNS, _SIDE)
    return len(chosen)


def _version(sample: Sample, before: int, task: TaskSpec) -> tuple[bytes, str]:
    return _picture(sample, task), f"{len(sample['labels'])} of {before} left"


def _picture(sample: Sample, task: TaskSpec) -> bytes:
    """A sample as PNG, with what it shows drawn in."""
    masks = sample["masks"].numpy()
    findings = []
    for box, label, mask in zip(sample["boxes"].tolist(), sample["labels"].tolist(), masks, strict=True):
        one = Finding(task.classes[label], 1.0, tuple(box))
        (top, left), (rows, columns) = one.corner, one.extent
        part = mask[top : top + rows, left : left + columns] if mask.any() else None
        findings.append(Finding(one.name, one.score, one.box, part))
    rgb = sample["image"].permute(1, 2, 0).contiguous().numpy()
    return png_of(drawn(rgb, findings, task, 0.0))

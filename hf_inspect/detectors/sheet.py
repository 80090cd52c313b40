"""A built data set of boxes -> a contact sheet: images beside what augmentation makes of them, boxes and masks drawn.

`python -m hf_inspect.detectors.sheet DATA --out sheet.png --characteristic thin --environment dark`
"""

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from hf_inspect import data, images
from hf_inspect.data import sheet
from hf_inspect.detectors.augment import Sample, augmentation, sample_of
from hf_inspect.errors import DataError, sentence_of
from hf_inspect.schema import Finding, TaskSpec
from hf_inspect.tasks.detection import drawn

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
    from PIL import Image

    masks = sample["masks"].numpy()
    findings = []
    for box, label, mask in zip(sample["boxes"].tolist(), sample["labels"].tolist(), masks, strict=True):
        one = Finding(task.classes[label], 1.0, tuple(box))
        (top, left), (rows, columns) = one.corner, one.extent
        part = mask[top : top + rows, left : left + columns] if mask.any() else None
        findings.append(Finding(one.name, one.score, one.box, part))
    buffer = BytesIO()
    rgb = sample["image"].permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(drawn(rgb, findings, task, 0.0)).save(buffer, "png")
    return buffer.getvalue()


def command(
    folder: Annotated[Path, typer.Argument(help="Built data set of boxes.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    characteristic: Annotated[
        list[str] | None, typer.Option(help="What the things are, such as `thin`; repeat.")
    ] = None,
    environment: Annotated[list[str] | None, typer.Option(help="Where they are seen, such as `dark`; repeat.")] = None,
    intensity: Annotated[str, typer.Option(help="`low`, `medium` or `high`.")] = "medium",
    size: Annotated[int, typer.Option(help="Pixels of the sides that images are brought to.")] = 320,
    split: Annotated[str, typer.Option(help="Split that the images come from.")] = "train",
    seed: Annotated[int, typer.Option(help="Another seed, other images and versions.")] = 0,
) -> None:
    """Show what a detection model would be trained on: six images, each with three versions."""
    augment = augmentation(characteristic or [], environment or [], intensity, size, size)
    count = augmentation_sheet(folder, out, augment, split, seed)
    print(f"{count} images, {_VERSIONS} versions each: {out}")


def main() -> None:
    """Run `command`; what is refused is one sentence, and exits with 1."""
    try:
        typer.run(command)
    except Exception as error:
        said = sentence_of(error)
        if said is None:
            raise
        print(f"augmentation sheet: {said}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

"""A tiny data set, a student that learned it, and its exports, made once a session for the tests of the edge."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hf_inspect import files
from hf_inspect.data import trained_on, write_trained_on
from hf_inspect.export import export_student
from hf_inspect.images import load, prepare
from hf_inspect.schema import LABELS
from tests.conftest import png

SIDE = 32
COUNTS = {"train": 96, "validation": 120}
_FOLDER = TemporaryDirectory(prefix="tiny_edge")


def cell(label: int, rng: np.random.Generator) -> np.ndarray:
    """A grey image (40, 48) of noise; a defect has a bright square in it."""
    image = rng.integers(0, 120, (40, 48)).astype(np.uint8)
    if label:
        y, x = rng.integers(4, 24, 2)
        image[y : y + 12, x : x + 12] = 255
    return image


@cache
def data() -> Path:
    """A data set folder of two splits, half of it defects."""
    import datasets

    folder, rng = Path(_FOLDER.name) / "data", np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for split, n in COUNTS.items():
        rows = [
            {"image": {"bytes": png(cell(i % 2, rng)), "path": f"{split}{i}.png"}, "label": i % 2} for i in range(n)
        ]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))})
        shard = str(folder / "data" / f"tiny-{split}-00000.parquet")
        datasets.Dataset.from_list(rows, features=features).to_parquet(shard)
    counts = {split: {"good": n // 2, "defect": n // 2} for split, n in COUNTS.items()}
    files.write_json(
        folder / "manifest.json", {"counts": {"default": counts}, "fingerprint": "f" * 64, "licence": "cc0-1.0"}
    )
    return folder


@cache
def student() -> Path:
    """A small network after a minute's worth of steps in seconds: 32 px, right on nearly every image."""
    import torch

    from hf_inspect.data import load_split
    from hf_inspect.students import new_student, preprocess_of

    torch.manual_seed(0)
    model = new_student("random:test_efficientnet", SIDE)
    rows = load_split(data(), "train")
    preprocess = preprocess_of(model.config)
    inputs = torch.from_numpy(np.stack([prepare(load(row["bytes"]).rgb, preprocess) for row in rows["image"]]))
    labels = torch.tensor(rows["label"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = Path(_FOLDER.name) / "student"
    model.save_pretrained(folder)
    write_trained_on(folder / "trained_on.json", trained_on({"fingerprint": "f" * 64, "licence": "cc0-1.0"}, []))
    return folder


@cache
def exported(int8: bool) -> Path:
    """The student's export, past the gate."""
    out = Path(_FOLDER.name) / ("int8" if int8 else "fp32")
    export_student(student(), out, data=data(), int8=int8)
    return out

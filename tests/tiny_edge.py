"""A tiny data set, a student that learned it, and its exports, made once a session for the tests of the edge."""

import hashlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hf_inspect import files
from hf_inspect.data import record_history, write_history
from hf_inspect.export import export_student
from hf_inspect.images import load, prepare
from hf_inspect.schema import BINARY
from tests.conftest import png

SIDE = 32
COUNTS = {"train": 96, "validation": 120}
FINGERPRINT = "f" * 64
_FOLDER = TemporaryDirectory(prefix="tiny_edge")


def cell(defect: bool, rng: np.random.Generator) -> np.ndarray:
    """A grey image (40, 48) of noise; a defect has a bright square in it."""
    image = rng.integers(0, 120, (40, 48)).astype(np.uint8)
    if defect:
        y, x = rng.integers(4, 24, 2)
        image[y : y + 12, x : x + 12] = 255
    return image


@cache
def data() -> Path:
    """A data set folder of two splits, half of it defects."""
    import datasets

    folder, rng = Path(_FOLDER.name) / "data", np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    names, kept = BINARY.classes, []
    for split, n in COUNTS.items():
        rows = []
        for i in range(n):
            content, source = png(cell(names[i % 2] in BINARY.defects, rng)), f"{split}{i}.png"
            rows.append({"image": {"bytes": content, "path": source}, "label": names[i % 2], "group": i})
            sha256 = hashlib.sha256(content).hexdigest()
            kept.append({"source": source, "sha256": sha256, "split": split, "class": names[i % 2]})
        features = {
            "image": datasets.Image(), "label": datasets.ClassLabel(names=list(names)),
            "group": datasets.Value("int32"),
        }  # fmt: skip
        shard = str(folder / "data" / f"tiny-{split}-00000.parquet")
        datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(shard)
    counts = {split: dict.fromkeys(names, n // 2) for split, n in COUNTS.items()}
    files.write_json(
        folder / "manifest.json",
        {
            "builder": {"name": "tiny"}, "task": BINARY.to_dict(), "counts": {"default": counts},
            "fingerprint": FINGERPRINT, "licence": "cc0-1.0", "images": kept,
        },
    )  # fmt: skip
    return folder


@cache
def student() -> Path:
    """A small network after a minute's worth of steps in seconds: 32 px, right on nearly every image."""
    import torch

    from hf_inspect.data import class_ids, load_split
    from hf_inspect.students import new_student, preprocess_of

    torch.manual_seed(0)
    model = new_student("random:test_efficientnet", SIDE, BINARY)
    rows = load_split(data(), "train")
    preprocess = preprocess_of(model.config)
    inputs = torch.from_numpy(np.stack([prepare(load(row["bytes"]).rgb, preprocess) for row in rows["image"]]))
    labels = torch.tensor(class_ids(rows, BINARY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = Path(_FOLDER.name) / "student"
    model.save_pretrained(folder)
    write_history(folder, record_history(data(), {"train": None}))
    return folder


@cache
def exported(int8: bool) -> Path:
    """The student's export, past the gate."""
    out = Path(_FOLDER.name) / ("int8" if int8 else "fp32")
    export_student(student(), out, data=data(), int8=int8)
    return out

"""ELPV: 2,624 electroluminescence images of solar cells, from the PyPI package `elpv-dataset`, split by group."""

from collections.abc import Iterator
from typing import Any

import datasets

from hf_inspect.data import Row, packaged_folder, partition
from hf_inspect.schema import LABELS, Sample

PACKAGE, PACKAGE_VERSION = "elpv-dataset", "1.0.0.post1"
SHARES = {"train": 0.55, "validation": 0.10, "calibration": 0.15, "test": 0.20}
DEFECT_FROM = 0.5  # experts' probability of a defect: 0, 1/3, 2/3 or 1
CELL_TYPES = ("mono", "poly")


def read_samples() -> list[Sample]:
    """Every cell in the order of the package's labels.csv."""
    folder = packaged_folder(PACKAGE, PACKAGE_VERSION, "elpv_dataset") / "data"
    samples = []
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, cell_type = line.split()
        label = LABELS[float(probability) >= DEFECT_FROM]
        columns = {"probability": float(probability), "cell_type": cell_type}
        samples.append(Sample(name, folder / name, label, f"{label} {cell_type}", columns))
    return samples


class Elpv(datasets.GeneratorBasedBuilder):
    """Writes the four splits; `rows` (after preparing) holds every image's signature, group and split."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = datasets.BuilderConfig

    def __init__(self, *, seed: int = 0, **kwargs: Any) -> None:
        self.seed = seed
        self.rows: list[Row] = []
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(LABELS)),
            "probability": datasets.Value("float32"),
            "cell_type": datasets.ClassLabel(names=list(CELL_TYPES)),
            "group": datasets.Value("int32"),
        }
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        self.rows = partition(read_samples(), SHARES, self.seed)
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SHARES]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, row in enumerate(self.rows):
            if row.split == split:
                image = {"bytes": row.sample.read(), "path": row.sample.source.rsplit("/", 1)[-1]}
                yield i, {"image": image, "label": row.sample.label, "group": row.group, **row.sample.columns}


BUILDER = Elpv
LICENCE = "CC-BY-NC-SA-4.0"

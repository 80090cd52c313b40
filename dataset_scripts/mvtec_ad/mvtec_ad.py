"""MVTec AD as published: official train and test, masks, defect types; a config for each category and `all`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets

from hf_inspect.data.builder import InspectionBuilder
from hf_inspect.data.examine import Examined
from hf_inspect.data.partition import Placement, row_of
from hf_inspect.data.published import (
    MVTEC_CATEGORIES,
    MVTEC_LICENCE,
    across_published_split,
    mvtec_columns,
    read_mvtec,
    what_is_missing,
)
from hf_inspect.data.raw.sources import Raw


@dataclass(frozen=True)
class Options:
    """None: the split is the published one."""


class MvtecAd(InspectionBuilder):
    """Keeps every image where MVTec AD has it; its category is its config."""

    VERSION = datasets.Version("1.0.0")
    LICENCE = MVTEC_LICENCE
    OPTIONS = Options
    COLUMNS: ClassVar = mvtec_columns()
    CONFIGS: ClassVar = {category: (category,) for category in MVTEC_CATEGORIES} | {"all": MVTEC_CATEGORIES}
    EVALUATION = ("all", "test")

    @classmethod
    def read(cls, src: Path | None, options: Options) -> Raw:
        """The whole data set's folder, or one category's."""
        return read_mvtec(src)

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Options) -> Placement:
        """The published split, by category."""
        columns = [image.sample.columns for image in examined]
        rows = [
            row_of(image, g, of["original_split"], of["category"])
            for image, g, of in zip(examined, groups, columns, strict=True)
        ]
        return Placement(rows, what_is_missing(examined) + across_published_split(rows))


BUILDER = MvtecAd

"""What every data set's script is: a `datasets` builder that says how to read its raw folder and where images go."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import datasets

from hf_inspect.data.classes import CLASS_NAME, LABEL, class_column
from hf_inspect.data.examine import Examined
from hf_inspect.data.licence import Licence
from hf_inspect.data.partition import DEFAULT, Placement, Row
from hf_inspect.data.raw.masks import upright
from hf_inspect.data.raw.sources import Raw, keys_by_rule
from hf_inspect.errors import DataError
from hf_inspect.prefetch import prefetched
from hf_inspect.schema import BINARY, DEFECT, GOOD, Sample, TaskSpec


@dataclass(frozen=True)
class SeedOnly:
    """Options of a data set that has no others."""

    seed: int = 0


class InspectionBuilder(datasets.GeneratorBasedBuilder):
    """Writes the rows of one config as Parquet with the images' own bytes; scripts say the rest.

    `OPTIONS` is a frozen dataclass of the data set's own arguments; `COLUMNS` the features beside image, label, class
    and group; `CONFIGS` the configs a reader loads, each a union of those that `place` names; `EVALUATION` the config
    and split that `--layout folders` writes as val/. `VIEWS` says that configs show the same images on purpose.
    """

    LICENCE: ClassVar[Licence | None]  # None: the user's own data, under the option `license`
    OPTIONS: ClassVar[type] = SeedOnly
    COLUMNS: ClassVar[Mapping[str, Any]] = {}
    CONFIGS: ClassVar[Mapping[str, Sequence[str]]] = {DEFAULT: (DEFAULT,)}
    EVALUATION: ClassVar[tuple[str, str]] = (DEFAULT, "test")
    VIEWS: ClassVar[bool] = False
    BUILDER_CONFIG_CLASS = datasets.BuilderConfig

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        spec: TaskSpec,
        columns: Mapping[str, Any],
        on_row: Callable[[], None],
        **kwargs: Any,
    ) -> None:
        self.rows, self.spec, self.columns, self.on_row = rows, spec, columns, on_row
        super().__init__(**kwargs)

    @classmethod
    def read(cls, src: Path | None, options: Any) -> Raw:
        """What each file of the raw folder is: a sample's, a record, or left out; DataError on a wrong root."""
        raise NotImplementedError

    @classmethod
    def place(cls, examined: Sequence[Examined], groups: Sequence[int], options: Any) -> Placement:
        """Config and split of each image that is taken; a pure function of its arguments."""
        raise NotImplementedError

    @classmethod
    def task(cls, samples: Sequence[Sample], options: Any) -> TaskSpec:
        """The classes of the samples that are taken, and which of them are good."""
        return BINARY

    @classmethod
    def columns_of(cls, samples: Sequence[Sample], options: Any) -> Mapping[str, Any]:
        """Features beside image, label, class and group; override where their names come from the data."""
        return cls.COLUMNS

    @classmethod
    def keys(cls, samples: Sequence[Sample], options: Any) -> list[str | None]:
        """What joins images into one group whatever they look like: the option `group_rule` on their file names.

        A rule that holds a '/' is looked for in the whole path below the raw folder instead: `([^/]+)/view_`.
        """
        rule = getattr(options, "group_rule", None)
        if not rule:
            return [None] * len(samples)
        return keys_by_rule([s.source if "/" in rule else s.path.name for s in samples], rule)

    @classmethod
    def defaults(cls, names: Iterable[str]) -> dict[str, Any]:
        """The options' defaults; DataError when one of `names` is no option of this data set."""
        known = {f.name: f.default for f in fields(cls.OPTIONS)}
        for name in (name for name in names if name not in known):
            named = ", ".join(f"--{name.replace('_', '-')}" for name in known)
            raise DataError(f"{cls.__name__} has no option --{name.replace('_', '-')}; it has {named}.")
        return known

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Any:
        """OPTIONS from what the user gave; DataError for an option that this data set does not have."""
        cls.defaults(given)
        return cls.OPTIONS(**given)

    @classmethod
    def may_be_repeated(cls, name: str) -> bool:
        """Whether an option may be given several times, each time one more value."""
        return any(f.name == name and f.metadata.get("repeated", False) for f in fields(cls.OPTIONS))

    def _info(self) -> datasets.DatasetInfo:
        features = {"image": datasets.Image(), LABEL: datasets.ClassLabel(names=[GOOD, DEFECT])}
        if class_column(self.spec) == CLASS_NAME:
            features[CLASS_NAME] = datasets.ClassLabel(names=list(self.spec.classes))
        features |= {**self.columns, "group": datasets.Value("int32")}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        splits = dict.fromkeys(row.split for row in self.rows)
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in splits]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        own = [row for row in self.rows if row.split == split]
        for i, example in enumerate(prefetched(self._example, own)):
            yield i, example
            self.on_row()

    def _example(self, row: Row) -> dict[str, Any]:
        content = row.sample.read()
        if hashlib.sha256(content).hexdigest() != row.signature.sha256:
            raise DataError(f"{row.sample.source} changed while the data set was built; build it again.")
        image = {"bytes": content, "path": row.sample.path.name}
        name = str(row.sample.class_name)
        example = {"image": image, LABEL: self.spec.disposition(name), "group": row.group, **row.sample.columns}
        example[class_column(self.spec)] = name
        if "mask" in self.columns:
            mask = row.sample.mask
            example["mask"] = mask and {"bytes": _mask(row, mask), "path": mask.name}
        return example


def _mask(row: Row, path: Path) -> bytes:
    """A row's mask as it fits its image, which the file itself may be."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() == row.mask_sha256:
        return content
    content = upright(content, row.mask_turn)
    if hashlib.sha256(content).hexdigest() != row.mask_sha256:
        raise DataError(f"the mask of {row.sample.source} changed while the data set was built; build it again.")
    return content

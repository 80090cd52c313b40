"""What differs between families of students: a row each, found by transformers' `model_type` or by a base's name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess
from hf_inspect.students import timm_wrapper, yolo
from hf_inspect.students.start import Start

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of network.

    `is_base`: whether a base's name is one that `new` builds without a folder. `from_folder`: an earlier model of the
    family, its head kept or fresh. `network`: the architecture's name. `licence`: of its code and weights, None where
    they ask for nothing that its images do not. `library`: what builds it, and that one's version. `processor`: the
    image processor to save beside a student, None where config.json is enough for transformers. `sized`: the config as
    Optimum reads the images' size from it; `registered`: whether the config on disk is one already.
    """

    is_base: Callable[[str], bool]
    new: Callable[[Start], "PreTrainedModel"]
    from_folder: Callable[[Path, "PretrainedConfig", Start, bool], "PreTrainedModel"]
    network: Callable[["PretrainedConfig"], str]
    licence: str | None
    library: Callable[[], tuple[str, str]]
    preprocess: Callable[["PretrainedConfig"], Preprocess]
    processor: Callable[["PretrainedConfig"], Any | None]
    sized: Callable[["PretrainedConfig"], "PretrainedConfig"]


FAMILIES: Mapping[str, Family] = {
    "timm_wrapper": Family(
        is_base=timm_wrapper.is_timm,
        new=timm_wrapper.new_timm,
        from_folder=timm_wrapper.timm_from_folder,
        network=lambda config: config.architecture,
        licence=None,
        library=lambda: ("timm", version("timm")),
        preprocess=timm_wrapper.timm_preprocess,
        processor=lambda config: None,
        sized=timm_wrapper.sized_timm,
    ),
    yolo.YoloStudentConfig.model_type: Family(
        is_base=yolo.NETWORKS.__contains__,
        new=yolo.new_yolo,
        from_folder=yolo.yolo_from_folder,
        network=lambda config: config.network,
        licence=yolo.LICENCE,
        library=lambda: ("ultralytics", yolo.ultralytics_version()),
        preprocess=yolo.yolo_preprocess,
        processor=yolo.yolo_processor,
        sized=lambda config: config,
    ),
}


def family_of(config: "PretrainedConfig") -> Family:
    """The family of a model by its config; DataError for one that is no student's."""
    if config.model_type not in FAMILIES:
        raise DataError(f"a model of type {config.model_type!r} came; students are {', '.join(FAMILIES)}.")
    return FAMILIES[config.model_type]


def family_named(base: str) -> Family | None:
    """The family that builds `base` from its name alone; None for folders and repositories."""
    return next((family for family in FAMILIES.values() if family.is_base(base)), None)

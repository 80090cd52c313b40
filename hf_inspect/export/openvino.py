"""A student -> OpenVINO's network by Optimum Intel, and the files with which its own classes open the folder."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hf_inspect import files
from hf_inspect.errors import MissingExtraError
from hf_inspect.hub.kinds import STUDENT
from hf_inspect.runtime import MODEL
from hf_inspect.schema import TaskSpec
from hf_inspect.students import FAMILIES, Student, family_of, image_processor_of
from hf_inspect.students.start import config_of_task

_TASK = STUDENT.pipeline  # what transformers, Optimum and the Hub call what a student does


def by_optimum(student: Student, folder: Path) -> Any:
    """The student as an openvino.Model in float32, for any number of images of the one size its preprocessing gives.

    Optimum's other files go to `folder`.
    """
    with TemporaryDirectory() as written:
        write_fp32(student, Path(written))
        import openvino

        for path in Path(written).glob("*config.json"):
            shutil.copy(path, folder)
        return openvino.Core().read_model(Path(written) / MODEL)


def write_fp32(student: Student, folder: Path) -> None:
    """Write the student in float32, as Optimum does."""
    try:
        from optimum.exporters.openvino import export_from_model
    except ImportError as error:
        raise MissingExtraError("An export needs Optimum Intel: pip install 'hf-inspect[export]'") from error

    register_students()
    processor = image_processor_of(student.model.config)
    export_from_model(student.model, folder, task=_TASK, preprocessors=processor and [processor])
    _name_classes(folder / "config.json", student.task)


def register_students() -> None:
    """Teach Optimum our students: `main_export` and `OVModel...from_pretrained(export=True)` take them then."""
    from optimum.exporters.tasks import TasksManager

    register = TasksManager.create_register("openvino", overwrite_existing=True)
    for model_type in FAMILIES:
        register(model_type, _TASK)(_config_class())


def _name_classes(path: Path, task: TaskSpec) -> None:
    """Let Optimum's own classes name the classes: they do not know timm's `label_names`."""
    files.write_json(path, files.read_json(path) | config_of_task(task))


def _config_class() -> Any:
    """Optimum's export settings of a student: images of the one size that its config states, any number of them."""
    from optimum.exporters.openvino.config import VisionOpenVINOConfig
    from optimum.utils import NormalizedVisionConfig

    class StudentOpenVINOConfig(VisionOpenVINOConfig):
        NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(family_of(config).sized(config), *args, **kwargs)

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {"pixel_values": {0: "batch_size"}}  # the size is fixed: timm traces its "same" padding for one

    return StudentOpenVINOConfig

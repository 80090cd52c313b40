"""A student -> OpenVINO's files in a folder: FP32 by Optimum Intel, INT8 by NNCF on real training images."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files, images
from hf_inspect.data import class_ids
from hf_inspect.errors import MissingExtraError
from hf_inspect.hub.kinds import STUDENT
from hf_inspect.images import Preprocess, Reading
from hf_inspect.others import left_alone
from hf_inspect.runtime import MODEL
from hf_inspect.schema import TaskSpec
from hf_inspect.students import FAMILIES, Student, family_of, image_processor_of
from hf_inspect.students.start import config_of_task

if TYPE_CHECKING:
    import datasets

CALIBRATION_IMAGES = 300  # NNCF's own default
_SEED = 0
_TASK = STUDENT.pipeline  # what transformers, Optimum and the Hub call what a student does


def write_fp32(student: Student, folder: Path) -> None:
    """Write the student in float32, for any number of images of the one size its preprocessing gives."""
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


def write_int8(student: Student, folder: Path, train: "datasets.Dataset", reading: Reading) -> None:
    """Write the student with 8-bit weights and activations, their ranges taken from up to 300 training images."""
    with TemporaryDirectory() as fp32:
        write_fp32(student, Path(fp32))
        import openvino

        rows = train.select(stratified(ranks(train, student.task), CALIBRATION_IMAGES))
        found = quantized(openvino.Core().read_model(Path(fp32) / MODEL), rows, student.preprocess, reading)
        openvino.save_model(found, folder / MODEL, compress_to_fp16=False)
        for path in Path(fp32).glob("*config.json"):  # for Optimum's own classes
            shutil.copy(path, folder)


def stratified(classes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Positions of up to `n` rows, sampled with a fixed seed, each class as frequent among them as in `classes`."""
    order = np.random.default_rng(_SEED).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    return order[np.unique(np.linspace(0, len(classes) - 1, n).astype(np.int64))]


def ranks(rows: "datasets.Dataset", task: TaskSpec) -> NDArray[np.int64]:
    """A number for each row's class, whatever the order of the task's classes: good ones first, then by name."""
    order = sorted(range(len(task.classes)), key=lambda i: (task.is_defect[i], task.classes[i]))
    return np.argsort(order)[class_ids(rows, task)]


def _name_classes(path: Path, task: TaskSpec) -> None:
    """Let Optimum's own classes name the classes: they do not know timm's `label_names`."""
    files.write_json(path, files.read_json(path) | config_of_task(task))


def quantized(model: Any, rows: "datasets.Dataset", preprocess: Preprocess, reading: Reading) -> Any:
    """The OpenVINO model in 8 bits, with ranges that span all values seen on the rows.

    NNCF's default, the mean of the images' largest values, clips what only defects raise: the tests' network, which
    tells bright squares from noise, then lets 7 of 60 more defects pass.
    """
    nncf = _nncf()

    def inputs(row: dict[str, Any]) -> NDArray[np.float32]:
        return images.prepare(images.load(row["image"]["bytes"], reading).rgb, preprocess)[None]

    return nncf.quantize(
        model,
        nncf.Dataset(rows, inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(rows),
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
        ),
    )


def _nncf() -> Any:
    """NNCF, whose import gives every logger of the process another class."""
    with left_alone():
        import nncf
        import nncf.quantization.range_estimator
    return nncf


def _kept_in_float(model: Any) -> list[str]:
    """Names of the convolutions that lose most by 8 bits and win least: depthwise ones, and those at half resolution.

    On EfficientNet-Lite0 and ELPV's 262 validation images, 6 decisions flip with all in 8 bits, none without these;
    a forward pass takes 4.3 and 5.5 ms, and 11.4 ms in float (medians of one interleaved run, 2 shared CPU cores).
    """
    height = model.input(0).partial_shape[2].get_length()
    names = []
    for op in model.get_ordered_ops():
        depthwise = op.get_type_name() == "GroupConvolution"
        wide = op.get_type_name() == "Convolution" and 2 * op.output(0).partial_shape[2].get_length() >= height
        names += [op.get_friendly_name()] * (depthwise or wide)
    return names


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

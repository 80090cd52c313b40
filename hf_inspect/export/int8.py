"""A network -> the same in 8 bits by NNCF, with ranges from real training images."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import images
from hf_inspect.data import class_ids
from hf_inspect.detectors.cut import Cut
from hf_inspect.export.formats import Format
from hf_inspect.export.layers import kept_in_float, last_of
from hf_inspect.images import Preprocess, Reading
from hf_inspect.others import left_alone
from hf_inspect.schema import TaskSpec
from hf_inspect.tasks.tiles import Tiles, shown_in

if TYPE_CHECKING:
    import datasets

CALIBRATION_IMAGES = 300  # NNCF's own default
_SEED = 0


def quantized(
    form: Format, network: Any, rows: "datasets.Dataset", preprocess: Preprocess, reading: Reading, task: TaskSpec,
    tiles: Tiles | None = None,
) -> Any:  # fmt: skip
    """A network of a format in 8 bits, with ranges that span all values seen on the rows, or on `tiles` of them.

    NNCF's default, the mean of the images' largest values, clips what only defects raise: the tests' network, which
    tells bright squares from noise, then lets 7 of 60 more defects pass.

    Weights take half of the 8 bits' range. A processor without VNNI adds pairs of products up in 16 bits, which whole
    ranges overflow: the shipped edge's logits were then off by up to 0.99 where one with VNNI gave them exactly.
    """
    nncf = _nncf()

    seen = rows if tiles is None else _most_telling(Cut(rows, tiles))

    def inputs(row: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        rgb = images.load(row["image"]["bytes"], reading).rgb
        rgb = shown_in(rgb, row["tile"]) if "tile" in row else rgb
        return {"pixel_values": images.prepare(rgb, preprocess)[None]}

    layers = form.layers(network)
    kept = {*kept_in_float(layers), *(last_of(layers) if task.finds else ())}
    return nncf.quantize(
        network,
        nncf.Dataset(seen, inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(seen),
        ignored_scope=nncf.IgnoredScope(names=sorted(kept), validate=False),  # NNCF does not list shapes' arithmetic
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        ),
    )


def calibration_rows(train: "datasets.Dataset", task: TaskSpec) -> "datasets.Dataset":
    """Up to CALIBRATION_IMAGES of the training rows: of a classification each class as frequent as in all."""
    if task.finds:
        return train.shuffle(seed=_SEED).select(range(min(len(train), CALIBRATION_IMAGES)))
    return train.select(stratified(ranks(train, task), CALIBRATION_IMAGES))


def _most_telling(cut: Cut) -> Cut:
    """Up to CALIBRATION_IMAGES tiles, those that show something before all others: they raise what others do not."""
    showing = set(cut.showing())
    order = np.random.default_rng(_SEED).permutation(len(cut)).tolist()
    kept = sorted(order, key=lambda i: i not in showing)[:CALIBRATION_IMAGES]
    cut.places = [cut.places[i] for i in kept]
    return cut


def stratified(classes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Positions of up to `n` rows, sampled with a fixed seed, each class as frequent among them as in `classes`."""
    order = np.random.default_rng(_SEED).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    return order[np.unique(np.linspace(0, len(classes) - 1, n).astype(np.int64))]


def ranks(rows: "datasets.Dataset", task: TaskSpec) -> NDArray[np.int64]:
    """A number for each row's class, whatever the order of the task's classes: good ones first, then by name."""
    order = sorted(range(len(task.classes)), key=lambda i: (task.is_defect[i], task.classes[i]))
    return np.argsort(order)[class_ids(rows, task)]


def _nncf() -> Any:
    """NNCF, whose import gives every logger of the process another class; it would list each layer that is left out."""
    with left_alone():
        import nncf
        import nncf.quantization.range_estimator
    nncf.set_log_level(logging.WARNING)
    return nncf

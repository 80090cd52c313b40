"""An anomaly model's folder -> a `Predictor`: severity and map of each image."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect import files, hub, images
from hf_inspect.data import read_history
from hf_inspect.errors import DataError
from hf_inspect.images import Preprocess, Reading, Rgb
from hf_inspect.runtime import LoadedHere
from hf_inspect.schema import ANOMALY, History, Prediction, TaskSpec
from hf_inspect.students.start import READING, TASK, reading_of
from hf_inspect.tasks import TASKS
from hf_inspect.training import content_of

if TYPE_CHECKING:
    from hf_inspect.anomaly.model import SubspaceForAnomalyDetection

BATCH = 16


class AnomalyDetector:
    """A fitted anomaly model on torch, a `Predictor`. Threads may share one: it answers one of them at a time.

    `task` says what its severity means, `reading` and `preprocess` how it sees.
    """

    def __init__(self, model: "SubspaceForAnomalyDetection", folder: Path) -> None:
        """Most callers want `from_pretrained`."""
        where, config = folder / "config.json", model.config
        self.model, self.folder = model.float().eval(), folder
        self.task = TaskSpec.from_dict(getattr(config, TASK, None), where)
        self.reading: Reading = reading_of(config, where)
        self.preprocess = Preprocess.from_dict(config.preprocess)
        self._loaded_here, self._lock = LoadedHere("An AnomalyDetector"), Lock()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "AnomalyDetector":
        """Load what `recipes/anomaly` wrote, from a folder or a repository; DataError for anything else."""
        found = hub.resolve(folder)
        stated = files.read_json(found / "config.json")
        from hf_inspect.anomaly.model import AnomalyConfig, SubspaceForAnomalyDetection

        if stated.get("model_type") != AnomalyConfig.model_type or stated.get(TASK, {}).get("kind") != ANOMALY:
            raise DataError(f"{folder} holds no anomaly model; give a folder that recipes/anomaly/train.py wrote.")
        import torch

        model = SubspaceForAnomalyDetection.from_pretrained(found, local_files_only=True)
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), found)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over its weights and its config.json."""
        return content_of(self.folder)

    @cached_property
    def history(self) -> History:
        """What it was fitted and set on, and what its network saw before."""
        return read_history(self.folder, files.portable_name(self.folder))

    def predict(self, images: Sequence[Rgb], batch_size: int = BATCH) -> list[Prediction]:
        """RGB arrays uint8 (h, w, 3) of any sizes -> an answer for each, with its map, in order.

        `batch_size` changes speed and memory, not results.
        """
        self._loaded_here.check()
        chunks = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return [one for chunk in chunks for one in self._answers(chunk)]

    def _answers(self, chunk: Sequence[Rgb]) -> list[Prediction]:
        scores, maps = raw(self.model, self.preprocess, chunk, self._lock)
        return TASKS[ANOMALY].decode((scores, maps), self.task)


def raw(model: Any, preprocess: Preprocess, rgbs: Sequence[Rgb], lock: Any) -> tuple[Any, Any]:
    """Raw scores (n,) float64 and maps (n, h, w) float32 of some images."""
    import torch

    with lock, torch.inference_mode():
        found = model(pixel_values=tensor(rgbs, preprocess, model.device))
    return found.scores.double().cpu().numpy(), found.maps.cpu().numpy()


def tensor(rgbs: Sequence[Rgb], preprocess: Preprocess, device: Any) -> Any:
    """Images as the model's input (n, 3, h, w)."""
    import torch

    return torch.from_numpy(np.stack([images.prepare(rgb, preprocess) for rgb in rgbs])).to(device)


def state(config: Any, task: TaskSpec, reading: Reading) -> None:
    """Write into a model's config what it answers, and how its images are read."""
    setattr(config, TASK, task.to_dict())
    setattr(config, READING, reading.to_dict())

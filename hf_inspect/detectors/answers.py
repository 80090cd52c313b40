"""What a teacher says of images, computed once: kept as safetensors, by the SHA-256 of the pixels that a model sees.

Half precision, a file an image, in a folder that is called by the teacher's identity (SHA-256 over its weights and
config.json). Each image is answered by itself, so that neither batches nor a kill decide what is kept.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import files
from hf_inspect.detectors.families import Parts, family_of
from hf_inspect.detectors.predictor import Detector
from hf_inspect.detectors.training import collate
from hf_inspect.errors import DataError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, "torch.Tensor"]

_LOGITS, _FEATURES, _DIGEST = "logits", "features.", "sha256"  # names in a file; the last of its metadata


class Answers:
    """A teacher's answers, those kept in a folder and those that it gives now.

    `counts`: images `read` from the folder and `computed` by the teacher; `broken` of those had a file that was not
    what had been written, and is written anew.
    """

    def __init__(self, teacher: Detector, folder: Path) -> None:
        self.teacher, self.folder = teacher, folder / teacher.identity
        self.counts = {"read": 0, "computed": 0, "broken": 0}

    def of(self, seen: "torch.Tensor") -> Parts:
        """Images uint8 (n, 3, h, w), as models see them before they are normalised -> the teacher's parts of them."""
        import torch

        each = [self._of_one(image) for image in seen.cpu()]
        whole = {name: torch.stack([one[name] for one in each]).float().to(seen.device) for name in each[0]}
        features = {int(name.removeprefix(_FEATURES)): one for name, one in whole.items() if name != _LOGITS}
        return Parts(whole.get(_LOGITS), features, {})

    def __str__(self) -> str:
        counts = self.counts
        return f"the teacher answered {counts['computed']} images, {counts['broken']} of them again as their files " \
               f"were broken; {counts['read']} times its answer was there"  # fmt: skip

    def _of_one(self, image: "torch.Tensor") -> "Tensors":
        path = self.folder / f"{_name_of(image)}.safetensors"
        there = path.is_file()
        kept = _read(path) if there else None
        if kept is not None:
            self.counts["read"] += 1
            return kept
        self.counts["computed"] += 1
        self.counts["broken"] += there
        given = self._computed(image)
        _write(path, given)
        return given

    def _computed(self, image: "torch.Tensor") -> "Tensors":
        import torch

        model, row = self.teacher.model, {"pixel_values": image, "labels": {}}
        pixels = collate([row], self.teacher.preprocess)["pixel_values"].to(model.device)
        with torch.no_grad():
            parts = family_of(model.config).parts(model, pixels, None)
        given = {f"{_FEATURES}{stride}": one for stride, one in parts.features.items()}
        given |= {} if parts.logits is None else {_LOGITS: parts.logits}
        halves = {name: one[0].half().cpu().contiguous() for name, one in given.items()}
        if bad := [name for name, one in halves.items() if not one.isfinite().all()]:
            raise DataError(
                f"the teacher {self.teacher.folder.name} gives {bad[0]} that are no numbers; train it anew."
            )
        return halves


def _name_of(image: "torch.Tensor") -> str:
    """SHA-256 over the sides and the values of an image."""
    return hashlib.sha256(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).hexdigest()


def _digest(tensors: "Mapping[str, torch.Tensor]") -> str:
    """SHA-256 over names, shapes and values."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(f"{name} {tuple(tensors[name].shape)}".encode())
        whole.update(tensors[name].numpy().tobytes())
    return whole.hexdigest()


def _write(path: Path, tensors: "Tensors") -> None:
    from safetensors.torch import save

    files.write_bytes(path, save(tensors, {_DIGEST: _digest(tensors)}))


def _read(path: Path) -> "Tensors | None":
    """A file's tensors; None where it is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            stated = (file.metadata() or {}).get(_DIGEST)
    except SafetensorError:
        return None
    return tensors if stated == _digest(tensors) else None

"""Tasks that good images set themselves: features learn from them what a part looks like, before a subspace is fitted.

SimSiam (arXiv 2011.10566): two views of one part have the same features. CutPaste (arXiv 2104.04015): a part with a
patch of itself pasted elsewhere is told from the part as it is. Heads and losses are lightly's. No weight is frozen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from hf_inspect import images
from hf_inspect.anomaly.cutpaste import AREA, Kind, cut_paste
from hf_inspect.anomaly.model import patches_of
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.images import Preprocess, Reading, Rgb

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIMSIAM = "simsiam"
PASTED: Mapping[str, tuple[Kind, ...]] = {"normal": ("normal",), "scar": ("scar",), "3way": ("normal", "scar")}
NAMES = (SIMSIAM, *PASTED)
_HEADS = "models.modules.heads"  # of lightly


@dataclass(frozen=True, slots=True)
class Pretext:
    """A pretext task by its `name`, the `layers` whose features learn it, and the `side` of its images in pixels.

    `min_crop` is the smallest share of an image that a view shows, `jitter` the largest change of brightness, contrast
    and saturation. SimSiam's heads have `projection` outputs and `prediction` hidden units; CutPaste's has hidden
    layers of `head` units, and its normal patches cover a share of the image in `area`.
    """

    name: str
    layers: tuple[str, ...]
    side: int
    min_crop: float = 0.2
    jitter: float = 0.4
    projection: int = 2048
    prediction: int = 512
    head: tuple[int, ...] = (512, 512, 128)
    area: tuple[float, float] = AREA
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise DataError(f"There is no pretext task {self.name!r}; give one of {', '.join(NAMES)}, or none.")
        if not (len(self.area) == 2 and 0 < self.area[0] <= self.area[1] < 1 and 0 < self.min_crop <= 1):
            raise DataError(f"area is {self.area}, min_crop {self.min_crop}; give two shares of the image, and one.")


class Learner(nn.Module):
    """A network that learns by a pretext task, whose batch norms keep the statistics that they came with.

    Those of views, which are smaller than what is fitted to and augmented, would be wrong for the fit: with them
    SimSiam came to an AUROC of 0.82 on ELPV's validation split, without to 0.87.
    """

    def __init__(self, network: "PreTrainedModel", pretext: Pretext) -> None:
        """`network` and the layers' `features` of it."""
        super().__init__()
        self.network, self.features = network, _features(pretext)

    def train(self, mode: bool = True) -> "Learner":
        """The heads' batch norms train, the network's do not."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class SimSiamLearner(Learner):
    """Views (n, 2, 3, side, side) -> how unlike their features are, each predicted from the other's: -1 is alike."""

    def __init__(self, network: "PreTrainedModel", pretext: Pretext) -> None:
        """Fresh heads on the network's features; MissingExtraError without lightly."""
        super().__init__(network, pretext)
        heads = _lightly(_HEADS)
        wide = _dimensions(network, pretext)
        self.projection = heads.SimSiamProjectionHead(wide, wide, pretext.projection)
        self.prediction = heads.SimSiamPredictionHead(pretext.projection, pretext.prediction, pretext.projection)
        self.unlike = _lightly("loss").NegativeCosineSimilarity()

    def forward(self, views: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss; SimSiam has no labels, and these are not looked at."""
        one, other = (self.projection(self.features(self.network, some)) for some in views.unbind(1))
        there, back = (self.unlike(self.prediction(a), b.detach()) for a, b in ((one, other), (other, one)))
        return {"loss": (there + back) / 2}


class CutPasteLearner(Learner):
    """Views (n, k, 3, side, side) -> cross-entropy against which of the k each is, `labels` (n, k)."""

    def __init__(self, network: "PreTrainedModel", pretext: Pretext) -> None:
        """A fresh head on the network's features; MissingExtraError without lightly."""
        super().__init__(network, pretext)
        sizes = (_dimensions(network, pretext), *pretext.head)
        hidden = [(a, b, nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.head = _lightly(_HEADS).ProjectionHead([*hidden, (sizes[-1], 1 + len(PASTED[pretext.name]), None, None)])

    def forward(self, views: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and the logits (n * k, k)."""
        logits = self.head(self.features(self.network, views.flatten(0, 1)))
        return {"loss": cross_entropy(logits.float(), labels.flatten()), "logits": logits}


def learner_of(network: "PreTrainedModel", pretext: Pretext) -> SimSiamLearner | CutPasteLearner:
    """The network under the heads of a pretext task."""
    return (SimSiamLearner if pretext.name == SIMSIAM else CutPasteLearner)(network, pretext)


def views_of(pretext: Pretext) -> Callable[[Rgb], torch.Tensor]:
    """RGB uint8 (side, side, 3) -> its views (k, 3, side, side) in [0, 1].

    Of SimSiam two, each drawn by itself; of CutPaste one, as it is and then with a patch of each kind.
    """
    if pretext.name == SIMSIAM:
        return _two_views(pretext)
    crop = v2.RandomResizedCrop(pretext.side, scale=(pretext.min_crop, 1.0), ratio=(0.9, 1.1), antialias=True)
    augment = v2.Compose([crop, v2.ColorJitter(pretext.jitter, pretext.jitter, pretext.jitter)])

    def views(rgb: Rgb) -> torch.Tensor:
        part = augment(torch.from_numpy(rgb).permute(2, 0, 1))
        pasted = [cut_paste(part, kind, pretext.area)[0] for kind in PASTED[pretext.name]]
        return torch.stack([part, *pasted]).float() / 255

    return views


def to_views(
    rows: Mapping[str, Sequence[Any]], views: Callable[[Rgb], torch.Tensor], preprocess: Preprocess, reading: Reading
) -> dict[str, list[torch.Tensor]]:
    """A batch of rows -> the views of each."""
    resized = (images.resize(images.load(image["bytes"], reading).rgb, preprocess) for image in rows["image"])
    return {"views": [views(rgb) for rgb in resized]}


def collate(rows: Sequence[Mapping[str, torch.Tensor]], preprocess: Preprocess) -> dict[str, torch.Tensor]:
    """Views of n parts, normalised (n, k, 3, side, side), and `labels` (n, k), each view's place: 0 is as it is."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    views = torch.stack([row["views"] for row in rows])
    return {"views": (views - mean) / std, "labels": torch.arange(views.shape[1]).repeat(len(rows), 1)}


def moved(before: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, float]:
    """How far each weight of a network went from what it was, as a share of that's norm, or of 1 where that is 0.

    Running statistics are no weights.
    """
    now = {name: value.detach().cpu() for name, value in network.named_parameters()}
    return {name: float((now[name] - was).norm()) / (float(was.norm()) or 1.0) for name, was in before.items()}


def _two_views(pretext: Pretext) -> Callable[[Rgb], torch.Tensor]:
    colour = {f"cj_{name}": pretext.jitter for name in ("bright", "contrast", "sat")} | {"cj_hue": pretext.jitter / 4}
    transforms = _lightly("transforms")
    two = transforms.SimSiamTransform(pretext.side, min_scale=pretext.min_crop, vf_prob=0.5, normalize=None, **colour)
    return lambda rgb: torch.stack(two(Image.fromarray(rgb)))


def _features(pretext: Pretext) -> Callable[..., torch.Tensor]:
    """(network, images) -> the layers' features of the images, averaged over all positions (n, d)."""
    found = partial(patches_of, layers=pretext.layers, bf16=pretext.bf16)
    return lambda network, pixel_values: found(network, pixel_values=pixel_values).mean((2, 3))


def _dimensions(network: "PreTrainedModel", pretext: Pretext) -> int:
    with torch.inference_mode():
        return patches_of(network.eval(), pretext.layers, torch.zeros(1, 3, pretext.side, pretext.side)).shape[1]


def _lightly(module: str) -> Any:
    """One of lightly's modules."""
    try:
        return import_module(f"lightly.{module}")
    except ImportError as error:
        raise MissingExtraError("Pretext tasks need lightly: pip install 'hf-inspect[pretext]'") from error

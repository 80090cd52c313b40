"""A network and two subspaces as one `PreTrainedModel`: images -> a raw score each, and a map of where.

transformers' base classes are needed at the top, as `students/yolo.py` needs them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_inspect.anomaly.network import body_of, check_layers, config_of
from hf_inspect.anomaly.subspace import Subspace, top
from hf_inspect.errors import DataError

Score = Literal["fre", "mahalanobis", "patches"]
TOP = 0.01  # share of an image's patches, the most unlike, whose mean is the score `patches` (SubspaceAD's tail)
_SPREAD = 4.0  # standard deviations that the smoothing reaches


class AnomalyConfig(PretrainedConfig):
    """What decides an anomaly model.

    `network` is the config of the vision model, `layers` names those whose features are used, `pool` averages them over
    so many positions each way for the image's own feature. `score` is what counts for an image: `fre`, the squared
    reconstruction error; `mahalanobis`, the squared distance from the mean within the subspace, in standard deviations;
    `patches`, the mean error of the most unlike patches. `smooth` is the map's Gaussian, in pixels of the network's
    images; `bf16` is of the network alone. `image` and `patch` are (components, dimensions) of the subspaces, (0, 0)
    for one that is not used.
    """

    model_type = "inspection_anomaly"

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        layers: Sequence[str] = (),
        pool: int = 1,
        preprocess: dict[str, Any] | None = None,
        score: Score = "fre",
        smooth: float = 4.0,
        bf16: bool = False,
        image: Sequence[int] = (0, 0),
        patch: Sequence[int] = (0, 0),
        **kwargs: Any,
    ) -> None:
        """Fields of another model's config.json go on to transformers."""
        self.network, self.layers, self.pool, self.preprocess = network, list(layers), pool, preprocess
        self.score, self.smooth, self.bf16 = score, smooth, bf16
        self.image, self.patch = list(image), list(patch)
        super().__init__(**kwargs)


@dataclass
class AnomalyOutput(ModelOutput):
    """Raw `scores` (n,) and `maps` (n, h, w) in pixels of the network's images; squared errors, higher is worse."""

    scores: torch.Tensor | None = None
    maps: torch.Tensor | None = None


class SubspaceLayer(nn.Module):
    """A `Subspace` as buffers; features (n, d) in."""

    mean: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor

    def __init__(self, k: int, d: int) -> None:
        """Room for k components of d dimensions."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("components", torch.zeros(k, d))
        self.register_buffer("variances", torch.ones(k))

    @classmethod
    def of(cls, fitted: Subspace) -> "SubspaceLayer":
        """A fitted subspace in float32."""
        made = cls(*fitted.components.shape)
        for name in ("mean", "components", "variances"):
            setattr(made, name, torch.from_numpy(getattr(fitted, name)).float())
        return made

    def error(self, features: torch.Tensor) -> torch.Tensor:
        """Squared reconstruction error (n,): of what lies outside the subspace (FRE)."""
        centred = features - self.mean
        left = centred - functional.linear(functional.linear(centred, self.components), self.components.T)
        return left.square().sum(1)

    def mahalanobis(self, features: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distance (n,) within the subspace: -2 log-likelihood, but for a constant."""
        inside = functional.linear(features - self.mean, self.components)
        return (inside.square() / self.variances).sum(1)


class SubspaceForAnomalyDetection(PreTrainedModel):
    """Images (n, 3, side, side), normalised -> `AnomalyOutput`."""

    config_class = AnomalyConfig
    main_input_name = "pixel_values"

    def __init__(self, config: AnomalyConfig) -> None:
        """Build it with random weights; DataError for settings that cannot be."""
        super().__init__(config)
        if config.score not in get_args(Score):
            raise DataError(f"score is {config.score!r}; give one of {', '.join(get_args(Score))}.")
        if config.pool < 1 or config.smooth < 0:
            raise DataError(f"pool is {config.pool}, smooth {config.smooth}; give 1 or more, and 0 or more.")
        self.network = AutoModel.from_config(config_of(config.network or {}))
        check_layers(self.network, tuple(config.layers))
        self.image, self.patch = SubspaceLayer(*config.image), SubspaceLayer(*config.patch)
        self.post_init()

    def take(self, image: Subspace | None, patch: Subspace) -> None:
        """Use fitted subspaces: of images' features, None where the score is of patches, and of patches'."""
        for name, fitted in (("image", image), ("patch", patch)):
            if fitted is not None:
                setattr(self, name, SubspaceLayer.of(fitted).to(self.device))
                setattr(self.config, name, list(fitted.components.shape))

    def patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`patches_of` the network's layers."""
        return patches_of(self.network, self.config.layers, pixel_values, self.config.bf16)

    def pooled(self, patches: torch.Tensor) -> torch.Tensor:
        """The image's own feature (n, m) of its patches', averaged over `pool` positions each way."""
        height, width = patches.shape[-2:]
        if self.config.pool > min(height, width):
            raise DataError(f"pool is {self.config.pool}, and the layers have {height} x {width} positions; give less.")
        return functional.avg_pool2d(patches, self.config.pool).flatten(1)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> AnomalyOutput:
        """Scores and maps."""
        return self.answers(self.patches(pixel_values), pixel_values.shape[-2:])

    def answers(self, patches: torch.Tensor, size: Sequence[int]) -> AnomalyOutput:
        """Scores of images by their `patches`, and maps of `size` (h, w)."""
        n, _, height, width = patches.shape
        errors = self.patch.error(patches.permute(0, 2, 3, 1).flatten(0, 2)).reshape(n, height * width)
        if self.config.score == "patches":
            scores = errors.topk(top(TOP, height * width), 1).values.mean(1)
        else:
            of = {"fre": self.image.error, "mahalanobis": self.image.mahalanobis}[self.config.score]
            scores = of(self.pooled(patches))
        maps = _resized(errors.reshape(n, 1, height, width), size)
        return AnomalyOutput(scores, _smoothed(maps, self.config.smooth)[:, 0])

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is fresh: the network and the subspaces are loaded."""


AutoConfig.register(AnomalyConfig.model_type, AnomalyConfig)
AutoModel.register(AnomalyConfig, SubspaceForAnomalyDetection)


def patches_of(
    network: PreTrainedModel, layers: Sequence[str], pixel_values: torch.Tensor, bf16: bool = False
) -> torch.Tensor:
    """Features of every position (n, d, h, w), float32: the layers' one after the other, at the first's size.

    DataError for layers without positions.
    """
    body = body_of(network)
    channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
    with torch.autocast(pixel_values.device.type, torch.bfloat16, enabled=bf16):
        found = _outputs(body, layers, pixel_values)
    by_position = [_by_position(one.float(), channels_last) for one in found]
    size = by_position[0].shape[-2:]
    at_size = [by_position[0], *(_resized(one, size) for one in by_position[1:])]
    return torch.cat(at_size, 1) if len(at_size) > 1 else at_size[0]


class _ReachedError(Exception):
    """All layers have answered: what comes after them need not be computed."""


def _outputs(body: nn.Module, layers: Sequence[str], pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """What the layers give for some images, in the order of `layers`."""
    found: dict[str, torch.Tensor] = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            found[name] = output if isinstance(output, torch.Tensor) else output[0]
            if len(found) == len(set(layers)):
                raise _ReachedError

        return keep

    handles = [body.get_submodule(name).register_forward_hook(keeping(name)) for name in dict.fromkeys(layers)]
    try:
        body(pixel_values)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in layers if name not in found]:
        raise DataError(f"The layer {missing[0]!r} takes no part in what the network computes; name another.")
    return [found[name] for name in layers]


def _by_position(features: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """A layer's output as (n, d, h, w); of tokens (n, t, d) the largest square at their end, behind class tokens."""
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if channels_last else features
    if features.ndim != 3:
        raise DataError(f"A layer gives features of shape {tuple(features.shape)}, without positions; name another.")
    side = math.isqrt(features.shape[1])
    return features[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def _resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _smoothed(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps (n, 1, h, w) through a Gaussian of so many pixels."""
    if sigma == 0:
        return maps
    from torchvision.transforms.v2.functional import gaussian_blur

    reach = min(math.ceil(_SPREAD * sigma), min(maps.shape[-2:]) - 1)  # a mirror shows no more than there is
    return gaussian_blur(maps, [2 * reach + 1] * 2, [sigma, sigma])

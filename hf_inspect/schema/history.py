"""What a model and its ancestors were trained on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_inspect.errors import DataError

HISTORY_FORMAT = 2  # of trained_on.json; a reader refuses another
RECORD_FIELDS = frozenset({1, 3, 4})  # that an image of trained_on.json may have


@dataclass(frozen=True, slots=True)
class Source:
    """A built data set that a model was trained on: name, fingerprint, licence, and how many of its images."""

    name: str
    fingerprint: str
    licence: str
    images: int


@dataclass(frozen=True, slots=True)
class History:
    """What a model and all its ancestors were trained on.

    `signatures` say of every image what others are compared with, as hex (see `data.hashing`): [SHA-256] where its data
    set was built with `--near off`, [SHA-256, pHash, check bits], and with `--near strict` [..., grain] besides.
    `unknown` names the ancestors that carry no record, such as weights of somebody else: of their images nothing can be
    said.
    """

    sources: tuple[Source, ...] = ()
    signatures: tuple[tuple[str, ...], ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of all the images, each once: they hold at once."""
        return tuple(dict.fromkeys(source.licence for source in self.sources))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of all the data, each once."""
        return tuple(dict.fromkeys(source.fingerprint for source in self.sources))

    def union(self, *others: "History") -> "History":
        """Everything that this one or another saw, each once, this one's first."""
        every = (self, *others)
        return History(
            tuple(dict.fromkeys(source for one in every for source in one.sources)),
            tuple(dict.fromkeys(signature for one in every for signature in one.signatures)),
            tuple(dict.fromkeys(name for one in every for name in one.unknown)),
        )

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "History":
        """The history that `to_dict` wrote into the record `where`; DataError for anything else, older ones too."""
        try:
            if value["format"] != HISTORY_FORMAT:
                raise KeyError("format")
            sources = tuple(Source(**one) for one in value["sources"])
            signatures = tuple(tuple(image) for image in value["images"])
            if not {len(image) for image in signatures} <= RECORD_FIELDS:
                raise ValueError("images")
            return cls(sources, signatures, tuple(value["unknown"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where} is no record of a training that this version reads ({error!r}); train the model again, or "
                "export it again from one that was."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The history as plain JSON values; `licences` repeats what the sources say, for those who read the file."""
        return {
            "format": HISTORY_FORMAT,
            "sources": [asdict(source) for source in self.sources],
            "licences": list(self.licences),
            "unknown": list(self.unknown),
            "images": [list(signature) for signature in self.signatures],
        }

    def summary(self) -> dict[str, Any]:
        """What results.json says of it: the data, and the ancestors that nothing is known of."""
        stated = [{"name": one.name, "fingerprint": one.fingerprint, "images": one.images} for one in self.sources]
        return {"data": stated, "unknown": list(self.unknown)}

"""What a model was trained on, kept beside it as trained_on.json, and the refusal to evaluate on any of it."""

import lzma
from base64 import b85decode, b85encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.hashing import THUMB_BYTES, Signature, near_pairs, sign
from hf_inspect.errors import DataError, LeakageError

_NAMED = 3  # offenders a refusal names


def trained_on(manifest: Mapping[str, Any], contents: Iterable[bytes]) -> dict[str, Any]:
    """The record of a training: the data's fingerprint and licence, and each image's [SHA-256, pHash].

    `thumbs` holds the thumbnails that confirm near-duplicates, packed: 256 grey bytes an image, xz, base85.
    `contents` are the image files' bytes of every split that touched the weights or chose a checkpoint.
    """
    signatures = [sign(content) for content in contents]
    return {
        "fingerprint": manifest["fingerprint"],
        "licence": manifest["licence"],
        "thumbs": b85encode(lzma.compress(b"".join(s.thumb for s in signatures))).decode(),
        "images": [[s.sha256, s.phash] for s in signatures],
    }


def write_trained_on(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record of `trained_on`, an image a line."""
    files.write_table(path, {k: v for k, v in record.items() if k != "images"}, "images", record["images"])


def refuse_seen(record: Mapping[str, Any], contents: Sequence[bytes], names: Sequence[str]) -> None:
    """LeakageError when any of the images (n files' bytes, n names) or a near-duplicate is in a trained_on record."""
    pairs = near_pairs([sign(content) for content in contents], _seen(record))
    found = sorted({int(i) for i, _ in pairs})
    if found:
        named = ", ".join(names[i] for i in found[:_NAMED])
        raise LeakageError(
            f"{len(found)} of {len(contents)} images are, or nearly repeat, images this model was trained on "
            f"({named}{', ...' if len(found) > _NAMED else ''}); evaluate on a split it has not seen."
        )


def _seen(record: Mapping[str, Any]) -> list[Signature]:
    """The signatures of a record of `trained_on`."""
    try:
        thumbs = lzma.decompress(b85decode(record["thumbs"]))
        pieces = [thumbs[at : at + THUMB_BYTES] for at in range(0, len(thumbs), THUMB_BYTES)]
        rows = zip(record["images"], pieces, strict=True)
        return [Signature(sha256, phash, thumb) for (sha256, phash), thumb in rows]
    except (KeyError, TypeError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"trained_on.json is incomplete ({error!r}); train the model again.") from None

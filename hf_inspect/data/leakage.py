"""What a model was trained on, kept beside it as trained_on.json, and the refusal to evaluate on any of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.hashing import near_pairs, sign, signature_from
from hf_inspect.errors import LeakageError

_NAMED = 3  # offenders a refusal names


def trained_on(manifest: Mapping[str, Any], contents: Iterable[bytes]) -> dict[str, Any]:
    """The record of a training: the data's fingerprint and licence, and each image's signature.

    `contents` are the image files' bytes of every split that touched the weights or chose a checkpoint.
    """
    images = [asdict(sign(content)) for content in contents]
    return {"fingerprint": manifest["fingerprint"], "licence": manifest["licence"], "images": images}


def write_trained_on(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record of `trained_on`, an image a line."""
    files.write_table(path, {k: v for k, v in record.items() if k != "images"}, "images", record["images"])


def refuse_seen(record: Mapping[str, Any], contents: Sequence[bytes], names: Sequence[str]) -> None:
    """LeakageError when any of the images (n files' bytes, n names) or a near-duplicate is in a trained_on record."""
    seen = [signature_from(row) for row in record["images"]]
    pairs = near_pairs([sign(content) for content in contents], seen)
    found = sorted({int(i) for i, _ in pairs})
    if found:
        named = ", ".join(names[i] for i in found[:_NAMED])
        raise LeakageError(
            f"{len(found)} of {len(contents)} images are, or nearly repeat, images this model was trained on "
            f"({named}{', ...' if len(found) > _NAMED else ''}); evaluate on a split it has not seen."
        )

"""A folder -> the files that go up, or the sentence why it must not: card, licence, fingerprints, contents."""

import hashlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import CASCADE
from hf_inspect.data import read_manifest
from hf_inspect.data.build import MANIFEST, fingerprint
from hf_inspect.data.partition import DEFAULT
from hf_inspect.errors import HubError, MissingExtraError
from hf_inspect.hub import kinds
from hf_inspect.hub.contents import refuse_content, refuse_value
from hf_inspect.hub.kinds import CARD, ROLES, SUMS, files_to_push, kind_of, shards_of, task_of
from hf_inspect.hub.licences import head_of, licence_in, refuse_wider, stated_licences
from hf_inspect.hub.measured import refuse_other_figures
from hf_inspect.hub.parts import inner_folder, parts_of, read_cascade, refuse_changed
from hf_inspect.hub.sums import verify
from hf_inspect.reading import Reading
from hf_inspect.runtime import INSPECT
from hf_inspect.runtime.folder import read_folder
from hf_inspect.schema import TaskSpec

_UNFILLED = ("[More Information Needed]", "{{")
_ROWS_AT_ONCE = 100


def check(folder: Path) -> dict[str, Path]:
    """The files of a folder by their paths in a repository; HubError, DataError or ParityError when it is not fit.

    It must have a card with a licence that permits no more than its data's and weights' and with the figures of
    results.json, hold what its manifest and fingerprints say and nothing else, and no pickle, token or absolute path.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; give one that this package wrote.")
    kind, found = kind_of(folder), files_to_push(folder)
    for name, path in found.items():
        refuse_content(name, path)
    sources = stated_licences({name: path for name, path in found.items() if name != CARD})
    refuse_wider(licence_of(folder), sources)
    if MANIFEST in found:
        _check_manifest(folder)
    if kind is kinds.DATA_SET:
        _check_data(folder)
    for path in found.values():
        if path.name == INSPECT:
            read_folder(path.parent)
    if kind is kinds.CASCADE:
        _check_cascade(folder)
    task_of(folder)
    if kind.section:
        parts = [path.parent for name, path in found.items() if kind is kinds.CASCADE and name.endswith(f"/{CARD}")]
        for one in (*parts, folder):
            refuse_other_figures(one, card_head(one).get("model-index"))
    return found


def card_head(folder: Path) -> dict[str, Any]:
    """The YAML at the head of the folder's card; HubError without a card, or with one that is not filled."""
    path = folder / CARD
    head = head_of(path)
    if head is None:
        marked = path.is_file() and path.read_bytes().startswith(BOM_UTF8)
        came = "begins with a byte-order mark" if marked else "is missing or has no YAML between --- lines at its head"
        raise HubError(f"{path} {came}; run 'hf-inspect card', or write it as plain UTF-8.")
    if unfilled := next((mark for mark in _UNFILLED if mark in files.read_text(path)), None):
        raise HubError(f"{path} is not filled in: it holds {unfilled!r}. Run 'hf-inspect card'.")
    if not head:
        raise HubError(f"{path}: its head holds no `key: value` lines; it needs `license: ...` at least.")
    return head


def licence_of(folder: Path) -> str:
    """The licence that the card states, several as `this AND that`; HubError without one."""
    licence = licence_in(card_head(folder))
    if licence is None:
        raise HubError(f"{folder / CARD} states no licence; add `license: ...` to the YAML at its head.")
    return licence


def _check_manifest(folder: Path) -> None:
    """HubError unless manifest.json's fingerprint is of its task and images; chat rows have one of the source's."""
    manifest = read_manifest(folder)
    task = TaskSpec.from_dict(manifest.get("task"), folder / MANIFEST)
    bits = Reading.from_dict(manifest.get("reading"), folder / MANIFEST).bits
    if "rows" not in manifest and fingerprint(task, manifest["images"], bits) != manifest["fingerprint"]:
        raise HubError(f"{folder / MANIFEST}: its fingerprint is not of its images; build the data set again.")


def _check_data(folder: Path) -> None:
    """HubError unless the Parquet files hold the images of manifest.json, place by place."""
    manifest = read_manifest(folder)
    chat = "rows" in manifest
    stated: dict[tuple[str, str], Counter] = {}
    for image in manifest["images"]:
        hashes = (image.get("shown_sha256", image["sha256"]), image.get("mask_sha256"))
        stated.setdefault((image.get("config", DEFAULT), image["split"]), Counter())[hashes] += 1
    for place, paths in shards_of(folder, manifest).items():
        held = Counter(hashes for path in paths for hashes in _hashes(path))
        wanted = stated.get(place, Counter())
        if (set(held) != {(sha256, None) for sha256, _ in wanted}) if chat else held != wanted:
            raise HubError(
                f"{folder}: {'/'.join(place).removeprefix(f'{DEFAULT}/')} holds other images than {MANIFEST} says "
                f"({held.total()} rows, {wanted.total()} images stated); build the data set again."
            )


def _hashes(path: Path) -> Iterator[tuple[str, str | None]]:
    """SHA-256 of each row's image and of its mask, where it has one; HubError when a row holds a token."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Checking a data set needs pyarrow: pip install 'hf-inspect[train]'") from error

    file = pq.ParquetFile(path)
    for batch in file.iter_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            image, mask = row["images"][0] if "images" in row else row["image"], row.get("mask")
            refuse_value(path.name, row)
            yield _digest(image["bytes"]), _digest(mask["bytes"]) if mask else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_cascade(folder: Path) -> None:
    """HubError or DataError unless every part in the folder is there, of its role's kind and of the cascade's task.

    ParityError when a part is not the one that was calibrated with.
    """
    stated = read_cascade(folder)
    task = TaskSpec.from_dict(stated["task"], folder / CASCADE)
    refuse_changed(folder, stated)
    for role, part in parts_of(stated).items():
        if part.kind != "folder":
            continue
        at = inner_folder(folder, part, role)
        if (kind := kind_of(at)) is not ROLES[role] and not (role == "edge" and kind in kinds.FINDERS):
            raise HubError(f"{at} is a {kind}, and the {role} of a cascade is a {ROLES[role]}; calibrate again.")
        refuse_changed(at, stated, role)
        if own := task_of(at):
            own.refuse_partner(task, str(at), str(folder / CASCADE))
    if (folder / SUMS).is_file() and (different := verify(folder)):
        raise HubError(f"{folder} is not as it was bundled: {different[0]}. Bundle the cascade again.")

"""What a model and its ancestors were trained on, kept beside it, and the refusal to evaluate on any of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import files
from hf_inspect.data.hashing import Signature, sign, sign_all
from hf_inspect.data.load import read_head, read_reading, stream
from hf_inspect.data.near import Known, known_records, repeats
from hf_inspect.data.rules import evidence
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.reading import Reading
from hf_inspect.schema import History, Source

if TYPE_CHECKING:
    import datasets

TRAINED_ON = "trained_on.json"
_AT_ONCE = 64  # images in memory
_NAMED = 3  # offenders a refusal names


def record_history(
    data: Path, splits: Mapping[str, "datasets.Dataset | None"], parents: Sequence[History] = ()
) -> History:
    """What a training on a built data set saw, united with what its `parents` saw.

    `splits` are all that touched the weights or chose a checkpoint: name -> those of its rows that were used (as
    `load_split` gives them, selected and shuffled at will), or None for all, which are then read from Parquet. Some
    images are in memory at a time. Each image's record holds what the data set's own rule compares it by.
    """
    manifest, reading = read_head(data), read_reading(data)
    near = evidence(manifest["builder"])
    records = [
        signature.record(near)
        for split, rows in splits.items()
        for contents in _contents(data, split, rows)
        for signature in sign_all(contents, reading)
    ]
    own = Source(manifest["builder"]["name"], manifest["fingerprint"], manifest["licence"], len(records))
    return History((own,), tuple(records)).union(*parents)


def write_history(folder: Path, history: History) -> None:
    """Write trained_on.json into a model's folder, an image a line."""
    head = history.to_dict()
    files.write_table(folder / TRAINED_ON, head, "images", head.pop("images"))


def read_history(folder: Path, name: str) -> History:
    """What the model in `folder` and its ancestors were trained on, by its trained_on.json.

    Without one it is `unknown`, by its `name`; DataError for a broken one and for one of an older version.
    """
    path = folder / TRAINED_ON
    if not path.exists():
        return History(unknown=(name,))
    history = History.from_dict(files.read_json(path), path)
    _known(history, path)
    return history


def refuse_seen(history: History, data: Path, split: str, what: str) -> None:
    """LeakageError when `what` (a model) has seen an image of the split, or a near-duplicate of one.

    The split is read from Parquet, some images at a time, each tried in eight orientations; what cannot be read is
    passed over. Near is what `data.near` finds by what the records hold.
    """
    known, reading, n, seen = _known(history, what), read_reading(data), 0, list[tuple[str, Signature]]()
    for rows in stream(data, split, ["image"], _AT_ONCE):
        images = [row["image"] for row in rows]
        signed = [(image["path"], signature) for image in images if (signature := _signature(image["bytes"], reading))]
        seen += [signed[i] for i in repeats([signature for _, signature in signed], known)]
        n += len(rows)
    if seen:
        named = ", ".join(path for path, _ in seen[:_NAMED]) + (", ..." if len(seen) > _NAMED else "")
        raise LeakageError(
            f"{len(seen)} of {n} images are, or nearly repeat, images that {what} or an ancestor of it was trained on "
            f"({named}); evaluate on a split it has not seen{_of_looks(seen, known)}."
        )


def _of_looks(seen: Sequence[tuple[str, Signature]], known: Known) -> str:
    """The way out where none of the images is one that was seen, byte for byte, and none was told by its grain."""
    files = set(known.sha256.tolist())
    if known.by_grain or any(signature.sha256.encode() in files for _, signature in seen):
        return ""
    return ", or, if these are other parts before the same camera, train on a set that was built with --near strict"


def _signature(content: bytes, reading: Reading) -> Signature | None:
    """None for a file that cannot be read: it is not evaluated either, and its row says why."""
    try:
        return sign(content, reading)
    except DataError:
        return None


def _contents(data: Path, split: str, rows: "datasets.Dataset | None") -> Iterator[list[bytes]]:
    """The files of a split's images, or of the rows given, some at a time."""
    if rows is None:
        for batch in stream(data, split, ["image"], _AT_ONCE):
            yield [row["image"]["bytes"] for row in batch]
    else:
        for batch in rows.with_format(None).select_columns(["image"]).iter(_AT_ONCE):
            yield [image["bytes"] for image in batch["image"]]


def _known(history: History, where: str | Path) -> Known:
    try:
        return known_records(history.signatures)
    except (TypeError, ValueError) as error:
        raise DataError(f"the record of {where} is broken ({error}); train the model again.") from None

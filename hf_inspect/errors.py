"""What can go wrong, as one small tree. Every message names what came, what was wanted and the next step."""

import errno
from collections.abc import Iterator


class InspectError(Exception):
    """Root of every error this package raises on purpose; the command line prints it as one sentence."""


class DataError(InspectError):
    """An image, a folder, a table or a setting is not what was asked for."""


class ParseError(InspectError):
    """A model's answer could not be read; callers turn it into an `unreadable` verdict, never into `good`."""


class ParityError(InspectError):
    """Two things that must agree do not: training and inference prompt, or a model and its export."""


class LeakageError(InspectError):
    """An evaluation was asked for on images (or near-duplicates) that the model was trained on."""


class HubError(InspectError):
    """A folder is not fit to be published, or a Hub did not give or take what was asked."""


class ServerError(InspectError):
    """The server of a VLM does not answer, or may not be used."""


class ForkError(InspectError):
    """A model is used in a fork of the process that loaded it."""


class MissingExtraError(InspectError):
    """An optional dependency is not installed; the message holds the pip line."""


def sentence_of(error: BaseException) -> str | None:
    """What a user is told of an error: one of ours, or the disk's; None for a fault of the program."""
    if isinstance(error, InspectError):
        return str(error)
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            where = f"{one.filename2 or one.filename}: " if one.filename else ""
            return f"{where}{_DISK[one.errno]} Then run the same command again."
        if any(words in str(one) for words in _CUT_OFF):
            return f"{_DISK[errno.ENOSPC]} Then run the same command again."
    return None


_MAY_NOT = "this place may not be written or read by you; mend its rights, or give another."
_DISK = {
    errno.ENOSPC: "the disk is full; free some space.",
    errno.EDQUOT: "your share of the disk is used up; free some space.",
    errno.EACCES: _MAY_NOT,
    errno.EPERM: _MAY_NOT,
    errno.EROFS: "this disk takes no writing; give another place.",
    errno.ENOTDIR: "a part of this path is a file, not a folder; give another place.",
    errno.EIO: "the disk does not answer; look after it.",
    errno.ENAMETOOLONG: "a name in this path is too long for the disk; give a shorter one.",
}
_CUT_OFF = (  # how safetensors and torch say it, without an errno
    "No space left on device", "PytorchStreamWriter failed writing", "] . unexpected pos ",
)  # fmt: skip


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__

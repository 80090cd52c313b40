"""A repository and a revision -> its folder in huggingface_hub's cache, every file as the Hub gave it."""

import re
import warnings
from pathlib import Path

from hf_inspect import files
from hf_inspect.errors import HubError
from hf_inspect.hub.client import asked, client
from hf_inspect.hub.kinds import PART_FILES, WEIGHTS

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PART = re.compile(rf"(?P<name>{_NAME.pattern})(@(?P<revision>\w[\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256_DIGITS = 64  # of a blob's name in the cache; git's ids have 40


def is_repository(name: str | Path) -> bool:
    """Whether this is `org/name` and no folder here."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not Path(name).exists()


def pull(repository: str, revision: str | None = None, only: list[str] | None = None) -> Path:
    """The folder of a model's repository at a revision (branch, tag or commit), downloaded as far as it is not here.

    `only` are patterns of the files wanted. A connection that breaks is taken up within the file; a later run fetches
    the files that are not here whole. Offline, what the cache holds. HubError when that is nothing, or when a file in
    the cache is not the one that the Hub gave.
    """
    api, named = client(), f"{repository}@{revision}" if revision else repository
    folder = Path(asked(named, lambda: api.snapshot_download(repository, revision=revision, allow_patterns=only)))
    _refuse_changed(folder, repository)
    return folder


def is_pinned(part: str) -> bool:
    """Whether this is `org/name@commit`, the commit in full."""
    found = _PART.fullmatch(part)
    return bool(found and _COMMIT.fullmatch(found["revision"] or ""))


def located(part: str | Path) -> str | Path:
    """Where a model's files lie: `org/name` and `org/name@revision` are pulled, anything else is as it stands.

    Only what a part of a cascade consists of is downloaded. HubError when it cannot be had; a warning says so when
    a part named by its commit has another one on its main branch by now.
    """
    found = _PART.fullmatch(str(part))
    if not found or Path(part).exists():
        return part
    folder = pull(found["name"], found["revision"], PART_FILES)
    if is_pinned(str(part)):
        _report_move(found["name"], found["revision"])
    if not any(path.suffix == ".safetensors" or path.name == WEIGHTS for path in folder.iterdir()):
        raise HubError(f"{part} holds no weights as safetensors or OpenVINO, and pickles are not read; name another.")
    return folder


def pinned(part: str | Path, at: str | Path) -> str:
    """How a part that `located` found `at` is named for good: a repository as `org/name@commit`, another as it is."""
    return str(part) if at == part else f"{str(part).partition('@')[0]}@{Path(at).name}"


def _report_move(repository: str, commit: str) -> None:
    api = client()
    try:
        now = asked(repository, lambda: api.model_info(repository).sha, again=False)
    except HubError:  # what is pinned is here; whether it moved cannot be told
        return
    if now != commit:
        warnings.warn(f"{repository} has moved to {now}; this cascade stays at {commit}, as it states.", stacklevel=3)


def _refuse_changed(folder: Path, repository: str) -> None:
    """HubError unless every file of a snapshot has the content after which the cache named it.

    A snapshot's files are links to blobs called by SHA-256 or by git's id; where a system has no links, they are not
    looked at here.
    """
    for path in (path for path in sorted(folder.rglob("*")) if path.is_symlink()):
        blob = path.resolve()
        identity = files.sha256 if len(blob.name) == _SHA256_DIGITS else files.blob_id
        if not blob.is_file() or identity(blob) != blob.name:
            raise HubError(
                f"{path.relative_to(folder)} in the cache is not the file that {repository} holds: it has changed on "
                f"this disk. Remove it with 'hf cache rm model/{repository}' and run the command again."
            )

"""A name -> the folder here that it means, or a repository's in the Hub's cache, every file as the Hub gave it.

A path that is mistyped is an error and asks no Hub: `org/name` is a repository only where `org` is nothing here.
"""

import re
import warnings
from pathlib import Path
from typing import NamedTuple, NoReturn

from hf_inspect import files
from hf_inspect.errors import DataError, HubError
from hf_inspect.hub.client import client, with_retries
from hf_inspect.hub.kinds import PART_FILES, WEIGHTS
from hf_inspect.schema import Part

HUB = "hub:"  # begins the name of a repository, whatever lies here
_NAMED = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
_SHA256_DIGITS = 64  # of a blob's name in the cache; git's ids have 40


class Repository(NamedTuple):
    """A model's repository `org/name` at a branch, tag or commit; at its main branch where none is named."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def reference(name: str | Path) -> Path | Repository:
    """The folder here that a name means, or the repository; nothing is asked of the Hub.

    A folder that is here is that folder. `hub:org/name[@revision]` is a repository, and so is `org/name[@revision]`
    where `org` is nothing here. DataError for anything else: a mistyped path is no repository.
    """
    if isinstance(name, str) and name.startswith(HUB):
        return _repository(name.removeprefix(HUB)) or _refuse(name, "no repository")
    if str(name) and Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise DataError(f"{name} is a file; give the folder that it lies in.")
    found = _repository(name) if isinstance(name, str) else None
    if found is None or Path(found.name.partition("/")[0]).exists():
        _refuse(name, "no such folder")
    return found


def repository_of(name: str | Path) -> Repository | None:
    """The repository that a name means, None for one that means a folder, or nothing."""
    try:
        found = reference(name)
    except DataError:
        return None
    return found if isinstance(found, Repository) else None


def resolve(name: str | Path) -> Path:
    """The folder of a model: one that is here, or a repository's, pulled as far as it is not here.

    DataError for a name that is neither (see `reference`), HubError when the repository cannot be had. Of a repository
    only what a part of a cascade consists of is downloaded.
    """
    found = reference(name)
    return found if isinstance(found, Path) else pull_part(found)


def pull_part(repository: Repository) -> Path:
    """The folder of a repository that holds a part of a cascade; HubError for one without weights that are read."""
    folder = pull(repository.name, repository.revision, PART_FILES)
    if not any(path.suffix == ".safetensors" or path.name in WEIGHTS for path in folder.iterdir()):
        raise HubError(
            f"{repository} holds no weights as safetensors, OpenVINO or ONNX, and pickles are not read; name another."
        )
    return folder


def pinned(repository: Repository, at: Path) -> Part:
    """A repository that was pulled to `at` (a folder of the cache, called by its commit) as a part: at that commit."""
    return Part("hub", repository.name, at.name)


def pull(repository: str, revision: str | None = None, only: list[str] | None = None) -> Path:
    """The folder of a model's repository at a revision (branch, tag or commit), downloaded as far as it is not here.

    `only` are patterns of the files wanted. A connection that breaks is taken up within the file; a later run fetches
    the files that are not here whole. Offline, what the cache holds. HubError when that is nothing, or when a file in
    the cache is not the one that the Hub gave.
    """
    api, named = client(), str(Repository(repository, revision))
    folder = Path(
        with_retries(named, lambda: api.snapshot_download(repository, revision=revision, allow_patterns=only))
    )
    _refuse_changed(folder, repository)
    return folder


def report_move(part: Part) -> None:
    """Warn when the main branch of a pinned part's repository has another commit by now; its files stay as pinned."""
    api = client()
    try:
        now = with_retries(part.name, lambda: api.model_info(part.name).sha, again=False)
    except HubError:  # what is pinned is here; whether it moved cannot be told
        return
    if now != part.revision:
        warnings.warn(
            f"{part.name} has moved to {now}; this cascade stays at {part.revision}, as it states.", stacklevel=3
        )


def _repository(text: str) -> Repository | None:
    found = _NAMED.fullmatch(text)
    return Repository(found["name"], found["revision"]) if found else None


def _refuse(name: str | Path, what: str) -> NoReturn:
    """Raise DataError for a name that means nothing."""
    meant = f"{HUB}{name}" if _repository(str(name)) else f"{HUB}org/name or {HUB}org/name@revision"
    raise DataError(f"{str(name)!r}: {what}; mend the path, or name a repository of the Hub as {meant}.")


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

"""A repository and a revision -> its folder in huggingface_hub's cache."""

import re
import warnings
from pathlib import Path

from hf_inspect.errors import HubError
from hf_inspect.hub.client import asked, client

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_PINNED = re.compile(rf"({_NAME.pattern})@([0-9a-f]{{40}})")


def is_repository(name: str | Path) -> bool:
    """Whether this is `org/name` and no folder here."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not Path(name).exists()


def pull(repository: str, revision: str | None = None) -> Path:
    """The folder of a model's repository at a revision (branch, tag or commit), downloaded as far as it is not here.

    A download that broke off goes on where it was. Offline, what the cache holds; HubError when that is nothing.
    """
    api, named = client(), f"{repository}@{revision}" if revision else repository
    return Path(asked(named, lambda: api.snapshot_download(repository, revision=revision)))


def is_pinned(part: str) -> bool:
    """Whether this is `org/name@commit`, the commit in full."""
    return bool(_PINNED.fullmatch(part))


def pull_pinned(part: str) -> Path:
    """The folder of `org/name@commit`; warns when the repository's main branch has another commit by now."""
    repository, commit = part.split("@")
    folder, api = pull(repository, commit), client()
    try:
        now = asked(repository, lambda: api.model_info(repository).sha, again=False)
    except HubError:  # what is pinned is here; whether it moved cannot be told
        return folder
    if now != commit:
        warnings.warn(f"{repository} has moved to {now}; this cascade stays at {commit}, as it states.", stacklevel=2)
    return folder

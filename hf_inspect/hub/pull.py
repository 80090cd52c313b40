"""A repository and a revision -> its folder in huggingface_hub's cache."""

import re
from pathlib import Path

from hf_inspect.hub.client import asked, client

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_repository(name: str | Path) -> bool:
    """Whether this is `org/name` and no folder here."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and not Path(name).exists()


def pull(repository: str, revision: str | None = None) -> Path:
    """The folder of a model's repository at a revision (branch, tag or commit), downloaded as far as it is not here.

    A download that broke off goes on where it was. Offline, what the cache holds; HubError when that is nothing.
    """
    api, named = client(), f"{repository}@{revision}" if revision else repository
    return Path(asked(named, lambda: api.snapshot_download(repository, revision=revision)))

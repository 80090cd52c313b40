"""huggingface_hub's client, with patience, and its errors as one sentence that holds no token."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hf_inspect.errors import HubError, MissingExtraError
from hf_inspect.hub.secrets import TOKEN

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PATIENCE = 60.0  # seconds in which a busy or broken Hub is asked again; the client's own retries count
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds
_BUSY = (408, 429, 500, 502, 503, 504)
_CHANGED = 412
T = TypeVar("T")


def client(token: str | None = None) -> "HfApi":
    """The client for the endpoint of the environment, and its token unless another is given."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtraError("The Hub needs huggingface_hub: pip install 'hf-inspect[edge]'") from error
    return HfApi(library_name="hf_inspect", token=token)


def with_retries(what: str, step: Callable[[], T], again: bool = True) -> T:
    """What `step` returns. A Hub that is busy is asked again for a minute, if `again`; HubError in one sentence.

    `what` is the repository, for the sentence.
    """
    import httpx
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    began, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return step()
        except OfflineModeIsEnabled:
            raise HubError(f"{what}: HF_HUB_OFFLINE is set; unset it to reach the Hub.") from None
        except (HFValidationError, LocalTokenNotFoundError) as error:
            raise HubError(f"{what}: {_one_line(error)}") from None
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            cause = _cause_of(error)
            wait = max(pause, _retry_after(cause))
            if not (again and _is_transient(cause)) or time.monotonic() - began + wait > _PATIENCE:
                raise HubError(_sentence(what, cause)) from None
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _cause_of(error: BaseException) -> BaseException:
    """The error of the connection or of the Hub that an upload's or download's thread wrapped."""
    import httpx

    at: BaseException | None = error
    while at is not None:
        if isinstance(at, httpx.HTTPError):
            return at
        at = at.__cause__
    return error


def _status(error: BaseException) -> int:
    """The status that the Hub answered; 0 when it did not answer."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _is_transient(error: BaseException) -> bool:
    import httpx

    return isinstance(error, httpx.TransportError) or _status(error) in (*_BUSY, _CHANGED)


def _retry_after(error: BaseException) -> float:
    response = getattr(error, "response", None)
    stated = response.headers.get("Retry-After", "") if response is not None else ""
    return float(stated) if stated.isdecimal() else 0.0


def _sentence(what: str, error: BaseException) -> str:
    import httpx
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    status = _status(error)
    if isinstance(error, RevisionNotFoundError):
        return f"{what}: there is no such revision on {ENDPOINT}."
    if isinstance(error, RepositoryNotFoundError):
        return f"{what} is not on {ENDPOINT}, or private: check the name, or log in with 'hf auth login' or HF_TOKEN."
    if status == 401:
        return f"{what}: {ENDPOINT} does not accept your token, or you gave none; run 'hf auth login' or set HF_TOKEN."
    if status == 403:
        return f"{what}: your token may not write there; take one that may, or push to a name of your own."
    if status == _CHANGED:
        return f"{what}: somebody else commits there at the same time; run the command again."
    if status in _BUSY:
        return f"{what}: {ENDPOINT} answers {status}, also after a while; run the command again, it goes on."
    if isinstance(error, httpx.TransportError):
        return f"{what}: no connection to {ENDPOINT} ({type(error).__name__}); run the command again, it goes on."
    if isinstance(error, LocalEntryNotFoundError):
        return f"{what} is no folder here, not in the cache, and {ENDPOINT} cannot be reached{_held(what)}."
    return f"{what}: {_one_line(error)}"


def _held(what: str) -> str:
    """What the cache holds of a repository `org/name[@revision]` at other revisions, to end a sentence with."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    name = what.partition("@")[0]
    try:
        repos = [
            one
            for one in scan_cache_dir(constants.HF_HUB_CACHE).repos
            if (one.repo_id, one.repo_type) == (name, "model")
        ]
    except CacheNotFound:
        return ""
    revisions = sorted((one for repo in repos for one in repo.revisions), key=lambda one: one.commit_hash)
    if not revisions:
        return ""
    named = [" ".join([one.commit_hash, *(f"({ref})" for ref in sorted(one.refs))]) for one in revisions]
    return f"; of {name} the cache holds {', '.join(named)}: ask for one, as {name}@{revisions[0].commit_hash}"


def _one_line(error: BaseException) -> str:
    """The error's text on one line, without a token."""
    return TOKEN.sub("hf_...", " ".join(str(error).split()))

"""A text -> what kind of secret it holds: a token of the Hub, or a key of another service by Yelp's detect-secrets.

Only its patterns are used. Its own scan would ask the services whether a key is valid, and so send it to them.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hf_inspect.errors import MissingExtraError

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf_|api_org_)(?:oauth_|jwt_)?[A-Za-z0-9]{30,}")
_TOKEN_STARTS = (b"hf_", b"api_org_")  # sought first, as `in` is ten times faster than the pattern
_TOKEN_BYTES = re.compile(TOKEN.pattern.encode())
OF_THE_HUB = "an access token"
_NOISY = {  # detectors left out, and what of ours they take for a secret
    "Base64HighEntropyString": "SHA-256 and signatures of images",
    "HexHighEntropyString": "SHA-256, commits, fingerprints",
    "KeywordDetector": "a tokenizer's `pad_token` and the like",
    "IPPublicDetector": "versions of four numbers; an address is no key",
    "ArtifactoryDetector": "words in capitals, such as APERTURESIZE",
    "IbmCloudIamDetector": "any 44 letters after the word key or token",
}
_NEWER = {  # forms that came after detect-secrets 1.5
    "GitHub Token": re.compile(r"github_pat_[0-9A-Za-z_]{60,}"),
    "Google API Key": re.compile(r"AIza[0-9A-Za-z_-]{35}"),
    "Anthropic Key": re.compile(r"sk-ant-[0-9A-Za-z_-]{24,}"),
    "OpenAI Token": re.compile(r"sk-(?:proj|svcacct|admin)-[0-9A-Za-z_-]{40,}"),
}
Finds = Callable[[str], Iterable[str]]


def secret_in(text: str) -> str | None:
    """What kind of secret a text holds, to be read after `holds`; None without one. Never the secret itself.

    MissingExtraError without detect-secrets.
    """
    if TOKEN.search(text):
        return OF_THE_HUB
    found = next((kind for kind, finds in _detectors() if any(finds(text))), None)
    return f"a secret ({found})" if found else None


def holds_token(content: bytes) -> bool:
    """Whether bytes hold a token of the Hub."""
    return any(start in content for start in _TOKEN_STARTS) and _TOKEN_BYTES.search(content) is not None


@functools.cache
def _detectors() -> tuple[tuple[str, Finds], ...]:
    """Kinds of keys, and for each the function that finds them in a text."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    except ImportError as error:
        raise MissingExtraError("Looking for keys needs detect-secrets: pip install 'hf-inspect[edge]'") from error

    known: list[type[BasePlugin]] = list(get_mapping_from_secret_type_to_class().values())
    kept = [one() for one in known if one.__name__ not in _NOISY]
    return (
        *((one.secret_type, one.analyze_string) for one in kept),
        *((kind, pattern.findall) for kind, pattern in _NEWER.items()),
    )

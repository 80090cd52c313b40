"""Licences as the files of a folder state them, and the card's: it may not permit more than the others do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.build import MANIFEST
from hf_inspect.errors import HubError, MissingExtraError
from hf_inspect.hub.kinds import CARD
from hf_inspect.runtime import INSPECT, TRAINED_ON

_COPYLEFT = frozenset({"copyleft for the files"})
_GPL = _COPYLEFT | {"copyleft"}
_NC, _SA, _ND = "non-commercial", "share-alike", "no derivatives"
TERMS: dict[str, frozenset[str]] = {  # what each asks for beyond naming the author, by its name on the Hub
    **dict.fromkeys(
        ("cc0-1.0", "pddl", "unlicense", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "cc-by-4.0",
         "cc-by-3.0", "cdla-permissive-2.0", "odc-by"),
        frozenset(),
    ),
    "cc-by-sa-4.0": frozenset({_SA}),
    "cc-by-nd-4.0": frozenset({_ND}),
    "cc-by-nc-4.0": frozenset({_NC}),
    "cc-by-nc-sa-4.0": frozenset({_NC, _SA}),
    "cc-by-nc-nd-4.0": frozenset({_NC, _ND}),
    "mpl-2.0": _COPYLEFT,
    "lgpl-3.0": _COPYLEFT,
    "gpl-3.0": _GPL,
    "agpl-3.0": _GPL | {"copyleft over a network"},
}  # fmt: skip


def head_of(card: Path) -> dict[str, Any] | None:
    """The YAML at the head of a card; None where there is no card or no head, HubError for one that is no YAML."""
    yaml = _yaml()
    text = files.read_text(card) if card.is_file() else ""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None
    try:
        head = yaml.safe_load(text[4:].split("\n---")[0])
    except yaml.YAMLError as error:
        raise HubError(f"{card}: its head is no YAML ({str(error).splitlines()[0]}); mend it.") from None
    return head if isinstance(head, dict) else {}


def stated_licences(found: Mapping[str, Path]) -> dict[str, str]:
    """The licence of data and weights by the file that states it: cards, manifests, trained_on and inspect.json."""
    stated = {}
    for name, path in found.items():
        if path.name in (MANIFEST, TRAINED_ON, INSPECT):
            stated[name] = files.read_json(path).get("licence")
        elif path.name == CARD:
            stated[name] = (head_of(path) or {}).get("license")
    return {name: licence for name, licence in stated.items() if licence and isinstance(licence, str)}


def refuse_wider(stated: str, sources: Mapping[str, str]) -> None:
    """HubError when `stated` permits more than a licence of `sources` (name of the data or weights: licence).

    A licence that the table does not know asks for its own name.
    """
    for name, licence in sources.items():
        theirs = licence.lower()
        if theirs == stated.lower():
            continue
        asked, kept = TERMS.get(theirs), TERMS.get(stated.lower())
        if asked is None or kept is None:
            unknown = licence if asked is None else stated
            raise HubError(
                f"the card says {stated}, {name} says {licence}, and what {unknown} permits is not known here; "
                f"state {licence} in the card."
            )
        if lost := asked - kept:
            raise HubError(
                f"the card says {stated}, but {name} is {licence}: {', '.join(sorted(lost))}. State {licence} in the "
                "card, or train on what permits more."
            )


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("Reading a card needs PyYAML: pip install 'hf-inspect[edge]'") from error
    return yaml

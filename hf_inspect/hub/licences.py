"""Licences as the files of a folder state them, and the card's: it may not permit more than the others do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.data.build import MANIFEST
from hf_inspect.errors import HubError, MissingExtraError
from hf_inspect.hub.kinds import CARD, CONFIG, NOTES
from hf_inspect.runtime import INSPECT, TRAINED_ON
from hf_inspect.schema import History

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


def head_of(path: Path) -> dict[str, Any] | None:
    """The YAML at the head of a card; None where there is no card or no head, HubError for one that is no YAML."""
    return _split(path)[0]


def read_notes(folder: Path) -> tuple[dict[str, Any], str]:
    """The YAML at the head of notes.md, empty where there is none, and its text; what a human adds to a card."""
    head, text = _split(folder / NOTES)
    return head or {}, text


def _split(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The YAML between the --- lines at the head of a file, and the text that follows."""
    yaml = _yaml()
    text = files.read_text(path) if path.is_file() else ""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None, text.strip()
    head, _, rest = text[4:].partition("\n---")
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise HubError(f"{path}: its head is no YAML ({str(error).splitlines()[0]}); mend it.") from None
    return found if isinstance(found, dict) else {}, rest.strip()


def licence_in(head: Mapping[str, Any]) -> str | None:
    """The licence in a card's head, several as `this AND that`; None where it states none.

    The Hub has no name for several: the card then says `license: other` and `license_name: this-and-that`.
    """
    stated = head.get("license")
    if not isinstance(stated, str) or not stated:
        return None
    return str(head.get("license_name", stated)).replace("-and-", " AND ") if stated == "other" else stated


def stated_licences(found: Mapping[str, Path]) -> dict[str, str]:
    """The licence of data and weights by the file that states it, several that hold at once as `this AND that`.

    Cards, manifests, inspect.json and configs of networks state one, trained_on.json those of all images that the model
    and its ancestors saw; DataError for one that this version does not read.
    """
    stated = {name: _stated_in(path) for name, path in found.items()}
    return {name: licence for name, licence in stated.items() if licence}


def _stated_in(path: Path) -> str | None:
    if path.name == CARD:
        return licence_in(head_of(path) or {})
    if path.name == TRAINED_ON:
        return " AND ".join(history_in(path).licences)
    if path.name in (MANIFEST, INSPECT, CONFIG):
        record = files.read_json(path)
        return record.get("licence") if isinstance(record, dict) else None
    return None


def history_in(path: Path) -> History:
    """What a trained_on.json records; DataError for one of an older version."""
    return History.from_dict(files.read_json(path), path)


def refuse_wider(stated: str, sources: Mapping[str, str]) -> None:
    """HubError when `stated` permits more than a licence of `sources` (name of the data or weights: licence).

    Either may be several that hold at once, `CC-BY-NC-4.0 AND AGPL-3.0`. A licence that the table does not know asks
    for its own name.
    """
    ours = split(stated)
    for name, licence in sources.items():
        for theirs in (part for part in split(licence) if part not in ours):
            unknown = next((part for part in (theirs, *ours) if part not in TERMS), None)
            if unknown is not None:
                raise HubError(
                    f"the card says {stated}, {name} says {licence}, and what {unknown} permits is not known here; "
                    f"state {licence} in the card."
                )
            if lost := TERMS[theirs].difference(*(TERMS[part] for part in ours)):
                raise HubError(
                    f"the card says {stated}, but {name} is {licence}: {', '.join(sorted(lost))}. State {licence} in "
                    "the card, or train on what permits more."
                )


def split(licence: str) -> list[str]:
    """The licences that `licence` says hold at once, by their names on the Hub."""
    return licence.lower().split(" and ")


def terms(licence: str) -> list[str]:
    """What a licence asks for beyond naming the author, in words; nothing for one that the table does not know."""
    return sorted(set().union(*(TERMS.get(part, frozenset()) for part in split(licence))))


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("Reading a card needs PyYAML: pip install 'hf-inspect[edge]'") from error
    return yaml

"""A card's licence against those of the data and the weights behind it: it may not permit more than they do."""

from collections.abc import Mapping

from hf_inspect.errors import HubError

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


def refuse_wider(stated: str, sources: Mapping[str, str]) -> None:
    """HubError when `stated` permits more than a licence of `sources` (name of the data or weights: licence).

    Either may be several that hold at once, `CC-BY-NC-4.0 AND AGPL-3.0`. A licence that the table does not know asks
    for its own name.
    """
    ours = parts(stated)
    for name, licence in sources.items():
        for theirs in (part for part in parts(licence) if part not in ours):
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


def parts(licence: str) -> list[str]:
    """The licences that `licence` says hold at once, by their names on the Hub."""
    return licence.lower().split(" and ")


def terms(licence: str) -> list[str]:
    """What a licence asks for beyond naming the author, in words; nothing for one that the table does not know."""
    return sorted(set().union(*(TERMS.get(part, frozenset()) for part in parts(licence))))

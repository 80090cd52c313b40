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

"""The licence of a data set, and the gate that asks for it before the first build."""

import json
import sys
from dataclasses import dataclass

from hf_inspect import files
from hf_inspect.data.packaged import cache_folder
from hf_inspect.errors import DataError


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms a data set may be used: SPDX id, whether commercially, where it says so, whom to cite."""

    spdx: str
    commercial: bool
    url: str
    citation: str

    def sentence(self) -> str:
        """The terms in one sentence."""
        use = "commercial use allowed" if self.commercial else "NON-COMMERCIAL use only"
        return f"{self.spdx} ({use}), {self.url}"


def pass_gate(name: str, licence: Licence, accepted: bool) -> None:
    """Return when the licence was accepted: now, in an earlier build, or at the terminal; else DataError.

    What was accepted is kept in accepted_licences.json of the cache folder, by data set and SPDX id.
    """
    record = cache_folder() / "accepted_licences.json"
    known = files.read_json(record) if record.exists() else {}
    if known.get(name) == licence.spdx:
        return
    if not accepted and not _asked(name, licence):
        raise DataError(f"{name} is licensed {licence.sentence()}; accept that with --accept-license.")
    record.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(record, json.dumps(known | {name: licence.spdx}, indent=2, sort_keys=True) + "\n")


def _asked(name: str, licence: Licence) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"{name}: {licence.sentence()}\nCite: {licence.citation}", file=sys.stderr)
    return input("Accept? [y/N] ").strip().lower() in {"y", "yes"}

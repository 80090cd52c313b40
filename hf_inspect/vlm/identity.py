"""What a VLM rests on, as its server states it: files, question, sizes of images; and the check that it is the one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_inspect.errors import DataError, ParityError
from hf_inspect.reading import Reading
from hf_inspect.schema import History, TaskSpec

FORMAT = 3  # of what a server states; a client refuses another
SERVER = "hf_inspect"  # what a server of this package calls itself
_OF_THE_VLM = ("base/", "adapter/")
_NAMED = 3  # files an error names


def identity_of(decides: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the files that decide and the settings that change answers."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def history_sha256(history: History) -> str:
    """SHA-256 (hex) by which a client knows that what it was told of a training is what the server has."""
    return hashlib.sha256(json.dumps(history.to_dict()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server's VLM must be: `files` of base and adapter as a cascade.json states them, its task and reading.

    `fingerprint` is that of its prompt, where one was stated; `guide` the identity of the exemplars that it is shown
    first, if any; `told` the score from which on what it finds is told of.
    """

    files: Mapping[str, str]
    task: TaskSpec
    reading: Reading | None = None
    fingerprint: str | None = None
    guide: str | None = None
    told: float | None = None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over files and exemplars: known while no server answers, and the same on whichever machine."""
        return identity_of({"files": _of_vlm(self.files)} | ({} if self.guide is None else {"guide": self.guide}))

    def refuse_other(self, about: "About", where: str) -> None:
        """ParityError unless the server at `where` has these files, DataError for another task or reading."""
        about.refuse_other_files(self.files, where)
        if self.fingerprint is not None and about.fingerprint != self.fingerprint:
            raise ParityError(f"{where} asks by another prompt than the cascade was calibrated with; calibrate again.")
        if about.guide != self.guide:
            raise ParityError(
                f"{where} shows {_guided(about.guide)} first, and the cascade was calibrated with "
                f"{_guided(self.guide)}; start 'hf-inspect serve' there as it was then, or calibrate again."
            )
        self.task.refuse_other(about.task, "The cascade", f"the VLM of {where}")
        if self.reading is not None:
            self.reading.refuse_other(about.reading, "The cascade's edge", f"the VLM of {where}")


@dataclass(frozen=True, slots=True)
class About:
    """A VLM as its server states it.

    `fingerprint` is that of its prompt.json, `image_rule` how images are sized, `decides` what its answers rest on,
    whose SHA-256 is `identity`; None for a stand-in that has no files. `history` is the SHA-256 of what it was trained
    on (`history_sha256`); `told` the score from which on what it finds is told of, None where it finds nothing.
    """

    version: str
    task: TaskSpec
    identity: str
    fingerprint: str | None
    image_rule: Mapping[str, Any]
    reading: Reading | None
    decides: Mapping[str, Any] | None
    history: str
    told: float | None = None

    @property
    def guide(self) -> str | None:
        """SHA-256 of the exemplars that it is shown first, and of how they are chosen; None where there are none."""
        found = (self.decides or {}).get("guide")
        return None if found is None else str(found)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that decide, by role and name: `adapter/prompt.json`."""
        return dict((self.decides or {}).get("files", {}))

    def to_dict(self) -> dict[str, Any]:
        """What the server answers, as plain JSON values."""
        return {
            "server": SERVER,
            "format": FORMAT,
            "version": self.version,
            "task": self.task.to_dict(),
            "identity": self.identity,
            "fingerprint": self.fingerprint,
            "image_rule": dict(self.image_rule),
            "reading": self.reading.to_dict() if self.reading else None,
            "decides": self.decides,
            "history": self.history,
            "told": self.told,
        }

    @classmethod
    def from_dict(cls, value: Any, where: str) -> "About":
        """What `to_dict` wrote, from the server at `where`; DataError for anything else."""
        if not isinstance(value, Mapping) or value.get("server") != SERVER:
            raise DataError(f"{where} is no server of a VLM of ours; start 'hf-inspect serve' there.")
        if value.get("format") != FORMAT:
            raise DataError(
                f"{where} is of hf-inspect {value.get('version')} and speaks format {value.get('format')}, this is of "
                f"format {FORMAT}; install the same version on both machines."
            )
        try:
            reading = None if value["reading"] is None else Reading.from_dict(value["reading"], where)
            found = cls(
                version=str(value["version"]),
                task=TaskSpec.from_dict(value["task"], where),
                identity=str(value["identity"]),
                fingerprint=value["fingerprint"],
                image_rule=dict(value["image_rule"]),
                reading=reading,
                decides=value["decides"],
                history=str(value["history"]),
                told=None if value["told"] is None else float(value["told"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} does not say what its VLM is ({error!r}); start it again.") from None
        if found.decides is not None and identity_of(found.decides) != found.identity:
            raise ParityError(f"{where} states an identity that is not of the files it states; start it again.")
        return found

    def refuse_other_files(self, hashes: Mapping[str, str], where: str) -> None:
        """ParityError unless its files are those of the base and the adapter in `hashes`, of a cascade.json."""
        wanted, mine = _of_vlm(hashes), self.files
        if mine == wanted:
            return
        differ = sorted(name for name in wanted.keys() | mine.keys() if wanted.get(name) != mine.get(name))
        named = ", ".join(differ[:_NAMED]) + (f" and {len(differ) - _NAMED} more" if differ[_NAMED:] else "")
        raise ParityError(
            f"{where} serves {_other(differ)} than the cascade was calibrated with ({named}); start 'hf-inspect serve' "
            "there with this cascade, or calibrate with that VLM."
        )


def _of_vlm(hashes: Mapping[str, str]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in hashes.items() if name.startswith(_OF_THE_VLM)}


def _other(names: list[str]) -> str:
    """What differs, in a word or two, by the files that do."""
    ends = {name.partition("/")[2] for name in names}
    roles = sorted({name.partition("/")[0] for name in names})
    if ends == {"prompt.json"}:
        return "another prompt"
    return " and ".join(f"another {role}" for role in roles)


def _guided(guide: str | None) -> str:
    return "no exemplars" if guide is None else f"the exemplars {guide[:12]}"

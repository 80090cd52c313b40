"""The pieces of an artefact, and the raw images of a data set, by where they lie."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_inspect.errors import DataError

_REPOSITORY, _COMMIT = re.compile(r"\w[\w.-]*/\w[\w.-]*"), re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(r"(openai\+)?https?://[^\s@?#\\]+")  # without a name, a password or a query


@dataclass(frozen=True, slots=True)
class Part:
    """Where a piece of an artefact lies; nothing else is ever looked for in its place.

    `folder`: a folder inside the artefact. `hub`: a repository `org/name` at a full commit. `packaged`: a base that is
    assembled from PyPI packages, by its name (`demo-base`). `server`: the address of who answers for a piece that lies
    elsewhere.
    """

    kind: Literal["folder", "hub", "packaged", "server"]
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "hub" and not (_REPOSITORY.fullmatch(self.name) and _COMMIT.fullmatch(self.revision or "")):
            raise DataError(f"The part {self} is no repository org/name at a commit of 40 digits; pin it at one.")
        if self.kind != "hub" and self.revision is not None:
            raise DataError(f"The {self.kind} part {self.name} has a revision, {self.revision}; only a repository has.")
        if self.kind == "server" and not _ADDRESS.fullmatch(self.name):  # which may hold a secret, and is not shown
            raise DataError("A part is a server without an address http://host:port, with no name or password in it.")
        if self.kind == "folder" and (Path(self.name).name != self.name or self.name == ".."):
            raise DataError(f"The part {self.name!r} is no folder right inside its artefact, where parts lie.")

    @classmethod
    def from_dict(cls, value: Any, where: str | Path) -> "Part":
        """The part that `to_dict` wrote into the record `where`; DataError for anything else."""
        given = dict(value) if isinstance(value, Mapping) else {}
        texts = all(isinstance(one, str) and one for one in given.values())
        match sorted(given) if texts else None:
            case ["folder"]:
                return cls("folder", given["folder"])
            case ["packaged"]:
                return cls("packaged", given["packaged"])
            case ["server"]:
                return cls("server", given["server"])
            case ["hub", "revision"]:
                return cls("hub", given["hub"], given["revision"])
        raise DataError(
            f'{where} names a part as {value!r}; parts are {{"folder": "edge"}}, {{"hub": "org/name", "revision": '
            '"commit"}, {"packaged": "demo-base"} or {"server": "http://host:port"}. Run \'hf-inspect calibrate\' '
            "again."
        )

    def to_dict(self) -> dict[str, str]:
        """The part as plain JSON values."""
        return {self.kind: self.name} | ({} if self.revision is None else {"revision": self.revision})

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One raw image before it is part of a data set.

    `source` names it (a path relative to the raw folder, with '/'), `class_name` is of the data set's task, `stratum`
    is what the split keeps in proportion (class and cell type, say), `columns` are further values of its row. A
    `class_name` of None is decided by the mask: `defect` where it marks any pixel.
    """

    source: str
    path: Path
    class_name: str | None
    stratum: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None

    def read(self) -> bytes:
        """The file's bytes as they are on disk; DataError where its name, or its mask's, is no Unicode."""
        try:
            f"{self.source}{self.mask.name if self.mask else ''}".encode()
        except UnicodeEncodeError:
            raise DataError("its name, or its mask's, is no UTF-8; rename it.") from None
        try:
            return self.path.read_bytes()
        except ValueError:  # a zero byte in it
            raise DataError("its name is none that a file can have.") from None

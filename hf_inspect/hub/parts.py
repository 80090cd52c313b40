"""A cascade's parts: where they lie, and whether they are the files that it was calibrated with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import CASCADE
from hf_inspect.errors import DataError, ParityError
from hf_inspect.hub.kinds import deciding
from hf_inspect.hub.pull import is_repository, located, pull


def cascade_folder(cascade: str | Path, revision: str | None = None) -> Path:
    """Where a cascade's files lie; a repository's (`org/name`) are pulled at its branch, tag or commit `revision`."""
    if is_repository(cascade):
        return pull(str(cascade), revision)
    if revision is not None:
        raise DataError(f"{cascade} is a folder, which has no revision {revision!r}; leave it out.")
    return Path(cascade)


def read_cascade(folder: Path) -> dict[str, Any]:
    """cascade.json of a folder; DataError when it is missing or does not say what a cascade consists of."""
    stated = files.read_json(folder / CASCADE)
    vlm = stated.get("vlm") if isinstance(stated, dict) else None
    known = isinstance(stated, dict) and all(key in stated for key in ("edge", "vlm", "policy", "policies"))
    if not known or not all(isinstance(part, str) for part in (stated["edge"], *(vlm or {}).values())):
        raise DataError(
            f"{folder / CASCADE} names no edge, vlm, policy and policies; run 'hf-inspect calibrate' again."
        )
    return stated


def parts_of(stated: Mapping[str, Any]) -> dict[str, str]:
    """What a cascade.json names as edge, base and adapter; the edge alone where there is no VLM."""
    return {"edge": stated["edge"], **(stated["vlm"] or {})}


def part_of(folder: Path, stated: Mapping[str, Any], role: str) -> str | Path:
    """Where a part of the cascade in `folder` lies: `edge`, `base` or `adapter`, as its cascade.json states it.

    A path relative to `folder` when that exists; a repository is pulled; the name of a base of ours stays a name.
    ParityError when a file is not the one that the cascade was calibrated with.
    """
    part = parts_of(stated)[role]
    found = folder / part if (folder / part).exists() else located(part)
    if isinstance(found, Path):
        refuse_changed(found, stated, role)
    return found


def stated_files(parts: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the files that a cascade's answers rest on, by part and name: `edge/openvino_model.bin`."""
    return {
        f"{role}/{name}": files.sha256(path)
        for role, folder in parts.items()
        for name, path in deciding(folder, role).items()
    }


def refuse_changed(folder: Path, stated: Mapping[str, Any], role: str = "") -> None:
    """ParityError unless a part's files, or the cascade's own, are those that its cascade.json states by SHA-256."""
    for path, sha256 in stated.get("files", {}).items():
        of, _, name = path.rpartition("/")
        here = folder / name
        if of == role and (not here.is_file() or files.sha256(here) != sha256):
            came = "is not the file" if here.is_file() else "is missing; it is one"
            raise ParityError(f"{here} {came} that the cascade was calibrated with; take it back or calibrate again.")

"""A cascade's parts: edge, base, adapter, exemplars, each in the cascade's folder, at a commit on the Hub, or out of
packages; or, for all but the edge, the server of a VLM.

cascade.json states the SHA-256 of every file that decides; nothing is ever looked for in the working directory.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.cascade import CALIBRATION, CASCADE
from hf_inspect.errors import DataError, ParityError
from hf_inspect.hub.kinds import ROLES, deciding_files, own_files
from hf_inspect.hub.pull import Repository, pinned, pull, pull_part, reference, report_move
from hf_inspect.schema import Part, TaskSpec

CASCADE_VERSION = 3  # of cascade.json; a reader refuses another
_KEYS = ("task", "policy", "policies", "edge", "vlm", "files")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = (".safetensors", ".bin", ".onnx")
_PACKAGED = re.compile(r"demo-base|tiny-[\w-]+")  # bases that `vlm.base` assembles from packages
AGAIN = "run 'hf-inspect calibrate' again"


def cascade_folder(cascade: str | Path, revision: str | None = None) -> Path:
    """Where a cascade's files lie; a repository's are pulled, at its branch, tag or commit `revision`."""
    found = reference(cascade)
    if isinstance(found, Repository):
        if revision is not None and found.revision not in (None, revision):
            raise DataError(f"{cascade} names a revision, and {revision!r} came besides; give one of them.")
        return pull(found.name, revision or found.revision)
    if revision is not None:
        raise DataError(f"{cascade} is a folder, which has no revision {revision!r}; leave it out.")
    return found


def read_cascade(folder: Path) -> dict[str, Any]:
    """cascade.json of a folder, its parts and task read once.

    DataError, with how to make it anew, when it is missing, of another version, or lacks the SHA-256 of a file that
    decides: those of a part's own folder are looked at here, those of others once they are there (`part_of`).
    """
    path = folder / CASCADE
    stated = files.read_json(path)
    version = stated.get("version") if isinstance(stated, dict) else None
    if version != CASCADE_VERSION:
        raise DataError(f"{path} has version {version!r}, and {CASCADE_VERSION} is read here; {AGAIN}.")
    if lacking := [key for key in _KEYS if key not in stated]:
        raise DataError(f"{path} states no {', '.join(lacking)}; {AGAIN}.")
    TaskSpec.from_dict(stated["task"], path)
    _check_hashes(path, stated["files"])
    for role, part in parts_of(stated, path).items():
        if part.kind != "server" and not any(name.startswith(f"{role}/") for name in stated["files"]):
            raise DataError(f"{path} states no SHA-256 of any file of its {role}; {AGAIN}.")
        if part.kind == "folder" and (folder / part.name).is_dir():
            _refuse_unstated(folder / part.name, stated, role)
    if "scores" in (stated.get("calibration") or {}) and CALIBRATION not in stated["files"]:
        raise DataError(f"{path} states no SHA-256 of {CALIBRATION}; {AGAIN}.")
    return stated


def parts_of(stated: Mapping[str, Any], where: str | Path = CASCADE) -> dict[str, Part]:
    """The parts that a cascade.json names, by role: edge, and of a VLM its base, and adapter and exemplars, if any.

    A VLM that is a server is one part, `vlm`.
    """
    vlm, edge = stated["vlm"], Part.from_dict(stated["edge"], where)
    if edge.kind == "server":
        raise DataError(f"{where} names a part as a server that is no VLM, its edge; run 'hf-inspect calibrate' again.")
    if vlm is None:
        return {"edge": edge}
    if isinstance(vlm, Mapping) and set(vlm) == {"server", "states"} and isinstance(vlm["states"], Mapping):
        return {
            "edge": edge, "vlm": Part.from_dict({"server": vlm["server"]}, where),
        }  # fmt: skip
    if not isinstance(vlm, Mapping) or set(vlm) not in (
        {"base", "adapter"},
        {"base", "adapter", "exemplars", "states"},
    ):
        raise DataError(
            f"{where} names as its vlm what is neither null, nor a base and an adapter, with or without exemplars and "
            f"how they are shown, nor a server and what it states; {AGAIN}."
        )
    named = {"edge": stated["edge"], **{role: part for role, part in vlm.items() if role != "states"}}
    return {role: Part.from_dict(part, where) for role, part in named.items() if role != "adapter" or part is not None}


def stated_parts(parts: Mapping[str, Part], states: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The inverse of `parts_of`: `edge` and `vlm` as cascade.json states them.

    `states` is what a server states of its VLM, or how exemplars are shown to one that is here (`Guide.states`).
    """
    named: dict[str, Any] = {role: part.to_dict() for role, part in parts.items()}
    if "vlm" in named:
        return {"edge": named["edge"], "vlm": {**named["vlm"], "states": dict(states or {})}}
    if "base" not in named:
        return {"edge": named["edge"], "vlm": None}
    shown = {"exemplars": named["exemplars"], "states": dict(states or {})} if "exemplars" in named else {}
    return {"edge": named["edge"], "vlm": {"base": named["base"], "adapter": named.get("adapter"), **shown}}


def server_of(stated: Mapping[str, Any]) -> str | None:
    """The address of a cascade's VLM, where that is a server."""
    part = parts_of(stated).get("vlm")
    return part.name if part else None


def part_of(
    folder: Path, stated: Mapping[str, Any], role: str, assemble: Callable[[str], str | Path] | None = None
) -> Path:
    """Where a part (`edge`, `base`, `adapter`, `exemplars`) of the cascade in `folder` lies, checked file by file.

    Inside `folder`, or at its commit in the cache of the Hub, or where `assemble` makes a packaged base by its name;
    nowhere else. DataError when it is not there, ParityError when a file that decides is missing, changed or new.
    """
    part = parts_of(stated, folder / CASCADE)[role]
    found = _found(folder, part, role, assemble)
    refuse_changed(found, stated, role)
    return found


def gather_parts(
    stage: Path, given: Mapping[str, str | Path], found: Mapping[str, str | Path]
) -> tuple[dict[str, Part], dict[str, Path]]:
    """The parts of a new cascade that is being written to `stage`, and the folder that each is read from.

    `given` holds each role's name as it came, `found` the folder that it was resolved to. A folder is copied to `stage`
    under its role, a large base by hard links where the disk allows them; a repository is named at its commit, and a
    packaged base by its name.
    """
    parts = {role: _part(role, name, Path(found[role])) for role, name in given.items()}
    for role in (role for role, part in parts.items() if part.kind == "folder"):
        _copy(Path(found[role]), stage / role, role)
    places = {role: stage / role if part.kind == "folder" else Path(found[role]) for role, part in parts.items()}
    return parts, places


def file_hashes(places: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the files that a cascade's answers rest on, by role and name: `edge/openvino_model.bin`."""
    return {
        f"{role}/{name}": files.sha256(path)
        for role, folder in places.items()
        for name, path in deciding_files(folder, ROLES[role]).items()
    }


def weights_of(stated: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the weights that a cascade was calibrated with, by role and name.

    Of a VLM those of its adapter, and of its base where it has none.
    """
    hashes: Mapping[str, str] = stated["files"]  # those of a server's base and adapter too
    roles = {path.partition("/")[0] for path in hashes if "/" in path}
    measured = roles - {"base"} if "adapter" in roles else roles
    return {
        path: sha256
        for path, sha256 in hashes.items()
        if path.partition("/")[0] in measured and path.endswith(_WEIGHTS)
    }


def refuse_changed(folder: Path, stated: Mapping[str, Any], role: str = "") -> None:
    """ParityError unless a part's files in `folder`, or the cascade's own, are those that cascade.json states.

    A file of a part that would decide and is not stated is refused as well: the answers would rest on it.
    """
    for path, sha256 in stated["files"].items():
        of, name = path.split("/", 1) if "/" in path else ("", path)
        here = folder / name
        if of == role and (not here.is_file() or files.sha256(here) != sha256):
            came = "is not the file" if here.is_file() else "is missing; it is one"
            raise ParityError(f"{here} {came} that the cascade was calibrated with; take it back or calibrate again.")
    if role:
        _refuse_unstated(folder, stated, role)


def _refuse_unstated(folder: Path, stated: Mapping[str, Any], role: str) -> None:
    for name, path in deciding_files(folder, ROLES[role]).items():
        if f"{role}/{name}" not in stated["files"]:
            raise ParityError(
                f"{path} decides answers, and {CASCADE} states no SHA-256 of {role}/{name}; take it out, or {AGAIN}."
            )


def _check_hashes(path: Path, hashes: Any) -> None:
    """DataError unless `hashes` is a table of SHA-256 by name."""
    if not isinstance(hashes, Mapping) or not hashes:
        raise DataError(f"{path} states no SHA-256 of any file; {AGAIN}.")
    if wrong := [name for name, one in hashes.items() if not (isinstance(one, str) and _SHA256.fullmatch(one))]:
        raise DataError(f"{path} states no SHA-256 of {wrong[0]}, but {hashes[wrong[0]]!r}; {AGAIN}.")


def _found(folder: Path, part: Part, role: str, assemble: Callable[[str], str | Path] | None) -> Path:
    """The folder of a part, before it is checked."""
    if part.kind == "hub":
        found = pull_part(Repository(part.name, part.revision))
        report_move(part)
        return found
    return _assembled(folder, part, role, assemble) if part.kind == "packaged" else inner_folder(folder, part, role)


def _assembled(folder: Path, part: Part, role: str, assemble: Callable[[str], str | Path] | None) -> Path:
    """The folder of a packaged base, which lies in a cache and not in the working directory."""
    if role != "base" or not _PACKAGED.fullmatch(part.name):
        raise DataError(f"{folder / CASCADE}: its {role} {part.name!r} is no base that packages bring; {AGAIN}.")
    if assemble is None:
        raise DataError(f"{folder / CASCADE}: its base {part.name} is assembled from packages, and not here.")
    found = Path(assemble(part.name))
    if found.resolve() == Path(part.name).resolve():
        raise DataError(f"{folder / CASCADE}: its base {part.name!r} is no base that packages bring; {AGAIN}.")
    return found


def inner_folder(folder: Path, part: Part, role: str) -> Path:
    """The folder of a part that lies in the cascade's; DataError when it is not there, or is a link that leads out."""
    found = folder / part.name
    if not found.is_dir():
        raise DataError(
            f"{folder / CASCADE}: its {role} {part.name!r} is missing, and is looked for nowhere but in {folder}; put "
            f"it back, or {AGAIN}."
        )
    if not found.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{found} is a link that leads out of {folder}; put there what it leads to, or {AGAIN}.")
    return found


def _part(role: str, name: str | Path, found: Path) -> Part:
    """What a name stands for that was resolved to `found`."""
    if Path(name).resolve() == found.resolve():
        return Part("folder", role)
    if role == "base" and _PACKAGED.fullmatch(str(name)):
        return Part("packaged", str(name))
    repository = reference(name)
    if isinstance(repository, Repository):
        return pinned(repository, found)
    raise DataError(f"the {role} {name} was looked for in {found}; name that folder.")


def _copy(source: Path, out: Path, role: str) -> None:
    """Copy a part's own files; large weights of a base become hard links where the disk allows it."""
    for name, path in own_files(source, ROLES[role]).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if not (role == "base" and path.suffix in _WEIGHTS and _linked(path.resolve(), out / name)):
            shutil.copyfile(path, out / name)


def _linked(path: Path, out: Path) -> bool:
    """Whether a file was given a second name: not across disks, and not everywhere."""
    try:
        os.link(path, out)
    except OSError:
        return False
    return True

"""A cascade, in a folder or on the Hub -> one folder with all that a plant without internet needs."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_inspect import files, hub
from hf_inspect.cascade import CASCADE as CASCADE_JSON
from hf_inspect.errors import DataError, HubError
from hf_inspect.hub.contents import refuse_secret
from hf_inspect.hub.kinds import CASCADE, LICENCES, ROLES, SUMS, all_files
from hf_inspect.hub.licences import stated_licences
from hf_inspect.hub.sums import write_sums
from hf_inspect.schema import Part, Progress, no_progress

FROM = "from"  # cascade.json's key for the repositories that a bundle was gathered from


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written: where, how many files and bytes, the SHA-256 of their list, and files that stayed behind."""

    folder: Path
    files: int
    size: int
    sha256: str
    left: list[str]

    def described(self) -> str:
        """A line on each; the SHA-256, kept elsewhere, tells a list that was changed together with a file."""
        left = f"\nleft behind, of no use to it: {', '.join(self.left)}" if self.left else ""
        return f"{self.folder}: {self.files} files, {files.sized(self.size)}\n{SUMS} has SHA-256 {self.sha256}{left}"


def bundle(cascade: str | Path, out: Path, revision: str | None = None, progress: Progress = no_progress) -> Bundle:
    """Gather a cascade (folder, or repository at `revision`) and its parts, base included, in the folder `out`.

    cascade.json names the parts by relative paths then, and under `from` the repositories that they came from;
    SHA256SUMS lists every file, LICENCES.md every part's licence. Files that no part needs stay behind. HubError,
    DataError or ParityError, with nothing written, when a part cannot be had or is not the one calibrated with, or
    when a file holds a token or a key of a service.
    """
    folder = hub.cascade_folder(cascade, revision)
    files.refuse_overlap(out, [folder])
    stated = hub.read_cascade(folder)
    hub.refuse_changed(folder, stated)
    parts = {role: part for role, part in hub.parts_of(stated).items() if part.kind != "server"}
    found = {role: hub.part_of(folder, stated, role, _assembled) for role in parts}
    places = {role: _place(folder, role, part) for role, part in parts.items()}
    wanted = {path: file for path, file in hub.own_files(folder, CASCADE).items() if path not in (SUMS, LICENCES)}
    for role, at in found.items():
        wanted |= {f"{places[role]}/{name}": path for name, path in hub.own_files(at, ROLES[role]).items()}
    with files.staged_folder(out, [folder, *found.values()]) as stage:
        sums = dict(_copied(wanted, stage, progress))
        origin = _origin(cascade, folder, stated)
        states = (stated["vlm"] or {}).get("states")
        inside = hub.stated_parts({role: Part("folder", place) for role, place in places.items()}, states)
        inside |= {"vlm": stated["vlm"]} if hub.server_of(stated) else {}  # which stays where it is
        files.write_json(stage / CASCADE_JSON, {**stated, **inside, FROM: origin})
        files.write_text(stage / LICENCES, _licences(stage, places, origin))
        sums |= {name: files.sha256(stage / name) for name in (CASCADE_JSON, LICENCES)}
        write_sums(stage, sums)
        size = sum(path.stat().st_size for path in all_files(stage).values())
    return Bundle(out, len(sums), size, files.sha256(out / SUMS), _left(folder, wanted))


def _assembled(base: str) -> str | Path:
    """The folder of a base of ours (`demo-base`), which takes torch and transformers to assemble."""
    try:
        from hf_inspect.vlm.base import base_folder

        return base_folder(base)
    except ImportError as error:
        raise DataError(
            f"assembling {base} needs {error.name}: bundle where hf-inspect[train] is installed, and take the folder "
            "to the plant."
        ) from None


def _place(folder: Path, role: str, part: Part) -> str:
    """The subfolder of a part: where it lies in the cascade's folder already, else its role."""
    if part.kind == "folder":
        return part.name
    if (folder / role).exists():
        raise HubError(f"{folder} holds a folder {role}, but its {role} is {part}; move that folder out.")
    return role


def _copied(wanted: Mapping[str, Path], stage: Path, progress: Progress) -> Iterator[tuple[str, str]]:
    """Copy each file to its path in `stage`, unless it holds a secret; yields path and SHA-256 of the copy."""
    for number, (path, source) in enumerate(wanted.items(), 1):
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            refuse_secret(path, source)
            shutil.copyfile(source, stage / path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be copied: {error.strerror}. Mend that and run the command again."
            ) from None
        yield path, files.sha256(stage / path)
        progress("gathered", number, len(wanted))


def _origin(cascade: str | Path, folder: Path, stated: Mapping[str, Any]) -> dict[str, str]:
    """Where cascade and parts came from, as far as they are no folders of this machine."""
    repository = hub.repository_of(cascade)
    came = {"cascade": str(hub.pinned(repository, folder))} if repository else {}
    named = {role: str(part) for role, part in hub.parts_of(stated).items() if part.kind in ("hub", "packaged")}
    return {**stated.get(FROM, {}), **came, **named}


def _licences(stage: Path, places: Mapping[str, str], origin: Mapping[str, str]) -> str:
    """A table of what each part is licensed under, by whom it is said, and the licence texts that lie in the bundle."""
    rows = []
    for role, place in {"cascade": "", **places}.items():
        own = {path: stage / path for path in hub.own_files(stage, CASCADE) if path.rpartition("/")[0] == place}
        stated = stated_licences(own)
        named = sorted({licence.lower() for licence in stated.values()}) or [_of_our_bases(origin.get(role, ""))]
        texts = [path for path in own if PurePosixPath(path).name.startswith("LICENSE")]
        rows.append((role, origin.get(role, "a folder"), ", ".join(named), ", ".join([*stated, *texts]) or "-"))
    lines = [" | ".join(row) for row in (("part", "from", "licence", "stated in"), ("---",) * 4, *rows)]
    return "# Licences\n\n" + "".join(f"| {line} |\n" for line in lines)


def _of_our_bases(name: str) -> str:
    if not name or "/" in name:
        return "not stated"
    from hf_inspect.vlm.base import LICENCES as of_ours

    return of_ours.get(name, "not stated")


def _left(folder: Path, wanted: Mapping[str, Path]) -> list[str]:
    """Files of the cascade's folder that were not gathered."""
    kept = {CASCADE_JSON, SUMS, LICENCES, ".gitattributes", *wanted}
    return [path for path in all_files(folder) if path not in kept]

"""A checked folder -> one commit on the Hub, of what is not there yet."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.errors import HubError
from hf_inspect.hub.check import card_head, check
from hf_inspect.hub.client import asked, client
from hf_inspect.hub.kinds import REPO_TYPES, SPACE, belongs, kind_of
from hf_inspect.hub.licences import refuse_wider
from hf_inspect.hub.space import REQUIREMENTS, with_wheel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push does: files to add by path, paths to remove, how many are there already, the commit it follows."""

    kind: str
    repository: str
    add: dict[str, Path]
    remove: list[str]
    same: int
    parent: str | None

    def table(self) -> str:
        """Every file that goes up with its size, and what becomes of the others."""
        lines = [f"{self.kind} -> {self.repository}"]
        lines += [f"  + {_size(path.stat().st_size):>10}  {name}" for name, path in self.add.items()]
        lines += [f"  - {'':>10}  {name}" for name in self.remove]
        total = sum(path.stat().st_size for path in self.add.values())
        return "\n".join([*lines, f"{len(self.add)} files to add, {_size(total)}; {self.same} are there already"])


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    show: Callable[[str], Any] = print,
) -> str | None:
    """Check a folder and commit it to `repository` (org/name) in one commit; returns its address.

    None where all is there already. The repository is made if need be; a pull request needs one that is there.
    Files of this kind that the folder no longer holds are removed. `show` is given the plan before anything is sent.
    A Space is given this package's wheel. HubError, with nothing committed, when the folder is not fit or the Hub
    refuses.
    """
    if kind_of(folder) != SPACE:
        return _push(folder, repository, private, create_pr, show)
    with with_wheel(folder, f"{client().endpoint}/spaces/{repository}") as whole:
        if private and whole != folder:
            raise HubError(
                f"{repository}: a private Space cannot fetch its own wheel while it is built; push it public, or name "
                f"a wheel that it can fetch in {REQUIREMENTS}."
            )
        return _push(whole, repository, private, create_pr, show)


def _push(folder: Path, repository: str, private: bool, create_pr: bool, show: Callable[[str], Any]) -> str | None:
    found, api = check(folder), client()
    target = _Target(api, repository, kind_of(folder), private, create_pr)
    asked(repository, lambda: _check_bases(api, folder))
    return asked(repository, lambda: _commit(target, folder, found, show), again=not create_pr)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a push goes, and how."""

    api: "HfApi"
    repository: str
    kind: str
    private: bool
    create_pr: bool

    @property
    def repo_type(self) -> str:
        return REPO_TYPES.get(self.kind, "model")


def _commit(target: _Target, folder: Path, found: dict[str, Path], show: Callable[[str], Any]) -> str | None:
    """One try of a push."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repository, repo_type = target.api, target.repository, target.repo_type
    if not target.create_pr:
        sdk = card_head(folder).get("sdk") if target.kind == SPACE else None
        api.create_repo(repository, repo_type=repo_type, private=target.private or None, exist_ok=True, space_sdk=sdk)
    plan = _plan(target, found)
    show(plan.table())
    if not plan.add and not plan.remove:
        return None
    made = api.create_commit(
        repository,
        [
            *(CommitOperationAdd(name, str(path)) for name, path in plan.add.items()),
            *map(CommitOperationDelete, plan.remove),
        ],
        repo_type=repo_type,
        commit_message=f"Push the {target.kind} {folder.resolve().name} with hf-inspect",
        parent_commit=plan.parent,
        create_pr=target.create_pr,
    )
    return made.pr_url or made.commit_url


def _plan(target: _Target, found: dict[str, Path]) -> Plan:
    """The difference between the folder and the repository's main branch."""
    from huggingface_hub.hf_api import RepoFile

    api, repository, repo_type = target.api, target.repository, target.repo_type
    info = api.repo_info(repository, repo_type=repo_type)
    if target.private and not info.private:
        raise HubError(f"{repository} is there and public; make it private in its settings, or push to a new name.")
    tree = api.list_repo_tree(repository, recursive=True, repo_type=repo_type)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    add = {name: path for name, path in found.items() if name not in there or not _same(path, there[name])}
    remove = [name for name in there if name not in found and belongs(name, target.kind)]
    return Plan(target.kind, repository, add, remove, len(found) - len(add), info.sha)


def _same(path: Path, there: Any) -> bool:
    """Whether the Hub's file has this content: by SHA-256 in LFS, else by git's id of it."""
    if there.size != path.stat().st_size:
        return False
    return files.sha256(path) == there.lfs.sha256 if there.lfs else _blob_id(path) == there.blob_id


def _blob_id(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _check_bases(api: "HfApi", folder: Path) -> None:
    """HubError when the card permits more than the licence of a base model it names, where that is on the Hub."""
    from huggingface_hub.errors import RepositoryNotFoundError

    head = card_head(folder)
    named = head.get("base_model") or []
    for base in [named] if isinstance(named, str) else named:
        try:
            card = api.model_info(base).card_data
        except RepositoryNotFoundError:
            raise HubError(
                f"the card's base_model {base!r} is not on the Hub; push it first, or mend the name."
            ) from None
        if card and card.get("license"):
            refuse_wider(head["license"], {base: card["license"]})


def _size(n: int) -> str:
    """Bytes in a unit to read."""
    steps = [(10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B")]
    size, unit = next((step for step in steps if n >= step[0]), steps[-1])
    return f"{n / size:.3g} {unit}"

"""A checked folder -> one commit on the Hub, of what is not there yet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.cascade import CASCADE
from hf_inspect.errors import HubError
from hf_inspect.hub.check import card_head, check, licence_of
from hf_inspect.hub.client import client, with_retries
from hf_inspect.hub.kinds import SPACE, STUDENT, Kind, kind_of
from hf_inspect.hub.licences import licence_in, refuse_wider
from hf_inspect.hub.parts import parts_of, read_cascade
from hf_inspect.hub.pull import Repository
from hf_inspect.hub.space import REQUIREMENTS, with_wheel

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push does: files to add by path, paths to remove, how many are there already, the commit it follows."""

    kind: Kind
    repository: str
    add: dict[str, Path]
    remove: list[str]
    same: int
    parent: str | None

    def table(self) -> str:
        """Every file that goes up with its size, and what becomes of the others."""
        lines = [f"{self.kind} -> {self.repository}"]
        lines += [f"  + {files.sized(path.stat().st_size):>10}  {name}" for name, path in self.add.items()]
        lines += [f"  - {'':>10}  {name}" for name in self.remove]
        total = sum(path.stat().st_size for path in self.add.values())
        return "\n".join([*lines, f"{len(self.add)} files to add, {files.sized(total)}; {self.same} are there already"])


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    create_pr: bool = False,
    show: Callable[[str], Any] = print,
    token: str | None = None,
) -> str | None:
    """Check a folder and commit it to `repository` (org/name) in one commit; returns its address.

    None where all is there already. The repository is made if need be, private unless told otherwise; a pull request
    needs one that is there. Files of this kind that the folder no longer holds are removed. `show` is given the plan
    before anything is sent. A Space is given this package's wheel. HubError, with nothing committed, when the folder
    is not fit, the repository is public though `private` is asked for, or the Hub refuses.
    """
    if kind_of(folder) is not SPACE:
        return _push(folder, _Target(client(token), repository, kind_of(folder), private, create_pr), show)
    with with_wheel(folder, f"{client().endpoint}/spaces/{repository}") as whole:
        if private and whole != folder:
            raise HubError(
                f"{repository}: a private Space cannot fetch its own wheel while it is built; push it with --public, "
                f"or name a wheel that it can fetch in {REQUIREMENTS}."
            )
        return _push(whole, _Target(client(token), repository, SPACE, private, create_pr), show)


def open_repository(repository: str, *, private: bool = True, token: str | None = None) -> str:
    """Make a model's repository unless it is there, and try that it may be written to; returns its org/name.

    `repository` may leave org out: that of the token's user. For what is pushed after hours, this says before them
    why it could not be: HubError as of `push`.
    """
    api = client(token)
    who = with_retries(repository, api.whoami)["name"]
    target = _Target(api, repository if "/" in repository else f"{who}/{repository}", STUDENT, private, False)
    with_retries(target.repository, lambda: _opened(target))
    with_retries(target.repository, lambda: api.auth_check(target.repository, write=True))
    return target.repository


def _opened(target: "_Target", sdk: str | None = None) -> Any:
    """What the Hub says of the target's repository, which is made unless a pull request is to be."""
    api, repository, repo_type = target.api, target.repository, target.kind.repo_type
    if not target.create_pr:
        api.create_repo(repository, repo_type=repo_type, private=target.private, exist_ok=True, space_sdk=sdk)
    info = api.repo_info(repository, repo_type=repo_type)
    if target.private and not info.private:
        raise HubError(f"{repository} is there and public; push with --public if all may read it, or to a new name.")
    return info


def _push(folder: Path, target: "_Target", show: Callable[[str], Any]) -> str | None:
    found = check(folder)
    with_retries(target.repository, lambda: _check_sources(target.api, folder))
    return with_retries(target.repository, lambda: _commit(target, folder, found, show), again=not target.create_pr)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a push goes, and how."""

    api: "HfApi"
    repository: str
    kind: Kind
    private: bool
    create_pr: bool


def _commit(target: _Target, folder: Path, found: dict[str, Path], show: Callable[[str], Any]) -> str | None:
    """One try of a push."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repository, repo_type = target.api, target.repository, target.kind.repo_type
    info = _opened(target, card_head(folder).get("sdk") if target.kind is SPACE else None)
    plan = _plan(target, info.sha, found)
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


def _plan(target: _Target, parent: str | None, found: dict[str, Path]) -> Plan:
    """The difference between the folder and the repository's main branch, whose commit is `parent`."""
    from huggingface_hub.hf_api import RepoFile

    api, repository, repo_type = target.api, target.repository, target.kind.repo_type
    tree = api.list_repo_tree(repository, recursive=True, repo_type=repo_type)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    add = {name: path for name, path in found.items() if name not in there or not _same(path, there[name])}
    remove = [name for name in there if name not in found and target.kind.brings(name)]
    return Plan(target.kind, repository, add, remove, len(found) - len(add), parent)


def _same(path: Path, there: Any) -> bool:
    """Whether the Hub's file has this content: by SHA-256 in LFS, else by git's id of it."""
    if there.size != path.stat().st_size:
        return False
    return files.sha256(path) == there.lfs.sha256 if there.lfs else files.blob_id(path) == there.blob_id


def _check_sources(api: "HfApi", folder: Path) -> None:
    """HubError when the card permits more than a base model it names or a pinned part, or one of them is not there."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    for (name, revision), record in _sources(folder):
        try:
            card = api.model_info(name, revision=revision).card_data
        except RepositoryNotFoundError:
            raise HubError(f"{record} {name!r} is not on the Hub; push it first, or mend the name.") from None
        except RevisionNotFoundError:
            raise HubError(f"{record} {name} has no commit {revision}; calibrate again.") from None
        if card and (licence := licence_in(card.to_dict())):
            refuse_wider(licence_of(folder), {name: licence})


def _sources(folder: Path) -> Iterator[tuple[Repository, str]]:
    """The repositories that a folder builds on, and which record names each: the card's bases, a cascade's parts."""
    named = card_head(folder).get("base_model") or []
    for base in [named] if isinstance(named, str) else named:
        yield Repository(base), "the card's base_model"
    parts = parts_of(read_cascade(folder)) if (folder / CASCADE).is_file() else {}
    for role, part in parts.items():
        if part.kind == "hub":
            yield Repository(part.name, part.revision), f"{CASCADE}'s {role}"

"""Folders of ours <-> repositories on a Hugging Face Hub: checked before they are pushed, pulled by name."""

from hf_inspect.hub.check import check
from hf_inspect.hub.kinds import KINDS, Kind, files_to_push, kind_of, own_files, task_of
from hf_inspect.hub.licences import read_notes
from hf_inspect.hub.parts import (
    CASCADE_VERSION,
    cascade_folder,
    file_hashes,
    gather_parts,
    part_of,
    parts_of,
    read_cascade,
    refuse_changed,
    server_of,
    stated_parts,
    weights_of,
)
from hf_inspect.hub.pull import Repository, pinned, pull, reference, repository_of, resolve
from hf_inspect.hub.push import Plan, open_repository, push
from hf_inspect.hub.sums import verify

__all__ = [
    "CASCADE_VERSION",
    "KINDS",
    "Kind",
    "Plan",
    "Repository",
    "cascade_folder",
    "check",
    "file_hashes",
    "files_to_push",
    "gather_parts",
    "kind_of",
    "open_repository",
    "own_files",
    "part_of",
    "parts_of",
    "pinned",
    "pull",
    "push",
    "read_cascade",
    "read_notes",
    "reference",
    "refuse_changed",
    "repository_of",
    "resolve",
    "server_of",
    "stated_parts",
    "task_of",
    "verify",
    "weights_of",
]  # fmt: skip

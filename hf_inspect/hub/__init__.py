"""Folders of ours <-> repositories on a Hugging Face Hub: checked before they are pushed, pulled by name."""

from hf_inspect.hub.check import check, read_notes
from hf_inspect.hub.kinds import kind_of, listed
from hf_inspect.hub.pull import is_pinned, is_repository, pull, pull_pinned
from hf_inspect.hub.push import Plan, push

__all__ = [
    "Plan", "check", "is_pinned", "is_repository", "kind_of", "listed", "pull", "pull_pinned", "push", "read_notes",
]  # fmt: skip

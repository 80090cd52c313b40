"""Folders of ours <-> repositories on a Hugging Face Hub: checked before they are pushed, pulled by name."""

from hf_inspect.hub.check import check
from hf_inspect.hub.kinds import belonging, kind_of, listed
from hf_inspect.hub.licences import read_notes
from hf_inspect.hub.parts import cascade_folder, part_of, parts_of, read_cascade, refuse_changed, stated_files
from hf_inspect.hub.pull import is_pinned, is_repository, located, pinned, pull
from hf_inspect.hub.push import Plan, push
from hf_inspect.hub.sums import verify

__all__ = [
    "Plan", "belonging", "cascade_folder", "check", "is_pinned", "is_repository", "kind_of", "listed", "located",
    "part_of", "parts_of", "pinned", "pull", "push", "read_cascade", "read_notes", "refuse_changed", "stated_files",
    "verify",
]  # fmt: skip

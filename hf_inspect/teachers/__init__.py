"""Boxes and masks -> Grounding DINO and SAM adapters -> pseudo-labels for a student that needs no prompt."""

from hf_inspect.teachers.audit import Bar, audit
from hf_inspect.teachers.label import LABELS, Labeller, Teacher
from hf_inspect.teachers.phrases import Prompt
from hf_inspect.teachers.pseudo import described, read_labels, write_labels
from hf_inspect.teachers.record import DINO, SAM, TEACHER, Stated
from hf_inspect.teachers.tiny import BASES, base_folder, tiny_base
from hf_inspect.teachers.training import Lesson, Start, lesson, own_arguments, said_of, save, taught

__all__ = [
    "BASES", "DINO", "LABELS", "SAM", "TEACHER", "Bar", "Labeller", "Lesson", "Prompt", "Start", "Stated", "Teacher",
    "audit", "base_folder", "described", "lesson", "own_arguments", "read_labels", "said_of", "save", "taught",
    "tiny_base", "write_labels",
]  # fmt: skip

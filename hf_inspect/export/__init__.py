"""A student -> a folder for the edge that has proved to answer as the student does, or nothing."""

from hf_inspect.export.parity import described
from hf_inspect.export.student import export_student

__all__ = ["described", "export_student"]

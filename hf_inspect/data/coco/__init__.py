"""A COCO file: what is in it, what is wrong with it and mended, split by group, and other formats from and to it."""

from hf_inspect.data.coco.converting import Converted, convert
from hf_inspect.data.coco.inspecting import Inspection, inspect, inspected
from hf_inspect.data.coco.rules import RULES, Finding
from hf_inspect.data.coco.splitting import Split, parse_split, parts_of, split
from hf_inspect.data.coco.validating import Repair, Validation, judged, repair, validate

__all__ = [
    "RULES", "Converted", "Finding", "Inspection", "Repair", "Split", "Validation", "convert", "inspect", "inspected",
    "judged", "parse_split", "parts_of", "repair", "split", "validate",
]  # fmt: skip

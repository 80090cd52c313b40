"""Models and splits -> results.json, and from it tables and plots."""

from hf_inspect.reports.card import render_card, write_student_card
from hf_inspect.reports.evaluate import (
    cascade_report,
    data_section,
    environment,
    evaluate_cascade,
    evaluate_edge,
    evaluate_vlm,
    model_report,
)
from hf_inspect.reports.table import results_table

__all__ = [
    "cascade_report",
    "data_section",
    "environment",
    "evaluate_cascade",
    "evaluate_edge",
    "evaluate_vlm",
    "model_report",
    "render_card",
    "results_table",
    "write_student_card",
]

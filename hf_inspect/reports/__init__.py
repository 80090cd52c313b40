"""Models and splits -> results.json, and from it tables and plots."""

from hf_inspect.reports.card import card_of, write_card
from hf_inspect.reports.evaluate import (
    cascade_report,
    data_section,
    environment,
    evaluate_cascade,
    evaluate_edge,
    model_report,
)
from hf_inspect.reports.table import results_table, vlm_table
from hf_inspect.reports.vlm import evaluate_vlm, vlm_summary, write_comparison

__all__ = [
    "card_of",
    "cascade_report",
    "data_section",
    "environment",
    "evaluate_cascade",
    "evaluate_edge",
    "evaluate_vlm",
    "model_report",
    "results_table",
    "vlm_summary",
    "vlm_table",
    "write_card",
    "write_comparison",
]

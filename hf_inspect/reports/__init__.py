"""Models and splits -> results.json, and from it tables and plots."""

from hf_inspect.reports.anomaly import anomaly_table, evaluate_anomaly, write_curves, write_sheet
from hf_inspect.reports.card import card_of, write_card
from hf_inspect.reports.detect import detect_table, evaluate_detect, told_lines, write_findings
from hf_inspect.reports.evaluate import (
    cascade_report,
    evaluate_cascade,
    evaluate_edge,
    evaluate_vlm,
    model_report,
)
from hf_inspect.reports.heading import data_section, environment
from hf_inspect.reports.own import write_report
from hf_inspect.reports.plots import write_comparison
from hf_inspect.reports.table import model_summary, results_table, vlm_table

__all__ = [
    "anomaly_table",
    "card_of",
    "cascade_report",
    "data_section",
    "detect_table",
    "environment",
    "evaluate_anomaly",
    "evaluate_cascade",
    "evaluate_detect",
    "evaluate_edge",
    "evaluate_vlm",
    "model_report",
    "model_summary",
    "results_table",
    "told_lines",
    "vlm_table",
    "write_card",
    "write_comparison",
    "write_curves",
    "write_findings",
    "write_report",
    "write_sheet",
]

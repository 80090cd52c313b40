"""Counts, labels and scores in; figures with counts and 95 % intervals out, as plain dictionaries."""

from hf_inspect.metrics.binary import auroc, binary_report, decision_report, roc_curve
from hf_inspect.metrics.intervals import Figure, Rate, paired_difference, rate
from hf_inspect.metrics.reliability import reliability

__all__ = [
    "Figure",
    "Rate",
    "auroc",
    "binary_report",
    "decision_report",
    "paired_difference",
    "rate",
    "reliability",
    "roc_curve",
]

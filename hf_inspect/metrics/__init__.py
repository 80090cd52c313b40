"""Counts, labels and scores in; figures with counts and 95 % intervals out, as plain dictionaries."""

from hf_inspect.metrics.binary import auroc, average_precision, binary_report, decision_report, roc_curve
from hf_inspect.metrics.classes import UNREADABLE, class_report, fit_temperature, softmax, with_temperature
from hf_inspect.metrics.intervals import Figure, Rate, paired_difference, rate, rate_of
from hf_inspect.metrics.packaged import module
from hf_inspect.metrics.reliability import reliability

__all__ = [
    "UNREADABLE",
    "Figure",
    "Rate",
    "auroc",
    "average_precision",
    "binary_report",
    "class_report",
    "decision_report",
    "fit_temperature",
    "module",
    "paired_difference",
    "rate",
    "rate_of",
    "reliability",
    "roc_curve",
    "softmax",
    "with_temperature",
]

"""Shares of splits as a user writes them -> the mapping that `partition` takes."""

from hf_inspect.data.partition import SPLITS
from hf_inspect.errors import DataError


def parse_shares(text: str) -> dict[str, float]:
    """`55/10/15/20` (percent of train/validation/calibration/test) -> shares that sum to 1, without splits of 0."""
    try:
        percents = [float(part) for part in text.split("/")]
    except ValueError:
        percents = []
    if len(percents) != len(SPLITS) or min(percents) < 0 or abs(sum(percents) - 100) > 1e-9:
        raise DataError(f"the shares {text!r} are not four percentages that sum to 100; give {'/'.join(SPLITS)}.")
    return {split: percent / 100 for split, percent in zip(SPLITS, percents, strict=True) if percent}

"""Raw images -> checked, grouped, split and fingerprinted data sets that cannot leak."""

from hf_inspect.data.build import build
from hf_inspect.data.hashing import Signature, group, near_pairs, sign
from hf_inspect.data.leakage import refuse_seen, trained_on, write_trained_on
from hf_inspect.data.load import load_split, read_manifest
from hf_inspect.data.packaged import cache_folder, lite0_weights, packaged_folder, verified
from hf_inspect.data.partition import SPLITS, Row, partition

__all__ = [
    "SPLITS", "Row", "Signature", "build", "cache_folder", "group", "lite0_weights", "load_split", "near_pairs",
    "packaged_folder", "partition", "read_manifest", "refuse_seen", "sign", "trained_on", "verified",
    "write_trained_on",
]  # fmt: skip

"""Raw images -> checked, grouped, split and fingerprinted data sets that cannot leak."""

from hf_inspect.data.audit import audit
from hf_inspect.data.build import build, described, options_from, script_named
from hf_inspect.data.chat import answers_of, chat, dataset_card, questions_of
from hf_inspect.data.examine import Examined, Rejected, examine
from hf_inspect.data.hashing import Signature, group, near_pairs, sign
from hf_inspect.data.leakage import refuse_seen, trained_on, write_trained_on
from hf_inspect.data.licence import Licence
from hf_inspect.data.load import load_split, place_of, read_manifest
from hf_inspect.data.packaged import cache_folder, lite0_weights, packaged_folder, verified
from hf_inspect.data.partition import SPLITS, Placement, Row, deal, partition, placed
from hf_inspect.data.sources import images_in, relative

__all__ = [
    "SPLITS", "Examined", "Licence", "Placement", "Rejected", "Row", "Signature", "answers_of", "audit", "build",
    "cache_folder", "chat", "dataset_card", "deal", "described", "examine", "group", "images_in", "lite0_weights",
    "load_split", "near_pairs", "options_from", "packaged_folder", "partition", "place_of", "placed", "questions_of",
    "read_manifest", "refuse_seen", "relative", "script_named", "sign", "trained_on", "verified", "write_trained_on",
]  # fmt: skip

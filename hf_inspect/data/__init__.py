"""Raw images -> checked, grouped, split and fingerprinted data sets that cannot leak."""

from hf_inspect.data.answers import validate_rows
from hf_inspect.data.audit import audit
from hf_inspect.data.build import build, described, fingerprint, options_from, script_named
from hf_inspect.data.card import absences
from hf_inspect.data.chat import Questions, chat, dataset_card, default_questions, questions_of
from hf_inspect.data.classes import class_column, class_ids
from hf_inspect.data.examine import Examined, Rejected, examine
from hf_inspect.data.folds import images_of_fold
from hf_inspect.data.ground import Wording, ground, grounded
from hf_inspect.data.hashing import Signature, sign
from hf_inspect.data.leakage import TRAINED_ON, read_history, record_history, refuse_seen, write_history
from hf_inspect.data.licence import Licence
from hf_inspect.data.load import (
    count,
    load_split,
    place_of,
    read_head,
    read_manifest,
    read_objects,
    read_reading,
    read_task,
    stream,
    things_of,
)
from hf_inspect.data.near import duplicates, group
from hf_inspect.data.packaged import cache_folder, imagenet_weights, packaged_folder, sentence_model, verified
from hf_inspect.data.partition import SPLITS, Placement, Row, partition, row_of, stratified_group_split
from hf_inspect.data.pool import Exemplar, Pool, read_pool, write_pool, write_pool_sheet
from hf_inspect.data.raw.sources import Raw, relative, walk
from hf_inspect.data.rules import Rules

__all__ = [
    "SPLITS",
    "TRAINED_ON",
    "Examined",
    "Exemplar",
    "Licence",
    "Placement",
    "Pool",
    "Questions",
    "Raw",
    "Rejected",
    "Row",
    "Rules",
    "Signature",
    "Wording",
    "absences",
    "audit",
    "build",
    "cache_folder",
    "chat",
    "class_column",
    "class_ids",
    "count",
    "dataset_card",
    "default_questions",
    "described",
    "duplicates",
    "examine",
    "fingerprint",
    "ground",
    "grounded",
    "group",
    "imagenet_weights",
    "images_of_fold",
    "load_split",
    "options_from",
    "packaged_folder",
    "partition",
    "place_of",
    "questions_of",
    "read_head",
    "read_history",
    "read_manifest",
    "read_objects",
    "read_pool",
    "read_reading",
    "read_task",
    "record_history",
    "refuse_seen",
    "relative",
    "row_of",
    "script_named",
    "sentence_model",
    "sign",
    "stratified_group_split",
    "stream",
    "things_of",
    "validate_rows",
    "verified",
    "walk",
    "write_history",
    "write_pool",
    "write_pool_sheet",
]

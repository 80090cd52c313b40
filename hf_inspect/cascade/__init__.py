"""Edge and VLM scores -> one verdict a part, by a policy with a promise (`certified`) or SAEC's without (`saec`)."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_inspect.cascade.bounds import Limits, Promise, parts_needed
from hf_inspect.cascade.certified import Certified, alone, fit_certified
from hf_inspect.cascade.complexity import complexity, complexity_terms
from hf_inspect.cascade.composite import Composite, fit_composite
from hf_inspect.cascade.plan import Needs, Outcome, Redrawn, needs, outcome, redrawn
from hf_inspect.cascade.replay import Policy, Replay, replay
from hf_inspect.cascade.routes import ASK, IS_DEFECT, IS_GOOD, UNDECIDED, Routes
from hf_inspect.cascade.saec import Saec, fit_saec
from hf_inspect.cascade.uncertified import Uncertified
from hf_inspect.cascade.whatif import (
    OUT_OF_FOLD,
    CalibrationScores,
    WhatIf,
    composite_of,
    edge_alone_threshold,
    what_if,
)
from hf_inspect.errors import DataError

__all__ = [
    "ASK",
    "CALIBRATION",
    "CASCADE",
    "IS_DEFECT",
    "IS_GOOD",
    "OUT_OF_FOLD",
    "UNDECIDED",
    "CalibrationScores",
    "Certified",
    "Composite",
    "Limits",
    "Needs",
    "Outcome",
    "Policy",
    "Promise",
    "Redrawn",
    "Replay",
    "Routes",
    "Saec",
    "Uncertified",
    "WhatIf",
    "alone",
    "complexity",
    "complexity_terms",
    "composite_of",
    "edge_alone_threshold",
    "fit_certified",
    "fit_composite",
    "fit_saec",
    "needs",
    "outcome",
    "parts_needed",
    "policy_from_dict",
    "redrawn",
    "replay",
    "what_if",
]

CASCADE, CALIBRATION = "cascade.json", "calibration.jsonl"  # the files of a cascade's folder


def policy_from_dict(values: Mapping[str, Any]) -> Policy:
    """The policy a `to_dict` wrote, chosen by its key `policy`."""
    readers: dict[Any, Callable[[Mapping[str, Any]], Policy]]
    readers = {Certified.name: Certified.from_dict, Saec.name: Saec.from_dict}
    name = values.get("policy")
    if name not in readers:
        raise DataError(f"Policy {name!r} was asked for; {sorted(readers)} are known. Calibrate the cascade again.")
    return readers[name](values)

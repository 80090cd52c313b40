"""Edge and VLM scores -> one verdict a part, by a policy with a stated risk (`calibrated`) or SAEC's (`saec`)."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_inspect.cascade.calibrated import Calibrated, fit_calibrated
from hf_inspect.cascade.complexity import complexity, complexity_terms
from hf_inspect.cascade.replay import EscalationCurve, Policy, Replay, escalation_curve, replay
from hf_inspect.cascade.routes import IS_DEFECT, IS_GOOD, UNDECIDED, Routes
from hf_inspect.cascade.saec import Saec, fit_saec
from hf_inspect.cascade.whatif import CalibrationScores, EdgeAlone, WhatIf, edge_alone, what_if
from hf_inspect.errors import DataError

__all__ = [
    "CALIBRATION",
    "CASCADE",
    "IS_DEFECT",
    "IS_GOOD",
    "UNDECIDED",
    "Calibrated",
    "CalibrationScores",
    "EdgeAlone",
    "EscalationCurve",
    "Policy",
    "Replay",
    "Routes",
    "Saec",
    "WhatIf",
    "complexity",
    "complexity_terms",
    "edge_alone",
    "escalation_curve",
    "fit_calibrated",
    "fit_saec",
    "policy_from_dict",
    "replay",
    "what_if",
]

CASCADE, CALIBRATION = "cascade.json", "calibration.jsonl"  # the files of a cascade's folder


def policy_from_dict(values: Mapping[str, Any]) -> Policy:
    """The policy a `to_dict` wrote, chosen by its key `policy`."""
    readers: dict[Any, Callable[[Mapping[str, Any]], Policy]]
    readers = {Calibrated.name: Calibrated.from_dict, Saec.name: Saec.from_dict}
    name = values.get("policy")
    if name not in readers:
        raise DataError(f"Policy {name!r} was asked for; {sorted(readers)} are known. Check cascade.json.")
    return readers[name](values)

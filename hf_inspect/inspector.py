"""A cascade folder -> `Inspector`, and an image -> its verdict. Works without torch where the edge alone decides."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hf_inspect import files, hub, images
from hf_inspect.cascade import CASCADE, IS_DEFECT, IS_GOOD, Policy, complexity, policy_from_dict
from hf_inspect.cascade.replay import FALLBACK_CODES, Fallback
from hf_inspect.errors import DataError
from hf_inspect.runtime import Engine
from hf_inspect.schema import DEFECT, GOOD, DecidedBy, Prediction, Predictor, TaskSpec, Verdict

Source = str | Path | bytes
_AT_ONCE = 16  # images a batch: what keeps both models busy and memory small
_LABELS = {IS_GOOD: GOOD, IS_DEFECT: DEFECT}


@dataclass
class Inspector:
    """The whole cascade: edge, policy, and the VLM if there is one at hand.

    `no_vlm` says why there is none. `fallback` is what becomes of parts that nobody could decide: `hold` leaves
    them `undecided`, `reject` makes them `defect`, `pass` makes them `good`. DataError when edge and VLM do not answer
    one question.
    """

    edge: Predictor
    policy: Policy
    vlm: Predictor | None = None
    no_vlm: str = "no VLM at hand"
    fallback: Fallback = "hold"
    max_pixels: int = images.MAX_PIXELS
    identity: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACK_CODES:
            raise DataError(f"fallback is {self.fallback!r}; choose {', '.join(FALLBACK_CODES)}.")
        if self.vlm is not None:
            self.task.refuse_other(self.vlm.task, "The cascade's edge", "its VLM")

    @classmethod
    def from_pretrained(
        cls,
        cascade: str | Path,
        *,
        policy: str | None = None,
        fallback: Fallback = "hold",
        max_pixels: int = images.MAX_PIXELS,
        use_vlm: bool = True,
        revision: str | None = None,
    ) -> "Inspector":
        """The cascade in a folder written by `hf-inspect calibrate`, or in a Hub repository `org/name`.

        `revision` is the repository's branch, tag or commit; HubError when it cannot be had, ParityError when a file
        is not the one that was calibrated with. `policy` picks another of its policies by name. Without transformers,
        or with `use_vlm` off, what the edge cannot decide is left to `fallback`.
        """
        folder = hub.cascade_folder(cascade, revision)
        stated = hub.read_cascade(folder)
        name = policy or stated["policy"]
        if name not in stated["policies"]:
            raise DataError(f"{folder} has no policy {name!r}; it has {', '.join(stated['policies'])}.")
        hub.refuse_changed(folder, stated)
        vlm, why = _load_vlm(folder, stated) if use_vlm else (None, "the VLM is switched off")
        edge = Engine.from_pretrained(hub.part_of(folder, stated, "edge"))
        task = TaskSpec.from_dict(stated["task"], folder / CASCADE)
        task.refuse_other(edge.task, f"{CASCADE} of {folder.name}", "its edge")
        return cls(
            edge=edge,
            policy=policy_from_dict(stated["policies"][name]),
            vlm=vlm,
            no_vlm=why,
            fallback=fallback,
            max_pixels=max_pixels,
            identity=f"cascade {files.sha256(folder / CASCADE)[:16]}, {name}, {fallback}, {'VLM' if vlm else 'no VLM'}",
        )

    @property
    def task(self) -> TaskSpec:
        """What it answers: the edge's task."""
        return self.edge.task

    def __call__(self, source: Source) -> Verdict:
        """The verdict of one image: a path, or a file's bytes."""
        return next(self.inspect([source]))

    def inspect(self, sources: Iterable[Source]) -> Iterator[Verdict]:
        """Verdicts in the order given, computed batch by batch; an unreadable file is a verdict, never an error."""
        waiting = iter(sources)
        while batch := list(islice(waiting, _AT_ONCE)):
            yield from self._batch(batch)

    def _batch(self, sources: Sequence[Source]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        loaded: dict[int, images.Loaded] = {}
        for i, source in enumerate(sources):
            try:
                loaded[i] = images.load(source, self.max_pixels)
            except DataError as error:
                verdicts[i] = Verdict("unreadable", "rule", str(error))
        if loaded:
            verdicts |= dict(zip(loaded, self._judge(list(loaded.values())), strict=True))
        return [verdicts[i] for i in range(len(sources))]

    def _judge(self, loaded: Sequence[images.Loaded]) -> list[Verdict]:
        """Edge, then policy, then the VLM on what was escalated."""
        pixels = [image.rgb for image in loaded]
        begin = perf_counter()
        found = self.edge.predict(pixels)
        ms = {"edge": (perf_counter() - begin) * 1000 / len(pixels)}
        verdicts = self._from_edge(loaded, found, ms)
        escalated = [i for i, verdict in enumerate(verdicts) if verdict.label == "undecided"]
        if escalated and self.vlm is None:
            for i in escalated:
                verdicts[i] = self._by_rule(verdicts[i], self.no_vlm)
        elif escalated:
            for i, verdict in zip(escalated, self._ask_vlm(pixels, verdicts, escalated), strict=True):
                verdicts[i] = verdict
        return verdicts

    def _from_edge(
        self, loaded: Sequence[images.Loaded], found: Sequence[Prediction], ms: Mapping[str, float]
    ) -> list[Verdict]:
        begin = perf_counter()
        gate = [complexity(image.rgb) for image in loaded] if self.policy.needs_complexity else None
        severity = np.array([one.severity for one in found], np.float64)
        routes = self.policy.route_batch(severity, np.array([one.probabilities for one in found]), gate)
        spent = {**ms, "policy": (perf_counter() - begin) * 1000 / len(loaded)}
        return [
            self._said(
                Verdict("undecided", "edge", str(reason), evidence={"edge": one}, notes=image.notes, ms=spent),
                int(code), "edge", one,
            )
            for image, one, code, reason in zip(loaded, found, routes.codes, routes.reasons, strict=True)
        ]  # fmt: skip

    def _ask_vlm(self, pixels: list[Any], verdicts: list[Verdict], escalated: list[int]) -> list[Verdict]:
        assert self.vlm is not None
        begin = perf_counter()
        found = self.vlm.predict([pixels[i] for i in escalated])
        ms = (perf_counter() - begin) * 1000 / len(escalated)
        return [self._from_vlm(verdicts[i], one, ms) for i, one in zip(escalated, found, strict=True)]

    def _from_vlm(self, verdict: Verdict, found: Prediction, ms: float) -> Verdict:
        asked = replace(verdict, evidence={**verdict.evidence, "vlm": found}, ms={**verdict.ms, "vlm": ms})
        if found.severity is None:
            return self._by_rule(asked, f"the VLM's answer could not be read: {found.unreadable}")
        code = IS_DEFECT if found.severity >= self.policy.cloud_threshold else IS_GOOD
        return self._said(asked, code, "vlm", found)

    def _said(self, verdict: Verdict, code: int, by: DecidedBy, found: Prediction) -> Verdict:
        """The verdict once `by` has decided on `found`, with the likeliest class of that side; undecided as it is."""
        if code not in _LABELS:
            return verdict
        task = self.task if by == "edge" or self.vlm is None else self.vlm.task
        name, p = found.likeliest(task, _LABELS[code]) or (None, None)
        return replace(verdict, label=_LABELS[code], decided_by=by, severity=found.severity, class_name=name, p_class=p)

    def _by_rule(self, verdict: Verdict, why: str) -> Verdict:
        """What becomes of an escalated part that no VLM decided."""
        reason = f"{verdict.reason}; {why}"
        if self.fallback == "hold":
            return replace(verdict, decided_by="rule", reason=reason)
        label, reason = _LABELS[FALLBACK_CODES[self.fallback]], f"{reason}; fallback {self.fallback}"
        return replace(verdict, label=label, decided_by="rule", reason=reason, severity=verdict.severity_of("edge"))


def load_policies(cascade: Path) -> dict[str, Policy]:
    """Every policy of a cascade folder, by name."""
    return {name: policy_from_dict(stated) for name, stated in hub.read_cascade(cascade)["policies"].items()}


def _load_vlm(folder: Path, stated: dict[str, Any]) -> tuple[Predictor | None, str]:
    """The VLM that cascade.json names, or None and the reason why there is none."""
    if stated["vlm"] is None:
        return None, "this cascade has no VLM"
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        return None, f"no VLM here ({', '.join(missing)} not installed: pip install 'hf-inspect[train]')"
    from hf_inspect.vlm import VLM
    from hf_inspect.vlm.base import base_folder

    adapter = hub.part_of(folder, stated, "adapter") if stated["vlm"]["adapter"] else None
    return VLM.from_pretrained(hub.part_of(folder, stated, "base", base_folder), adapter), ""

"""A cascade folder -> `Inspector`, and an image -> its verdict. Works without torch where the edge alone decides."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from hf_inspect import hub, images
from hf_inspect.cascade import (
    ASK,
    CASCADE,
    IS_DEFECT,
    IS_GOOD,
    Policy,
    Uncertified,
    complexity,
    policy_from_dict,
)
from hf_inspect.cascade.replay import FALLBACK_CODES, Fallback
from hf_inspect.errors import DataError
from hf_inspect.faults import each, reason
from hf_inspect.images import Reading, Source
from hf_inspect.prefetch import as_they_come
from hf_inspect.runtime import INSPECT, Engine
from hf_inspect.schema import DEFECT, GOOD, DecidedBy, Prediction, Predictor, TaskSpec, Verdict
from hf_inspect.tasks.detection import drawn
from hf_inspect.tasks.heat import overlay, smaller

if TYPE_CHECKING:
    from hf_inspect.vlm.wire import Wire

AT_ONCE = 16  # images a batch: what keeps both models busy and memory small
_RULES = 5  # of how an image becomes a verdict, `images.load` included: one more with each change that alters a row
_LABELS = {IS_GOOD: GOOD, IS_DEFECT: DEFECT}


Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class Inspector:
    """The whole cascade: edge, policy, and the VLM if there is one at hand.

    `no_vlm` says why there is none. `fallback` is what becomes of parts that nobody could decide: `hold` leaves
    them `undecided`, `reject` makes them `defect`, `pass` makes them `good`. Files are read as those that the edge was
    trained on; `max_pixels` lets in larger or fewer images. `heat` are the values of the edge's maps from which on they
    are drawn (`shown`), and red; `told` the score from which on its findings are (`told_of`). DataError when edge and
    VLM do not answer one question, or were made of images read in two ways.

    Threads may share one, as they may its edge and its VLM; processes load one each, by `spawn` (ForkError).
    """

    edge: Predictor
    policy: Policy
    vlm: Predictor | None = None
    no_vlm: str = "no VLM at hand"
    fallback: Fallback = "hold"
    max_pixels: int | None = None
    heat: tuple[float, float] | None = None
    told: float = 0.5

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACK_CODES:
            raise DataError(f"fallback is {self.fallback!r}; choose {', '.join(FALLBACK_CODES)}.")
        if self.vlm is not None:
            self.task.refuse_partner(self.vlm.task, "The cascade's edge", "its VLM")
            self.reading.refuse_other(self.vlm.reading, "The cascade's edge", "its VLM")

    @classmethod
    def from_pretrained(
        cls,
        cascade: str | Path,
        *,
        policy: str | None = None,
        fallback: Fallback = "hold",
        max_pixels: int | None = None,
        use_vlm: bool = True,
        revision: str | None = None,
        vlm: str | None = None,
        deadline: float | None = None,
        jpeg: int | None = None,
    ) -> "Inspector":
        """The cascade in a folder written by `hf-inspect calibrate`, or in a Hub repository `org/name`.

        `revision` is the repository's branch, tag or commit; HubError when it cannot be had, ParityError when a file
        is not the one that was calibrated with. `policy` picks another of its policies by name. Without transformers,
        or with `use_vlm` off, what the edge cannot decide is left to `fallback`.

        `vlm` is the address of a server of the cascade's VLM, `http://host:port` (see `vlm.remote`), by default the one
        that it was calibrated with, if that is where its VLM is. It must be the VLM that was calibrated with
        (ParityError). One that is not there yet is told of in the log, and checked when a part comes. A part that it
        does not answer within `deadline` seconds, or that only another VLM would answer, is left to `fallback`, with
        the reason; `jpeg` sends images at that quality.

        What `hf-inspect export` wrote may stand in a cascade's place: every part is then left to `fallback`, with what
        the edge says of it as evidence.
        """
        folder = hub.cascade_folder(cascade, revision)
        if (folder / INSPECT).is_file() and not (folder / CASCADE).exists():
            if any(one is not None for one in (policy, vlm, deadline, jpeg)):
                raise DataError(f"{folder} is an edge by itself; a policy and a VLM are of a cascade.")
            edge = Engine.from_pretrained(folder)
            return cls(edge, Uncertified(), no_vlm="", fallback=fallback, max_pixels=max_pixels, told=edge.told)
        stated = hub.read_cascade(folder)
        name = policy or stated["policy"]
        if name not in stated["policies"]:
            raise DataError(f"{folder} has no policy {name!r}; it has {', '.join(stated['policies'])}.")
        hub.refuse_changed(folder, stated)
        edge = Engine.from_pretrained(hub.part_of(folder, stated, "edge"))
        task = TaskSpec.from_dict(stated["task"], folder / CASCADE)
        task.refuse_other(edge.task, f"{CASCADE} of {folder.name}", "its edge")
        remote = _Remote(vlm or hub.server_of(stated), deadline, jpeg)
        second, why = _load_vlm(folder, stated, remote, edge) if use_vlm else (None, "the VLM is switched off")
        return cls(
            edge=edge,
            policy=policy_from_dict(stated["policies"][name]),
            vlm=second,
            no_vlm=why,
            fallback=fallback,
            max_pixels=max_pixels,
            heat=_heat_of(stated, folder),
            told=edge.told,
        )

    @property
    def identity(self) -> str:
        """All that decides, in words and digests: two Inspectors of one identity give the same verdicts.

        DataError for a VLM that was put together in memory.
        """
        policy = hashlib.sha256(json.dumps(self.policy.to_dict(), sort_keys=True).encode()).hexdigest()
        return (
            f"{self.policy.name} {policy[:16]}, edge {self.edge.identity[:16]}, "
            f"VLM {self.vlm.identity[:16] if self.vlm else 'none'}, fallback {self.fallback}, "
            f"{self.reading}, at most {self.reading.max_pixels} pixels, rules {_RULES}"
        )

    @property
    def wire(self) -> "Wire | None":
        """What leads to the VLM's server, where that is where it is."""
        return getattr(self.vlm, "wire", None)

    @property
    def task(self) -> TaskSpec:
        """What it answers: the edge's task."""
        return self.edge.task

    @property
    def things(self) -> TaskSpec:
        """What is found in a part, by its edge or by its VLM; the edge's task where neither looks for things."""
        looking = [one.task for one in (self.edge, self.vlm) if one is not None and one.task.finds]
        return looking[0] if looking else self.task

    def told_of(self, model: str) -> float:
        """The score from which on findings of `edge` or `vlm` are told of, and drawn."""
        return self.told if model == "edge" else float(getattr(self.vlm, "told", self.told))

    @property
    def reading(self) -> Reading:
        """How it reads files: as the edge's training did, with the limit that it was given."""
        own = self.edge.reading or Reading()
        return own if self.max_pixels is None else replace(own, max_pixels=self.max_pixels)

    def __call__(self, source: Source) -> Verdict:
        """The verdict of one image: a path, a file's bytes, an open binary file, a PIL image, or a uint8 array.

        An array is RGB (h, w, 3) or grey (h, w); a PIL image is read by the rules of its file. DataError for anything
        else; what cannot be read is a verdict.
        """
        return next(self.inspect([source]))

    def inspect(self, sources: Iterable[Source]) -> Iterator[Verdict]:
        """Verdicts in the order given, of sources as `__call__` takes them; up to 16 are computed together.

        Neither an unreadable file nor a model that fails at an image ends the others' verdicts. A source that is no
        list, a camera say, is read by a thread, and each verdict comes as soon as its part can be decided: nobody waits
        for a batch to fill. What the source itself raises comes after the verdicts of all it gave.
        """
        for loaded in as_they_come(self._load, sources, AT_ONCE):
            yield from self._batch(loaded)

    def shown(self, source: Source, verdict: Verdict, side: int | None = None) -> images.Rgb | None:
        """The image with its findings or its edge's map over it, uint8 (h, w, 3), no longer than `side`; None without.

        `source` is what the verdict is of; the findings are those of whoever looked last (`Verdict.finder`).
        """
        if (by := verdict.finder) is not None:
            findings = verdict.evidence[by].findings or ()
            picture = drawn(images.load(source, self.reading).rgb, findings, self.things, self.told_of(by))
            return picture if side is None else smaller(picture, side)
        found = verdict.evidence.get("edge")
        if found is None or found.map is None or self.heat is None:
            return None
        rgb = images.load(source, self.reading).rgb
        return overlay(rgb if side is None else smaller(rgb, side), found.map, *self.heat)

    def _load(self, source: Source) -> images.Loaded | Verdict:
        images.check_source(source)
        try:
            return images.load(source, self.reading)
        except DataError as error:
            return Verdict("unreadable", "rule", str(error))

    def _batch(self, given: Sequence[images.Loaded | Verdict]) -> list[Verdict]:
        loaded = [one for one in given if isinstance(one, images.Loaded)]
        judged = iter(self._judge(loaded))
        return [one if isinstance(one, Verdict) else next(judged) for one in given]

    def _judge(self, loaded: Sequence[images.Loaded]) -> list[Verdict]:
        """Edge, then the policy's first step, then VLM and second step on what is left."""
        first = each(self._from_edge, loaded, self._no_edge)
        verdicts, waiting = [verdict for verdict, _ in first], [i for i, (_, asks) in enumerate(first) if asks]
        pixels = [loaded[i].rgb for i in waiting]
        if self.vlm is None:
            for i in waiting:
                verdicts[i] = self._by_rule(verdicts[i], self.no_vlm)
        elif waiting:
            for i, (found, ms) in zip(waiting, each(self._ask_vlm, pixels, _failed), strict=True):
                verdicts[i] = self._from_vlm(verdicts[i], found, ms)
        return verdicts

    def _from_edge(self, loaded: Sequence[images.Loaded]) -> list[tuple[Verdict, bool]]:
        """What the edge's step says of each image, and whether the VLM is to be asked."""
        begin = perf_counter()
        found = self.edge.predict([image.rgb for image in loaded])
        ms = {"edge": (perf_counter() - begin) * 1000 / len(loaded)}
        begin = perf_counter()
        gate = [complexity(image.rgb) for image in loaded] if self.policy.needs_complexity else None
        severity = np.array([one.severity for one in found], np.float64)
        named = [one.probabilities for one in found]
        routes = self.policy.first(severity, None if None in named else np.array(named, np.float64), gate)
        spent = {**ms, "policy": (perf_counter() - begin) * 1000 / len(loaded)}
        verdicts = [
            Verdict("undecided", "edge", str(reason), evidence={"edge": one}, notes=image.notes, ms=spent)
            for image, one, reason in zip(loaded, found, routes.reasons, strict=True)
        ]
        return [
            (verdict if code == ASK else self._said(verdict, int(code), "edge", one, one.severity), bool(code == ASK))
            for verdict, one, code in zip(verdicts, found, routes.codes, strict=True)
        ]

    def _no_edge(self, image: images.Loaded, error: Exception) -> tuple[Verdict, bool]:
        """The verdict of an image at which the edge failed: the VLM is for what the edge is not sure of."""
        found, _ = _failed(image.rgb, error)
        verdict = Verdict("undecided", "edge", "the edge gave no answer", evidence={"edge": found}, notes=image.notes)
        return self._by_rule(verdict, str(found.unreadable)), False

    def _ask_vlm(self, pixels: Sequence[images.Rgb]) -> list[tuple[Prediction, float]]:
        assert self.vlm is not None
        begin = perf_counter()
        found = self.vlm.predict(pixels)
        ms = (perf_counter() - begin) * 1000 / len(pixels)
        return [(one, ms) for one in found]

    def _from_vlm(self, verdict: Verdict, found: Prediction, ms: float) -> Verdict:
        asked = replace(verdict, evidence={**verdict.evidence, "vlm": found}, ms={**verdict.ms, "vlm": ms})
        own = verdict.severity_of("edge")
        if found.severity is None or own is None:
            return self._by_rule(asked, f"the VLM gave no answer: {found.unreadable}")
        routes, severity = self.policy.second([own], [found.severity]), self.policy.severity([own], [found.severity])
        told = replace(asked, reason=f"{verdict.reason}; {routes.reasons[0]}")
        return self._said(told, int(routes.codes[0]), self.policy.decider, found, float(severity[0]))

    def _said(self, verdict: Verdict, code: int, by: DecidedBy, found: Prediction, severity: float | None) -> Verdict:
        """The verdict once `by` has decided, with the class that `found` names of that side; else the rule's."""
        if code not in _LABELS:
            return self._by_rule(replace(verdict, severity=severity))
        task = self.task if by == "edge" or self.vlm is None else self.vlm.task
        name, p = found.likeliest(task, _LABELS[code]) or (None, None)
        return replace(verdict, label=_LABELS[code], decided_by=by, severity=severity, class_name=name, p_class=p)

    def _by_rule(self, verdict: Verdict, why: str = "") -> Verdict:
        """What becomes of a part that nobody may decide."""
        reason = f"{verdict.reason}; {why}" if why else verdict.reason
        severity = verdict.severity if verdict.severity is not None else verdict.severity_of("edge")
        held = replace(verdict, decided_by="rule", reason=reason, severity=severity)
        if self.fallback == "hold":
            return held
        return replace(held, label=_LABELS[FALLBACK_CODES[self.fallback]], reason=f"{reason}; fallback {self.fallback}")


def _failed(image: images.Rgb, error: Exception) -> tuple[Prediction, float]:
    """The answer of a model that failed at an image, and the time that it does not count."""
    return Prediction(None, unreadable=reason(error)), 0.0


def load_policies(cascade: Path) -> dict[str, Policy]:
    """Every policy of a cascade folder, by name."""
    return {name: policy_from_dict(stated) for name, stated in hub.read_cascade(cascade)["policies"].items()}


def _heat_of(stated: dict[str, Any], folder: Path) -> tuple[float, float] | None:
    """From where to where a cascade's maps are drawn, where its edge has any."""
    heat = stated.get("maps")
    if heat is None:
        return None
    try:
        return float(heat["low"]), float(heat["high"])
    except (TypeError, KeyError, ValueError):
        raise DataError(
            f"{folder / CASCADE}: its maps are drawn from {heat!r}; run 'hf-inspect calibrate' again."
        ) from None


class _Remote(NamedTuple):
    """The address of a VLM's server, if that is where it is, and how it is asked."""

    url: str | None
    deadline: float | None
    jpeg: int | None


def _load_vlm(folder: Path, stated: dict[str, Any], remote: _Remote, edge: Engine) -> tuple[Predictor | None, str]:
    """The VLM that cascade.json names, here or at a server, or None and the reason why there is none."""
    if remote.url is None and (remote.deadline, remote.jpeg) != (None, None):
        raise DataError("A deadline and JPEG are of a VLM's server; give its address too, as vlm.")
    if remote.url is not None:
        return _connected(folder, stated, remote, remote.url, edge), ""
    if stated["vlm"] is None:
        return None, "this cascade has no VLM"
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        return None, f"no VLM here ({', '.join(missing)} not installed: pip install 'hf-inspect[train]')"
    from hf_inspect.vlm import load_of_cascade

    return load_of_cascade(folder, stated), ""


def _connected(folder: Path, stated: dict[str, Any], remote: _Remote, url: str, edge: Engine) -> Predictor:
    """The cascade's VLM at a server, which is the one that cascade.json states, or is not asked."""
    from hf_inspect.vlm.identity import SERVER, Wanted
    from hf_inspect.vlm.openai import KIND, SCHEME, OpenAIVLM
    from hf_inspect.vlm.remote import RemoteVLM
    from hf_inspect.vlm.wire import DEADLINE

    if stated["vlm"] is None:
        raise DataError(f"{folder} has no VLM, and {url} was given for one; calibrate with a VLM, or leave it out.")
    deadline = DEADLINE if remote.deadline is None else remote.deadline
    states = stated["vlm"].get("states", {"kind": SERVER})
    if states.get("kind") == KIND:
        if remote.jpeg is not None:
            raise DataError(f"{url} is sent images as they are; leave the JPEG quality out.")
        return OpenAIVLM.awaited(url, states, deadline=deadline)
    if url.startswith(SCHEME):
        raise DataError(
            f"{folder} was not calibrated with the model of such a server; give that of 'hf-inspect serve'."
        )
    task = TaskSpec.from_dict(stated.get("vlm_task", stated["task"]), folder)
    own = (states.get(key) for key in ("fingerprint", "guide", "told"))
    wanted = Wanted(stated["files"], task, edge.reading, *own)
    return RemoteVLM.connect(url, wanted, deadline=deadline, jpeg=remote.jpeg, wait=True)

"""A cascade folder -> `Inspector`, and an image -> its verdict. Works without torch where the edge alone decides."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hf_inspect import files, hub, images
from hf_inspect.calibrate import CASCADE
from hf_inspect.cascade import Policy, complexity, policy_from_dict
from hf_inspect.cascade.replay import FALLBACK_CODES, Fallback
from hf_inspect.errors import DataError
from hf_inspect.runtime import Engine
from hf_inspect.schema import Scorer, Verdict, VerdictLabel

Source = str | Path | bytes
_AT_ONCE = 16  # images a batch: what keeps both models busy and memory small


@dataclass
class Inspector:
    """The whole cascade: edge engine, policy, and the VLM if there is one at hand.

    `no_vlm` says why there is none. `fallback` is what becomes of parts that nobody could decide: `hold` leaves
    them `undecided`, `reject` makes them `defect`, `pass` makes them `good`.
    """

    edge: Engine
    policy: Policy
    vlm: Scorer | None = None
    no_vlm: str = "no VLM at hand"
    fallback: Fallback = "hold"
    max_pixels: int = images.MAX_PIXELS
    identity: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACK_CODES:
            raise DataError(f"fallback is {self.fallback!r}; choose {', '.join(FALLBACK_CODES)}.")

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

        `revision` is the repository's branch, tag or commit; HubError when it cannot be had. `policy` picks another
        of its policies by name. Without transformers, or with `use_vlm` off, what the edge cannot decide is left to
        `fallback`.
        """
        folder = folder_of(cascade, revision)
        stated = files.read_json(folder / CASCADE)
        name = policy or stated["policy"]
        if name not in stated["policies"]:
            raise DataError(f"{folder} has no policy {name!r}; it has {', '.join(stated['policies'])}.")
        vlm, why = _load_vlm(folder, stated["vlm"]) if use_vlm else (None, "the VLM is switched off")
        return cls(
            edge=Engine.from_pretrained(resolve(folder, stated["edge"])),
            policy=policy_from_dict(stated["policies"][name]),
            vlm=vlm,
            no_vlm=why,
            fallback=fallback,
            max_pixels=max_pixels,
            identity=f"cascade {files.sha256(folder / CASCADE)[:16]}, {name}, {fallback}, {'VLM' if vlm else 'no VLM'}",
        )

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
        p_edge = self.edge.predict(pixels)
        ms = {"edge": (perf_counter() - begin) * 1000 / len(pixels)}
        verdicts = [self._from_edge(*pair, ms=ms) for pair in zip(loaded, p_edge.tolist(), strict=True)]
        escalated = [i for i, verdict in enumerate(verdicts) if verdict.label == "undecided"]
        if escalated and self.vlm is None:
            for i in escalated:
                verdicts[i] = self._by_rule(verdicts[i])
        elif escalated:
            for i, verdict in zip(escalated, self._ask_vlm(pixels, verdicts, escalated), strict=True):
                verdicts[i] = verdict
        return verdicts

    def _from_edge(self, image: images.Loaded, p: float, ms: dict[str, float]) -> Verdict:
        begin = perf_counter()
        route = self.policy.route(p, complexity(image.rgb) if self.policy.needs_complexity else None)
        ms = ms | {"policy": (perf_counter() - begin) * 1000}
        decided = p if route.label else None
        return Verdict(route.label or "undecided", "edge", route.reason, decided, p_edge=p, notes=image.notes, ms=ms)

    def _ask_vlm(self, pixels: list[Any], verdicts: list[Verdict], escalated: list[int]) -> list[Verdict]:
        assert self.vlm is not None
        begin = perf_counter()
        p_vlm = np.asarray(self.vlm.p_defect([pixels[i] for i in escalated]))
        ms = (perf_counter() - begin) * 1000 / len(escalated)
        return [self._from_vlm(verdicts[i], p, ms) for i, p in zip(escalated, p_vlm.tolist(), strict=True)]

    def _from_vlm(self, verdict: Verdict, p: float, ms: float) -> Verdict:
        label: VerdictLabel = "defect" if p >= self.policy.cloud_threshold else "good"
        return replace(verdict, label=label, decided_by="vlm", p_defect=p, p_vlm=p, ms={**verdict.ms, "vlm": ms})

    def _by_rule(self, verdict: Verdict) -> Verdict:
        """What becomes of an escalated part without a VLM."""
        reason = f"{verdict.reason}; {self.no_vlm}"
        if self.fallback == "hold":
            return replace(verdict, decided_by="rule", reason=reason)
        label: VerdictLabel = "defect" if FALLBACK_CODES[self.fallback] else "good"
        reason = f"{reason}; fallback {self.fallback}"
        return replace(verdict, label=label, decided_by="rule", reason=reason, p_defect=verdict.p_edge)


def folder_of(cascade: str | Path, revision: str | None = None) -> Path:
    """Where the cascade's files lie; a repository's are pulled."""
    if hub.is_repository(cascade):
        return hub.pull(str(cascade), revision)
    if revision is not None:
        raise DataError(f"{cascade} is a folder, which has no revision {revision!r}; leave it out.")
    return Path(cascade)


def load_policies(cascade: Path) -> dict[str, Policy]:
    """Every policy of a cascade folder, by name."""
    return {name: policy_from_dict(stated) for name, stated in files.read_json(cascade / CASCADE)["policies"].items()}


def _load_vlm(folder: Path, stated: dict[str, str] | None) -> tuple[Scorer | None, str]:
    """The VLM that cascade.json names, or None and the reason why there is none."""
    if stated is None:
        return None, "this cascade has no VLM"
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        return None, f"no VLM here ({', '.join(missing)} not installed: pip install 'hf-inspect[train]')"
    from hf_inspect.vlm import VLM

    return VLM.from_pretrained(resolve(folder, stated["base"]), resolve(folder, stated["adapter"])), ""


def resolve(folder: Path, part: str) -> str | Path:
    """A part as cascade.json names it: a path relative to `folder` when that exists, else as it stands.

    `org/name@commit` is pulled at that commit; a warning says so when the repository has moved on since.
    """
    if (folder / part).exists():
        return folder / part
    return hub.pull_pinned(part) if hub.is_pinned(part) else part

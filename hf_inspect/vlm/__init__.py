"""A vision-language model that answers one closed question about an image by ranking the options."""

from hf_inspect.vlm.asking import Asking
from hf_inspect.vlm.base import demo_base
from hf_inspect.vlm.model import VLM
from hf_inspect.vlm.scripted import ScriptedVLM

__all__ = ["VLM", "Asking", "ScriptedVLM", "demo_base"]

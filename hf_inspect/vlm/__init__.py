"""Vision-language models: one ranks the options of a closed question, one says where things are."""

from hf_inspect.vlm.asking import Asking
from hf_inspect.vlm.base import demo_base
from hf_inspect.vlm.grounded import GroundedVLM, load, load_of_cascade
from hf_inspect.vlm.model import VLM
from hf_inspect.vlm.scripted import ScriptedVLM

__all__ = ["VLM", "Asking", "GroundedVLM", "ScriptedVLM", "demo_base", "load", "load_of_cascade"]

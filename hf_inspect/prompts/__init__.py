"""Questions and their answers as chat messages, and back: closed ones about an image, and open ones about where things
are. Training and inference render them here, and nowhere else.
"""

from hf_inspect.prompts.boxes import FRAMES, PIXELS, THOUSANDTHS, Named, View, render_answer
from hf_inspect.prompts.closed import (
    CANONICAL_SIZE,
    SOLAR_CELL,
    Message,
    Question,
    canonical,
    parse,
    render,
)
from hf_inspect.prompts.fingerprints import collapse, fingerprint, text_diff
from hf_inspect.prompts.grounded import LANGUAGES, Grounding, Told, canonical_turns, ground
from hf_inspect.prompts.reading import Answer, Said, read_answer

__all__ = [
    "CANONICAL_SIZE",
    "FRAMES",
    "LANGUAGES",
    "PIXELS",
    "SOLAR_CELL",
    "THOUSANDTHS",
    "Answer",
    "Grounding",
    "Message",
    "Named",
    "Question",
    "Said",
    "Told",
    "View",
    "canonical",
    "canonical_turns",
    "collapse",
    "fingerprint",
    "ground",
    "parse",
    "read_answer",
    "render",
    "render_answer",
    "text_diff",
]

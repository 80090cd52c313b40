"""Industrial inspection on the Hugging Face stack: edge students, VLM adapters and a cascade with a stated risk."""

import sys
from importlib import import_module
from typing import Any

# `import openvino` reports itself to Google Analytics unless this package of its is missing; a plant's box must not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_HOME = {
    "Inspector": "hf_inspect.inspector",
    "Engine": "hf_inspect.runtime",
    "Verdict": "hf_inspect.schema",
    "InspectError": "hf_inspect.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import hf_inspect` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'hf_inspect' has no attribute {name!r}; it exports {', '.join(__all__)}.")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__

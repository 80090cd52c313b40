"""Where the `evaluate` modules lie: `evaluate.load(metrics.module("escape_rate"))`. Nothing here imports them."""

from pathlib import Path

from hf_inspect.errors import DataError

_MODULES = Path(__file__).parent / "modules"


def module(name: str) -> str:
    """The folder of `escape_rate`, `overkill_rate` or `auroc`, for `evaluate.load`; DataError for another name.

    Each holds one file that needs numpy, scipy and evaluate, and works as well where it is copied to.
    """
    known = sorted(path.stem for path in _MODULES.glob("*/*.py"))
    if name not in known:
        raise DataError(f"no metric {name!r}; there are {', '.join(known)}.")
    return str(_MODULES / name)

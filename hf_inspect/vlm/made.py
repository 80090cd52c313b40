"""A base that this machine makes -> its folder in the cache; the same bytes whatever the libraries' patch versions."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files
from hf_inspect.data import cache_folder, write_history
from hf_inspect.schema import History
from hf_inspect.vlm.fast_vlm import SEED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Parts = tuple["PreTrainedModel", "ProcessorMixin"]
FORMAT = 2  # of what is written: the cache may hold folders of an older one, which are left alone
_OF_THE_LIBRARY = ("transformers_version",)  # what a JSON file says of who wrote it


def made(name: str, out: Path | None, parts: Callable[[], Parts], history: History) -> Path:
    """The folder of the base `name`: `out` (default: of the cache), where `parts` are saved unless they are there.

    What is random in `parts` comes from a fixed seed, and nothing from the caller's random state. `history` is what
    they have seen, None where that is not known.
    """
    out = out or cache_folder() / f"{name}-{FORMAT}"
    if (out / "config.json").exists():
        return out
    import torch

    with torch.random.fork_rng(devices=[]), files.staged_folder(out) as stage:
        torch.manual_seed(SEED)
        for part in parts():
            part.save_pretrained(stage)
        for path in sorted(stage.glob("*.json")):
            files.write_json(path, _without(files.read_json(path)))
        write_history(stage, history)
    return out


def _without(value: Any) -> Any:
    """A JSON value without what names the library's version, at any depth."""
    if isinstance(value, list):
        return [_without(one) for one in value]
    if isinstance(value, dict):
        return {key: _without(one) for key, one in value.items() if key not in _OF_THE_LIBRARY}
    return value

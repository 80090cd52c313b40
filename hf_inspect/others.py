"""What other libraries do to a process unasked: their notes kept from the reader, their changes of it undone."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_LOUD = ("transformers", "bitsandbytes", "datasets", "nncf", "optimum", "kernels")  # loggers: errors alone are heard
_OUTDATED = (r"torch\.jit", r"torch\.onnx")  # modules that warn whoever calls them of their own end
_PIN_MEMORY = r"'pin_memory' argument is set as true but no accelerator is found"

_CHANGED = (  # by whom: a test finds what a library changes, and fails where it does not stand here
    ("torch", "save"),  # Ultralytics
    ("PIL.Image", "open"),  # Ultralytics
    ("logging", "_loggerClass"),  # NNCF
)


def quieten() -> None:
    """Keep other libraries' notes, and their bars where standard error is no terminal, out of what a person reads.

    Their errors stay. Call it before they are imported where that can be; what the environment says is left as it is.
    """
    settings = {"TRANSFORMERS_VERBOSITY": "error", "BITSANDBYTES_NOWELCOME": "1"}
    if not sys.stderr.isatty():
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    _tell_loaded(bars=sys.stderr.isatty())
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in _OUTDATED:
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    warnings.filterwarnings("ignore", message=_PIN_MEMORY)


def _tell_loaded(bars: bool) -> None:
    """What the environment says to a library that is not imported yet, said to those that are."""
    transformers, datasets = sys.modules.get("transformers"), sys.modules.get("datasets")
    if transformers is not None:
        transformers.logging.set_verbosity_error()
    if not bars and transformers is not None:
        transformers.logging.disable_progress_bar()
    if not bars and datasets is not None:
        datasets.disable_progress_bars()


@contextmanager
def left_alone() -> Iterator[None]:
    """Import a library within it that changes others' globals as it comes: afterwards they are as they were.

    Environment variables that are set within are taken back, those that were there are not watched.
    """
    import cv2
    import numpy as np

    holders = [(import_module(module), name) for module, name in _CHANGED]
    before = [(holder, name, getattr(holder, name)) for holder, name in holders]
    variables, threads, printing = set(os.environ), cv2.getNumThreads(), np.get_printoptions()
    try:
        with warnings.catch_warnings():  # Ultralytics adds filters
            yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
        for name in set(os.environ) - variables:  # OMP_NUM_THREADS, say
            del os.environ[name]
        cv2.setNumThreads(threads)
        np.set_printoptions(**printing)

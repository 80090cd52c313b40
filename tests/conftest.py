"""Set before any library reads it: no hub, no telemetry, one thread (the machine is shared)."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "TRACKIO_DISABLE": "1",
}

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def elpv(tmp_path_factory) -> Path:
    """The built ELPV data set, made once a session."""
    from hf_inspect.data import build

    folder = tmp_path_factory.mktemp("data") / "elpv"
    build("elpv", folder, accept_license=True)
    return folder


def png(array: np.ndarray) -> bytes:
    """A grey or RGB uint8 array as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()

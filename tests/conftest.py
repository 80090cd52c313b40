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


@pytest.fixture(scope="session", autouse=True)
def no_licence_is_accepted_for_the_user(tmp_path_factory):
    """Acceptances of the tests are kept apart from those of whoever runs them."""
    kept = tmp_path_factory.mktemp("licences")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_inspect.data.licence.cache_folder", lambda: kept)
        yield


@pytest.fixture(scope="session")
def elpv(tmp_path_factory) -> Path:
    """The built ELPV data set, made once a session."""
    from hf_inspect.data import build

    folder = tmp_path_factory.mktemp("data") / "elpv"
    build("elpv", folder, accept_license=True)
    return folder


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real images beside the checkout: `wagon` and `mvtec_ad`."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}")
    return folder


def png(array: np.ndarray) -> bytes:
    """A grey or RGB uint8 array as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def picture(seed: int, side: int = 96) -> np.ndarray:
    """A smooth random grey picture: what a perceptual hash is made for."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def jpeg(array: np.ndarray, quality: int) -> bytes:
    """A grey or RGB uint8 array as JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "jpeg", quality=quality)
    return buffer.getvalue()

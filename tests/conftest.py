"""Set before any library reads it: no hub, no telemetry, one thread (the machine is shared), an own cache."""

import atexit
import os
import shutil
import tempfile

if "HF_DATASETS_CACHE" not in os.environ:  # one for all the processes of a run, and not that of whoever runs it
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
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
from hypothesis import settings
from PIL import Image

settings.register_profile("unhurried", deadline=None)  # a loaded machine is no failure
settings.load_profile("unhurried")

LONG = ("recipe", "bundle", "space", "yolo", "cards")  # what a file's name holds that takes a minute or so


def pytest_collection_modifyitems(items):
    """Long files first, so that none is left to run alone at the end."""
    items.sort(key=lambda item: not any(word in item.path.name for word in LONG))


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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback that this process and its children talk to, with an empty cache and a token that may write."""
    from huggingface_hub import constants

    from tests.hub import TOKEN, serve

    home = tmp_path / "huggingface"
    with serve() as server:
        values = {
            "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        read_at_import = {
            "ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
        }  # fmt: skip
        for name, value in read_at_import.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.endpoint)
        yield server


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

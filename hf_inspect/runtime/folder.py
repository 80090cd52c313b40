"""An exported folder -> its inspect.json, with every file it names found and checked by SHA-256."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.errors import DataError, ParityError
from hf_inspect.schema import TaskSpec

INSPECT = "inspect.json"
MODEL = "openvino_model.xml"  # Optimum's name, so that its classes open the folder as well
TRAINED_ON = "trained_on.json"
OPENVINO, ONNX_RUNTIME = "openvino", "onnxruntime"  # what runs a network; the names of their modules
TITLES = {OPENVINO: "OpenVINO", ONNX_RUNTIME: "ONNX Runtime"}
NETWORKS = {OPENVINO: MODEL, ONNX_RUNTIME: "model.onnx"}  # what runs it -> the file that it is in
FORMAT = 2  # of inspect.json; a reader refuses another
PRECISION = "f32"  # OpenVINO's own choice is bf16 on some processors, which moves logits by 0.03 to 0.08
_KEYS = ("task", "preprocess", "precision", "files")


def read_folder(folder: Path) -> dict[str, Any]:
    """inspect.json of an exported folder.

    Raises DataError when it or a file it names is missing or unknown, ParityError when a file's content has changed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one that 'hf-inspect export' wrote.")
    info = files.read_json(folder / INSPECT)
    _check(info, folder / INSPECT)
    for name, written in info["files"].items():
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{folder / name}, named in {INSPECT}, is missing; export the student again.")
        if files.sha256(folder / name) != written:
            raise ParityError(f"{folder / name} is not the file that {INSPECT} describes; export the student again.")
    return info


def runtime_of(info: Mapping[str, Any]) -> str:
    """What runs the network of an exported folder: inspect.json's `runtime`, OpenVINO where it names none."""
    return str(info.get("runtime", OPENVINO))


def _check(info: Any, path: Path) -> None:
    """Raise DataError unless this version of the package can run what `info` states."""
    if not isinstance(info, Mapping) or info.get("format") != FORMAT:
        came = info.get("format") if isinstance(info, Mapping) else None
        raise DataError(f"{path} has format {came!r}; this version reads {FORMAT!r}. Export the student again.")
    if any(key not in info for key in _KEYS):
        raise DataError(f"{path} lacks one of {', '.join(_KEYS)}; export the student again.")
    if info["precision"] != PRECISION:
        raise DataError(f"{path} has precision {info['precision']!r}, wanted {PRECISION!r}; export the student again.")
    TaskSpec.from_dict(info["task"], path)
    if (runtime := runtime_of(info)) not in NETWORKS:
        known = " and ".join(NETWORKS)
        raise DataError(f"{path} is for {runtime!r}; this version runs {known}. Export the model again.")
    network = NETWORKS[runtime]
    if not isinstance(info["files"], Mapping) or not {network, TRAINED_ON} <= set(info["files"]):
        raise DataError(f"{path} names no SHA-256 of {network} and {TRAINED_ON}; export the student again.")

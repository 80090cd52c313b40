"""Other libraries, imported by us: they change nothing of each other's and of the process, and say nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_inspect.console import Steps
from hf_inspect.others import left_alone

ROOT = Path(__file__).parents[1]
WATCH = """
import logging, os, signal, subprocess, sys, warnings
import cv2, numpy, torch, PIL.Image, transformers, datasets, timm, openvino, torch._dynamo

import hf_inspect.students, hf_inspect.export
OURS = {"YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_VERBOSE", "YOLO_CONFIG_DIR"}  # what we tell Ultralytics

def held():
    # every function and class in every module, and those right in the classes
    found = {}
    for module, inside in list(sys.modules.items()):
        for name, value in list(getattr(inside, "__dict__", {}).items()):
            if isinstance(value, type):
                found |= {(module, f"{name}.{k}"): v for k, v in list(vars(value).items()) if callable(v)}
            if callable(value):
                found[module, name] = value
    return found

def process():
    return {
        "environment": sorted(set(os.environ) - OURS), "filters": list(warnings.filters), "excepthook": sys.excepthook,
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], "path": list(sys.path),
        "logging": (logging.root.level, list(logging.root.handlers), logging.raiseExceptions, logging.getLoggerClass()),
        "cv2": cv2.getNumThreads(), "numpy": numpy.get_printoptions(), "torch": torch.get_default_dtype(),
    }

def owner(value):
    return str(getattr(value, "__module__", "")).split(".")[0]

before, then = held(), process()
{imported}
after, now = held(), process()
changed = []
for (module, name), value in before.items():
    new = after.get((module, name), value)
    if new is not value and owner(new) not in (module.split(".")[0], ""):
        changed.append((module, name))
for name, value in then.items():
    if value != now[name]:
        changed.append((name, [one for one in now[name] if one not in value] if name == "filters" else now[name]))
print(changed)
"""
YOLO = "from hf_inspect.schema import BINARY; hf_inspect.students.new_student('yolo11n-cls', 64, BINARY)"
NNCF = "from hf_inspect.export import int8; int8._nncf()"


def watched(imported: str, tmp_path: Path) -> str:
    """What changed in a process by running `imported`, as a list to read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO_", "OMP_"))}
    kept |= {"HF_INSPECT_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = WATCH.replace("{imported}", imported)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_what_we_import_changes_nothing_of_others(tmp_path):
    assert watched(f"{YOLO}; {NNCF}", tmp_path) == "[]"


def test_the_watch_sees_what_ultralytics_does_alone(tmp_path):
    """The same watch, on the library by itself: were it blind, the test above would prove nothing."""
    settings = f"import os; os.environ |= {{'YOLO_OFFLINE': 'true', 'YOLO_CONFIG_DIR': {str(tmp_path)!r}}}"
    said = watched(f"{settings}; import ultralytics", tmp_path)
    assert "('PIL.Image', 'open')" in said
    assert "('torch', 'save')" in said


def spoil():
    """Change what a library would, and fail."""
    from PIL import Image

    with left_alone():
        Image.open = None
        os.environ["OF_A_LIBRARY"] = "1"
        raise ImportError


def test_a_failed_import_leaves_things_alone_too():
    from PIL import Image

    opened = Image.open
    with pytest.raises(ImportError):
        spoil()
    assert Image.open is opened
    assert "OF_A_LIBRARY" not in os.environ


def test_steps_say_what_is_done_what_came_out_and_how_long_it_took():
    lines = []
    steps = Steps(12, lines.append)
    with steps.step("first") as came:
        assert lines == ["[1/12] first"]  # said as it begins
        came("a thing")
        came("and another")
    with steps.step("second"):
        pass
    assert lines == ["[1/12] first", "       a thing", "       and another (0 s)", "[2/12] second", "       done (0 s)"]


def test_an_export_by_the_command_says_what_it_did_and_nothing_else(tmp_path):
    """Optimum, torch, timm and transformers each have a note on it."""
    code = f"""
import sys
from hf_inspect.others import quieten
quieten()
from pathlib import Path
from hf_inspect.schema import BINARY
from hf_inspect.students import load_student, new_student
from hf_inspect.data import write_history
from hf_inspect.schema import History
from hf_inspect.export.openvino import write_fp32
folder = Path({str(tmp_path)!r}) / "student"
model = new_student("random:test_efficientnet", 32, BINARY)
model.save_pretrained(folder)
write_history(folder, History())
write_fp32(load_student(folder), Path({str(tmp_path)!r}) / "out")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out" / "openvino_model.xml").is_file()

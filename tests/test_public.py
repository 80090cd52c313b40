"""What `import hf_inspect` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import hf_inspect


def test_every_public_name_is_there():
    assert hf_inspect.__all__ == sorted(["Engine", "InspectError", "Inspector", "Verdict"])
    for name in hf_inspect.__all__:
        assert getattr(hf_inspect, name).__name__ == name
    with pytest.raises(AttributeError, match="it exports Engine"):
        hf_inspect.Nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, hf_inspect; print(sorted(m for m in sys.modules if m in {'torch', 'numpy', 'scipy', 'PIL'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["hub", "inspector", "bundle", "predict", "cli", "data", "runtime", "cascade"])
def test_modules_of_the_edge_box_need_no_torch(name):
    heavy = "{'torch', 'transformers', 'datasets', 'timm', 'peft', 'matplotlib', 'scipy.stats'}"
    code = f"import sys, hf_inspect.{name}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_students_know_their_yolo_and_leave_ultralytics_alone():
    code = "import sys, hf_inspect.students; print(sorted({'transformers', 'ultralytics', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['transformers']\n"


@pytest.mark.parametrize(
    "package",
    ["anomaly", "cascade", "data", "export", "hub", "metrics", "reports", "runtime", "tasks", "teachers", "vlm"],
)
def test_every_package_lists_what_it_offers(package):
    module = importlib.import_module(f"hf_inspect.{package}")
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_help_names_every_verb():
    done = subprocess.run([sys.executable, "-m", "hf_inspect.cli", "--help"], capture_output=True, text=True)
    for verb in ("data", "demo-base", "export", "calibrate", "predict", "eval", "card", "push", "bundle", "demo"):
        assert verb in done.stdout

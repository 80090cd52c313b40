"""Imports run leftwards only: the order of the package's modules is the architecture."""

import ast
from pathlib import Path

import pytest

import hf_inspect

PACKAGE = Path(hf_inspect.__file__).parent
ORDER = [
    "errors", "others", "faults", "console", "reading", "schema", "prefetch", "files", "pixels", "images",
    "metrics", "tasks", "runtime",
    "cascade",
    "prompts", "data", "hub", "training", "vlm", "teachers", "students", "detectors", "anomaly", "export", "scoring",
    "calibrate", "inspector", "bundle", "maps", "sources", "cocos", "predict", "reports", "plan", "demo", "cli_eval",
    "cli_data", "cli",
]  # fmt: skip
EDGE = ORDER[: ORDER.index("prompts")]
BUILDER = (
    "data/builder.py"  # a base class of `datasets`' own: data sets' scripts import it, and nothing else at its top
)
YOLO = "students/yolo.py"  # a `PreTrainedModel`, which transformers must know as soon as hf_inspect.students does
ANOMALY = "anomaly/model.py"  # a `PreTrainedModel`: imported where one is fitted or loaded
HEAD = "vlm/head.py"  # a `nn.Module`: imported where a detection head is trained or loaded
TRAINER = "vlm/trainer.py"  # a subclass of TRL's own: the recipe imports it, and nothing else
HEAVY = {"torch", "transformers", "datasets", "timm", "peft", "trl", "accelerate", "optimum", "nncf", "ultralytics"}
PRETEXT = {f"anomaly/{name}.py": {"torch", "torchvision", "transformers"} for name in ("cutpaste", "pretext", "tuning")}
DETECTORS = {
    f"detectors/{name}.py": {"torch", "transformers"} for name in ("fcos", "prototypes", "widths", "yolo")
}  # a `PreTrainedModel`
AT_TOP = {
    BUILDER: {"datasets"}, YOLO: {"torch", "transformers"}, ANOMALY: {"torch", "transformers"}, TRAINER: {"trl"},
    HEAD: {"torch", "transformers"}, "vlm/ground_trainer.py": {"torch", "transformers"},
    "teachers/trainer.py": {"transformers"},
    **PRETEXT, **DETECTORS,
}  # fmt: skip


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of a file, and whether the import stands at its top level."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "hf_inspect":
            found += [(f"hf_inspect.{alias.name}", id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module, id(node) in top))
    return found


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ALONE = sorted((PACKAGE / "metrics" / "modules").rglob("*.py"))  # `evaluate` copies and loads them by themselves
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p not in ALONE and (p.parent != PACKAGE or p.name != "__init__.py"))


def test_every_module_has_its_place():
    assert {module_of(path) for path in FILES if "assets" not in path.parts} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_leftwards(path):
    own = ORDER.index(module_of(path))
    for name, _ in imports_of(path):
        if name.startswith("hf_inspect."):
            other = name.split(".")[1]
            assert ORDER.index(other) <= own, f"{path.name} imports {name}, which stands to its right"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_where_they_are_used(path):
    for name, at_top in imports_of(path):
        root = name.split(".")[0]
        assert not (at_top and name == "hf_inspect.data.builder"), f"{path.name} imports the builder at the top"
        if root in HEAVY - AT_TOP.get(str(path.relative_to(PACKAGE)), set()):
            assert not at_top, f"{path.name} imports {name} at the top"
            assert module_of(path) not in EDGE, f"{path.name} runs on the edge box, which has no {root}"


def test_what_evaluate_loads_stands_alone():
    assert len(ALONE) == 3
    for path in ALONE:
        assert {name.split(".")[0] for name, _ in imports_of(path)} == {"datasets", "evaluate", "numpy", "scipy"}
    for path in FILES:
        assert not [name for name, _ in imports_of(path) if "metrics.modules" in name or name == "evaluate"]


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "dataset_scripts").rglob("*.py")), ids=lambda p: p.name)
def test_data_set_scripts_use_data_alone(path):
    used = {name.split(".")[1] for name, _ in imports_of(path) if name.startswith("hf_inspect.")}
    assert used <= {"errors", "schema", "data"}

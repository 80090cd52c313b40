"""Run by `make wheel-check` where the whole wheel is installed: data, recipe, export and the cascade work."""

import subprocess
import sys
from pathlib import Path

from datasets import load_dataset

import hf_inspect

package = Path(hf_inspect.__file__).parent
assert "site-packages" in package.parts, package
binaries = Path(sys.executable).parent


def run(*command: object) -> str:
    """A command's output; it must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


run(binaries / "hf-inspect", "data", "build", "elpv", "--out", "data", "--accept-license")
cells = load_dataset("data", split="test")
recipe = package / "recipes/edge_classifier"
run(
    binaries / "accelerate", "launch", "--cpu", recipe / "train.py", "--config", recipe / "tiny.yaml",
    "--data", "data", "--output_dir", "edge",
)  # fmt: skip
run(binaries / "hf-inspect", "export", "edge", "--calibrate", "data", "--out", "edge-fp32")

cells[0]["image"].save("cell.png")
inspector = hf_inspect.Inspector.from_pretrained(package / "assets/elpv")
verdict = inspector("cell.png")
print(verdict)
assert verdict.label in ("good", "defect")
assert inspector.vlm is not None, inspector.no_vlm

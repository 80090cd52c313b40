"""A Space's folder -> the same with this package's wheel in it, which its requirements.txt installs from the Hub.

A Space is built from requirements.txt before its other files are there, so a relative path would not be found.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_inspect import files
from hf_inspect.errors import HubError

REQUIREMENTS = "requirements.txt"
_OURS = re.compile(r"^hf[-_]inspect(\[[\w,-]+\])?[ \t]*(#.*)?$", re.MULTILINE)  # by name alone, no version or address


@contextmanager
def with_wheel(folder: Path, address: str) -> Iterator[Path]:
    """A copy of a Space's folder with the wheel, and its address in requirements.txt; the folder where none is needed.

    `address` is the Space's own on the Hub. The wheel is the one in the folder, or built from the checkout that this
    package runs from; HubError when there is neither.
    """
    path = folder / REQUIREMENTS
    requirements = path.read_text() if path.is_file() else ""
    if not (ours := _OURS.search(requirements)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as work:
        stage = Path(shutil.copytree(folder, Path(work) / folder.resolve().name))
        wheel = _wheel(stage)
        # the hash makes pip check the file, and a Space's builder see that it has changed
        line = f"hf-inspect{ours[1] or ''} @ {address}/resolve/main/{wheel.name}#sha256={files.sha256(wheel)}"
        (stage / REQUIREMENTS).write_text(requirements[: ours.start()] + line + requirements[ours.end() :])
        yield stage


def _wheel(stage: Path) -> Path:
    """The one wheel of ours in the folder; built into it where there is none."""
    found = list(stage.glob("hf_inspect-*.whl"))
    if len(found) > 1:
        raise HubError(f"{stage.name} holds {len(found)} wheels of hf_inspect; leave one.")
    return found[0] if found else _built(stage)


def _built(out: Path) -> Path:
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():
        raise HubError(f"{out.name} holds no wheel of hf_inspect, and this is no checkout to build one: put it there.")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise HubError(f"The wheel of hf_inspect could not be built ({last}); put one into {out.name}.")
    return next(out.glob("hf_inspect-*.whl"))

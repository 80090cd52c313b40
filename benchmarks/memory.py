"""Whether memory stays flat as a data set grows: the peak of each command on 2,000 and on 20,000 generated images.

python benchmarks/memory.py [--images 2000 20000] [--keep FOLDER]; about twenty minutes on two cores. Each command is
a process of its own. `anonymous` is the peak of RssAnon, of the process and its children, sampled every 50 ms: what is
held. `resident` is ru_maxrss, which counts pages of memory-mapped files too, of the libraries and of Arrow's tables.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
SIDE = 64
COARSE = 12  # pixels that a picture is drawn from: more than a pHash of 16 x 16 needs to tell 20,000 apart
EVERY = 0.05  # seconds between two samples
MOST = 1.15  # the larger set's peak against the smaller one's
STEPS = ["--max_steps", "2", "--report_to", "none"]
EDGE = """
data: x
base: random:test_efficientnet
side: 32
num_train_epochs: 1
per_device_train_batch_size: 16
per_device_eval_batch_size: 32
eval_strategy: epoch
save_strategy: epoch
load_best_model_at_end: true
metric_for_best_model: auroc
"""


@dataclass(frozen=True)
class Peak:
    """Of one command: MB held, MB resident, seconds."""

    anonymous: float
    resident: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=(2_000, 20_000), metavar=("FEW", "MANY"))
    parser.add_argument("--keep", type=Path, help="a new folder to work in, and to leave")
    chosen = parser.parse_args()
    with working_folder(chosen.keep) as work:
        warm_up(work)
        few, many = (peaks_of(work, n) for n in chosen.images)
    report(few, many, *chosen.images)


@contextmanager
def working_folder(keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True)  # a new one: what is there already would be gone on from
        yield keep.resolve()
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)


def peaks_of(work: Path, n: int) -> dict[str, Peak]:
    """The peak of each command on a data set of n images."""
    folder = work / str(n)
    generate(folder / "raw", n)
    found = {}
    for name, command in commands(folder).items():
        found[name] = peak(command, folder / f"{name.replace(' ', '-')}.log", work)
        print(f"{n:,} images, {name}: {found[name].anonymous:,.0f} MB, {found[name].seconds:.0f} s", flush=True)
    return found


def generate(raw: Path, n: int) -> None:
    """A class folder of good parts and one of dents: smooth random pictures, of which no two look alike."""
    for name in ("good", "dent"):
        (raw / name).mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (COARSE, COARSE, 3), np.uint8))
        path = raw / ("good", "dent")[number % 2] / f"{number:06}.png"
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(n)))


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, in order: each needs what those before it made."""
    parts = ("data", "student", "edge", "adapter", "cascade")
    data, student, edge, adapter, cascade = (folder / name for name in parts)
    (folder / "edge.yaml").write_text(EDGE)
    vlm_yaml = (ROOT / "recipes/vlm_sft/tiny.yaml").read_text()
    (folder / "vlm.yaml").write_text("\n".join(one for one in vlm_yaml.splitlines() if not one.startswith("max_rows")))
    inspect = str(Path(sys.executable).with_name("hf-inspect"))
    of = ["--data", str(data)]
    vlm = ["--base", "tiny-base", "--adapter", str(adapter)]

    def train(recipe: str, config: str, out: Path) -> list[str]:
        script = [sys.executable, str(ROOT / "recipes" / recipe / "train.py"), "--config", str(folder / config)]
        return [*script, *of, "--output_dir", str(out), "--use_cpu", "true", *STEPS]

    def measure(what: str, *given: str) -> list[str]:
        return [inspect, "eval", what, *given, *of, "--out", str(folder / f"{what}.json")]

    return {
        "data build": [
            inspect, "data", "build", "folder", "--src", str(folder / "raw"), "--out", str(data), "--license", "cc0-1.0"
        ],
        "recipe edge_classifier": train("edge_classifier", "edge.yaml", student),
        "export": [inspect, "export", str(student), "--calibrate", str(data), "--out", str(edge)],
        "recipe vlm_sft": train("vlm_sft", "vlm.yaml", adapter),
        "eval edge": measure("edge", str(edge)),
        "eval vlm": measure("vlm", "--model", *vlm[1:]),
        "calibrate": [inspect, "calibrate", "--edge", str(edge), *vlm, *of, "--out", str(cascade)],
        "eval cascade": measure("cascade", str(cascade)),
    }  # fmt: skip


def warm_up(work: Path) -> None:
    """Make the tiny base, which the first command that needs it would make."""
    make = [sys.executable, "-c", "from hf_inspect.vlm.base import base_folder; base_folder('tiny-base')"]
    peak(make, work / "base.log", work)


def peak(command: list[str], log: Path, work: Path) -> Peak:
    """Run a command to its end; SystemExit with the end of what it said where it fails."""
    own = {"HF_INSPECT_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "datasets")}
    begin, most = time.perf_counter(), 0
    with log.open("w") as said:
        run = subprocess.Popen(command, cwd=work, env=os.environ | own, stdout=said, stderr=subprocess.STDOUT)
        while True:
            pid, status, usage = os.wait4(run.pid, os.WNOHANG)
            if pid:
                break
            most = max(most, anonymous(run.pid))
            time.sleep(EVERY)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return Peak(most / 1024, usage.ru_maxrss / 1024, time.perf_counter() - begin)


def anonymous(pid: int) -> int:
    """RssAnon in kB of a process and all below it; 0 for one that has ended."""
    try:
        every = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(anonymous_of, every))


def anonymous_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def report(few: dict[str, Peak], many: dict[str, Peak], n: int, m: int) -> None:
    """A line a command: both peaks, their ratio, and what an image more takes."""
    print(f"\n{'peak in MB':24}{'anonymous':>24}{'ratio':>8}{'KB an image':>13}{'resident':>20}{'ratio':>8}")
    for name, one in few.items():
        other = many[name]
        each = (other.anonymous - one.anonymous) * 1024 / (m - n)
        ratios = other.anonymous / one.anonymous, other.resident / one.resident
        print(
            f"{name:24}{one.anonymous:12,.0f}{other.anonymous:12,.0f}{ratios[0]:8.2f}{each:13.2f}"
            f"{one.resident:10,.0f}{other.resident:10,.0f}{ratios[1]:8.2f}" + ("  MORE" if ratios[0] > MOST else "")
        )


if __name__ == "__main__":
    main()

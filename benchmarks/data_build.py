"""How long and how large a build is: against reading, hashing and decoding its images once, and as they double.
And how fast a history is made and an evaluation checked against it, and its memory at ten times the images.

Images are generated as MVTec AD's are (1024 x 1024, about 1.2 MB as PNG), in a folder that is removed again:
python benchmarks/data_build.py [--images 120] [--hashes 100000] [--threads 2] [--history 2000]
MVTec's test split has 1,725 images. `--history` images are of 128 x 128 pixels; `--only-history` reports of no build,
`--only-hashes` of the grouping alone: of random hashes, and of as many that are solar cells' with some of their bits
the other way round, which share more of their chunks.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_inspect.data.published import MVTEC_CATEGORIES

if TYPE_CHECKING:
    from hf_inspect.data import Signature

SIDE = 1024
SHARES = {"train/good": 0.6, "test/good": 0.2, "test/broken_large": 0.2}
MASKS = "ground_truth/broken_large"
NOISE = 2  # grey levels of a texture's noise: they make a PNG of 1.2 MB
PLANTED = 1000  # near copies among the hashes
BITS = 256  # of a hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--hashes", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--history", type=int, default=2000, help="images of a history, and ten times as many")
    parser.add_argument("--only-history", action="store_true")
    parser.add_argument("--only-hashes", action="store_true")
    parser.add_argument("--only-check", type=Path, metavar="DATA", help="print its seconds and peak memory in MB")
    parser.add_argument("--only-build", nargs=2, type=Path, metavar=("RAW", "OUT"), help="print its peak memory in MB")
    arguments = parser.parse_args()
    if arguments.only_build:
        print(peak_of_build(*arguments.only_build, arguments.threads))
        return
    if arguments.only_check:
        print(*check_once(arguments.only_check))
        return
    if arguments.only_hashes:
        report_groups(arguments.hashes)
        return
    with TemporaryDirectory() as work:
        report_history(Path(work), arguments.history)
    if arguments.only_history:
        return
    with TemporaryDirectory() as work:
        os.environ["HF_INSPECT_CACHE"] = f"{work}/cache"  # where an accepted licence is kept
        whole, half = Path(work, "whole"), Path(work, "half")
        for number, category in enumerate(MVTEC_CATEGORIES):
            generate(whole / category, number, arguments.images // len(MVTEC_CATEGORIES), arguments.threads)
        link_half(whole, half)
        report_memory(half, whole, Path(work), arguments.threads)
        report_time(whole, Path(work), arguments.threads)
    report_groups(arguments.hashes)


def generate(folder: Path, seed: int, n: int, threads: int) -> None:
    """Write n textures, and the masks of the defects, as a category of MVTec AD."""
    noise = np.random.default_rng(0).integers(0, NOISE, (SIDE, SIDE, 3), np.uint8)
    places = [place for place, share in SHARES.items() for _ in range(round(share * n))]

    def write(number: int) -> None:
        name = folder / places[number] / f"{number:04}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng([seed, number]).integers(0, 250, (32, 32, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        texture = Image.fromarray(np.minimum(smooth, 250) + np.roll(noise, 7 * number))
        texture.save(name, compress_level=3)  # at 6, writing takes five times as long
        if "broken" in places[number]:
            mask = Image.new("L", (SIDE, SIDE))
            mask.paste(255, (300, 300, 400, 400))
            (folder / MASKS).mkdir(parents=True, exist_ok=True)
            mask.save(folder / MASKS / f"{number:04}_mask.png")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(places))))


def link_half(whole: Path, half: Path) -> None:
    """Every second image of each folder, and its mask."""
    for folder in sorted({path.parent for path in whole.rglob("*.png")}):
        (half / folder.relative_to(whole)).mkdir(parents=True)
        for path in sorted(folder.glob("*.png"))[::2]:
            os.link(path, half / path.relative_to(whole))


def report_memory(half: Path, whole: Path, work: Path, threads: int) -> None:
    """Peak of a process that builds, by number of images; first, since a child starts at its parent's peak."""
    for raw in (half, whole):
        command = [sys.executable, __file__, "--threads", str(threads), "--only-build", raw, work / f"once_{raw.name}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"build of {len(images_of(raw)):,} images: peak memory {done.stdout.split()[-1]} MB", flush=True)


def peak_of_build(raw: Path, out: Path, threads: int) -> int:
    import resource

    build_once(raw, out, threads)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def report_time(raw: Path, work: Path, threads: int) -> None:
    import datasets  # noqa: F401  # its import is not part of the build

    paths = images_of(raw)
    megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    before = seconds(lambda: read_once(paths, threads))
    built = seconds(lambda: build_once(raw, work / "built", threads))
    once = (before + seconds(lambda: read_once(paths, threads))) / 2
    print(f"{len(paths):,} PNGs of {megabytes:.2f} MB, {threads} threads: read, SHA-256 and decode {once[0]:.1f} s, ")
    print(f"build {built[0]:.1f} s: {built[0] / once[0]:.2f} times that; in CPU seconds {built[1] / once[1]:.2f} times")


def images_of(raw: Path) -> list[Path]:
    return [path for path in sorted(raw.rglob("*.png")) if "ground_truth" not in path.parts]


def read_once(paths: list[Path], threads: int) -> None:
    """Read, SHA-256 and decode every file."""

    def read(path: Path) -> str:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            image.load()
        return hashlib.sha256(content).hexdigest()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, paths))


def build_once(raw: Path, out: Path, threads: int) -> None:
    from hf_inspect.data import build

    build("mvtec_ad", out, src=raw, num_proc=threads, accept_license=True)


def report_groups(n: int) -> None:
    """Seconds to group n hashes, some of them planted up to 16 bits from another: random ones, and some like cells'."""
    from hf_inspect.data import group
    from hf_inspect.data.hashing import ORIENTATIONS, THUMB_BYTES

    rng = np.random.default_rng(0)
    shape = (n, ORIENTATIONS, BITS // 8)
    random = rng.integers(0, 256, shape, np.uint8), rng.integers(0, 256, (n, THUMB_BYTES), np.uint8)
    for kind, (hashes, thumbs) in {"random": random, "cells'": like_cells(n, rng)}.items():
        ones, others = rng.permutation(n)[: 2 * PLANTED].reshape(2, -1)
        hashes[others], thumbs[others] = hashes[ones], thumbs[ones]
        flip(hashes, others, rng)
        signatures = signed(hashes, thumbs)
        group(signatures[:2])  # the import of scipy is not part of it
        groups: list[NDArray[np.int64]] = []
        wall, cpu = seconds(lambda found=groups, these=signatures: found.append(group(these)))
        found = int((groups[0][ones] == groups[0][others]).sum())
        said = f"{n:,} {kind} hashes in {ORIENTATIONS} orientations: grouped in {wall:.1f} s ({cpu:.1f} CPU)"
        print(f"{said}, {found:,} of {len(ones):,} planted copies found", flush=True)


def like_cells(n: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Hashes (n, 8, 32) and thumbnails (n, 256) of solar cells, a tenth of the hashes' bits the other way round."""
    from hf_inspect.data import packaged_folder, sign

    folder = packaged_folder("elpv-dataset", "1.0.0.post1", "elpv_dataset") / "data"
    with ThreadPoolExecutor(2) as pool:
        cells = list(pool.map(lambda path: sign(path.read_bytes()), sorted(folder.rglob("*.png"))))
    of = rng.integers(0, len(cells), n)
    whole = np.frombuffer(b"".join(bytes.fromhex(cell.phash) + cell.turned for cell in cells), np.uint8)
    hashes = whole.reshape(len(cells), -1, BITS // 8)[of]
    for start in range(0, n, 10_000):
        some = hashes[start : start + 10_000]
        some ^= np.packbits(rng.random((len(some), BITS)) < 0.1, axis=1)[:, None]
    return hashes, np.frombuffer(b"".join(cell.thumb for cell in cells), np.uint8).reshape(len(cells), -1)[of]


def flip(hashes: NDArray[np.uint8], of: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Turn up to 16 bits of each of these hashes round, the same in all orientations."""
    from hf_inspect.data.near import MAX_DISTANCE

    for one in of:
        bits = np.zeros(BITS, bool)
        bits[rng.permutation(BITS)[: rng.integers(0, MAX_DISTANCE + 1)]] = True
        hashes[one] ^= np.packbits(bits)


def signed(hashes: NDArray[np.uint8], thumbs: NDArray[np.uint8]) -> "list[Signature]":
    from hf_inspect.data import Signature

    rows = zip(range(len(hashes)), hashes, thumbs, strict=True)
    return [
        Signature(f"{i:064x}", own[0].tobytes().hex(), thumb.tobytes(), own[1:].tobytes(), bytes(BITS // 8))
        for i, own, thumb in rows
    ]


def report_history(work: Path, n: int) -> None:
    """Images a second and peak memory of a process that makes a history of half the images and checks the others."""
    for images in (n, 10 * n):
        write_parquet(work / str(images), images)
        command = [sys.executable, __file__, "--only-check", work / str(images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        made, checked, peak = map(float, done.stdout.split())
        rates = f"history {images / 2 / made:.0f}, check against it {images / 2 / checked:.0f} images/s"
        print(f"{images:,} images: {rates}; peak memory {peak:.0f} MB", flush=True)


def write_parquet(folder: Path, n: int) -> None:
    """A built data set of n generated images, half of them train and half test, without the time of its grouping."""
    import datasets

    from hf_inspect import files
    from hf_inspect.schema import BINARY

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(BINARY.classes))})
    for split, seed in (("train", 0), ("test", 1)):
        names = [(i, f"{split}{i}.png") for i in range(n // 2)]
        rows = [{"image": {"bytes": small_png(seed, i), "path": name}, "label": i % 2} for i, name in names]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        path = folder / "data" / f"generated-{split}.parquet"
        datasets.Dataset.from_list(rows, features=features).to_parquet(path, batch_size=100)
    counts = {"default": {split: {"good": n // 4, "defect": n // 2 - n // 4} for split in ("train", "test")}}
    head = {"builder": {"name": "generated"}, "task": BINARY.to_dict(), "licence": "CC0-1.0", "fingerprint": "none"}
    files.write_json(folder / "manifest.json", {**head, "counts": counts, "images": []})


def small_png(seed: int, number: int) -> bytes:
    coarse = np.random.default_rng([seed, number]).integers(0, 255, (16, 16, 3), np.uint8)
    content = BytesIO()
    Image.fromarray(coarse).resize((128, 128), Image.Resampling.BILINEAR).save(content, "png", compress_level=1)
    return content.getvalue()


def check_once(data: Path) -> tuple[float, float, int]:
    """Seconds to make a history of train and to check test against it, and the process's peak memory in MB."""
    from hf_inspect.data import record_history, refuse_seen
    from hf_inspect.schema import History

    found: list[History] = []
    made = seconds(lambda: found.append(record_history(data, {"train": None})))
    checked = seconds(lambda: refuse_seen(found[0], data, "test", "the model"))
    status = Path("/proc/self/status").read_text()  # `ru_maxrss` would begin at the parent's peak
    return made[0], checked[0], int(status.split("VmHWM:")[1].split()[0]) // 1024


def seconds(work: Callable[[], None]) -> NDArray[np.float64]:
    """Seconds that passed, and that the processor worked (all threads), the steadier where others use it too."""
    before = np.array([perf_counter(), process_time()])
    work()
    return np.array([perf_counter(), process_time()]) - before


if __name__ == "__main__":
    main()

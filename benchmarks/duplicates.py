"""What the search for near-copies finds and joins wrongly, by transform: as it was before it looked at eight
orientations, and by `--near normal` and `strict`. Prints Markdown tables, and writes duplicates.json, which the README
of dataset_scripts/ is held to.

On ELPV's cells, on photos of a folder, on parts before a fixed camera at four levels of sensor noise, and on textures
that differ in their noise alone: python benchmarks/duplicates.py [--photos FOLDER] [--planted 1.0] [--sets elpv,...]
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_inspect import files
from hf_inspect.data import Signature, duplicates, packaged_folder, sign
from hf_inspect.data.hashing import check_bits, thumbs_of
from hf_inspect.data.near import MAX_CHECK_DISTANCE, MAX_DISTANCE, MIN_CORRELATION
from tests.fixed import shots

Pixels = NDArray[np.uint8]
Rule = Callable[[Sequence[Signature], Sequence[Signature]], NDArray[np.int64]]
FIXED = 120  # parts before a fixed camera
TEXTURES = 200
SIDE = 512  # pixels of what is generated
NOISES = (1, 3, 6, 12)  # grey levels of a fixed camera's sensor
PLANTED = {"elpv": 200, "photos": 30, "fixed": 20, "textures": 20}  # images of a set that are copied in each way
RESULTS = Path(__file__).parents[1] / "dataset_scripts" / "duplicates.json"


def encoded(pixels: Pixels, **how: object) -> bytes:
    content = BytesIO()
    Image.fromarray(pixels).save(content, **({"format": "png"} | how))
    return content.getvalue()


def resized(pixels: Pixels, factor: float) -> Pixels:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((round(width * factor), round(height * factor))))


def cropped(pixels: Pixels, share: float) -> Pixels:
    """Without `share` of each side."""
    top, left = (round(share * n) for n in pixels.shape[:2])
    return pixels[top : len(pixels) - top, left : pixels.shape[1] - left]


def rotated(pixels: Pixels, degrees: float) -> Pixels:
    """Turned about its middle, and the empty corners cut off."""
    image = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC)
    return cropped(np.asarray(image), np.sin(np.radians(degrees)) / 2)


def moved(pixels: Pixels, by: int) -> Pixels:
    """Seen from a place `by` pixels further: what was there falls out, and the other edge is repeated."""
    return np.pad(pixels[by:, by:], [(0, by), (0, by)] + [(0, 0)] * (pixels.ndim - 2), "edge")


def levels(pixels: Pixels, gain: float, offset: float) -> Pixels:
    return (pixels * gain + offset).clip(0, 255).astype(np.uint8)


def noisy(pixels: Pixels, sigma: float) -> Pixels:
    return (pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape)).clip(0, 255).round().astype(np.uint8)


def squared(pixels: Pixels, orientation: int) -> Pixels:
    side = pixels.swapaxes(0, 1) if orientation & 4 else pixels
    return np.ascontiguousarray(side[:: -1 if orientation & 2 else 1, :: -1 if orientation & 1 else 1])


TRANSFORMS: dict[str, Callable[[Pixels], bytes]] = {
    "PNG again": lambda p: encoded(p, compress_level=1),
    "JPEG 95": lambda p: encoded(p, format="jpeg", quality=95),
    "JPEG 75": lambda p: encoded(p, format="jpeg", quality=75),
    "JPEG 50": lambda p: encoded(p, format="jpeg", quality=50),
    "JPEG 30": lambda p: encoded(p, format="jpeg", quality=30),
    "0.8 x": lambda p: encoded(resized(p, 0.8)),
    "0.5 x": lambda p: encoded(resized(p, 0.5)),
    "+20 %": lambda p: encoded(levels(p, 1.2, 0)),
    "-20 %": lambda p: encoded(levels(p, 0.8, 0)),
    "contrast +30 %": lambda p: encoded(levels(p, 1.3, -0.3 * 128)),
    "contrast -30 %": lambda p: encoded(levels(p, 0.7, 0.3 * 128)),
    "noise 2": lambda p: encoded(noisy(p, 2)),
    "noise 4": lambda p: encoded(noisy(p, 4)),
    "mirrored": lambda p: encoded(squared(p, 1)),
    "upside down": lambda p: encoded(squared(p, 2)),
    "turned by 180": lambda p: encoded(squared(p, 3)),
    "transposed": lambda p: encoded(squared(p, 4)),
    "turned by 90": lambda p: encoded(squared(p, 5)),
    "turned by 270": lambda p: encoded(squared(p, 6)),
    "turned by 90, JPEG 75": lambda p: encoded(squared(p, 5), format="jpeg", quality=75),
    "4 pixels off": lambda p: encoded(moved(p, 4)),
    "2.5 % cropped off each side": lambda p: encoded(cropped(p, 0.025)),
    "3 degrees": lambda p: encoded(rotated(p, 3)),
}


def upright_alone(a: Sequence[Signature], b: Sequence[Signature]) -> NDArray[np.int64]:
    """The rule as it was: near by the hash of the image as it is, confirmed on pixels or check bits."""
    one, other = (np.frombuffer(bytes.fromhex("".join(s.phash for s in x)), np.uint64).reshape(-1, 4) for x in (a, b))
    near = sum(np.bitwise_count(one[:, None, w] ^ other[None, :, w]).astype(int) for w in range(4)) <= MAX_DISTANCE
    own, others = check_bits(thumbs_of(a)), check_bits(thumbs_of(b))
    alike = np.bitwise_count(own[:, None] ^ others[None]) <= MAX_CHECK_DISTANCE
    alike &= (own != 0)[:, None] & (others != 0)[None]
    alike |= normed(a) @ normed(b).T >= MIN_CORRELATION
    alike |= np.array([[x.sha256 == y.sha256 for y in b] for x in a])
    return np.argwhere(near & alike)


def normed(signatures: Sequence[Signature]) -> NDArray[np.float64]:
    pixels = thumbs_of(signatures).astype(np.float64)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, length, out=np.zeros_like(pixels), where=length > 0)


RULES: dict[str, Rule] = {
    "before": upright_alone,
    "normal": lambda a, b: duplicates(a, b, "normal"),
    "strict": lambda a, b: duplicates(a, b, ["strict"] * (len(a) + len(b))),
}


def measured(name: str, pictures: Sequence[Pixels], planted: int, different: bool) -> dict[str, Any]:
    """Copies found by transform and rule; pairs of originals that are joined; copies taken for another picture's.

    `different`: no two originals show the same part, so that whatever joins two of them is wrong. Else those that the
    rule as it was joins are let pass.
    """
    originals = signed([encoded(picture) for picture in pictures])
    n, chosen = len(originals), range(min(planted, len(originals)))
    known = set() if different else {tuple(pair) for pair in upright_alone(originals, originals).tolist()}
    found, wrong = dict[str, dict[str, int]](), dict.fromkeys(RULES, 0)
    print(f"\n### {name}: {n} images, {len(chosen)} copies of each kind\n\n{row('found', RULES)}\n{'|---' * 4}|")
    for kind, made in TRANSFORMS.items():
        copies, found[kind] = signed([made(pictures[i]) for i in chosen]), {}
        for rule, search in RULES.items():
            pairs = {tuple(pair) for pair in search(copies, originals).tolist()}
            wrong[rule] += sum(i != j and (i, j) not in known for i, j in pairs)
            found[kind][rule] = sum((i, i) in pairs for i in chosen)
        print(row(kind, (f"{k / len(chosen):.1%}" for k in found[kind].values())), flush=True)
    joined = {rule: sum(i < j for i, j in search(originals, originals).tolist()) for rule, search in RULES.items()}
    pairs_of = {"originals": n * (n - 1) // 2, "copies": len(TRANSFORMS) * len(chosen) * (n - 1)}
    print(row(f"*originals joined, of {pairs_of['originals']:,} pairs*", joined.values()))
    print(row(f"*copies like another original, of {pairs_of['copies']:,}*", wrong.values()))
    counts = {"images": n, "copied": len(chosen), "pairs": pairs_of}
    return {"set": name, **counts, "found": found, "originals_joined": joined, "copies_near_another": wrong}


def row(name: str, values: Iterable[object]) -> str:
    return f"| {name} | {' | '.join(map(str, values))} |"


def signed(contents: Sequence[bytes]) -> list[Signature]:
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(sign, contents))


def read(paths: Sequence[Path]) -> list[Pixels]:
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(np.asarray(image if image.mode == "L" else image.convert("RGB")))
    return found


def textures(n: int, seed: int = 0) -> list[Pixels]:
    """Surfaces of one grey and noise that differ in nothing else."""
    rng = np.random.default_rng(seed)
    return [(128 + rng.normal(0, 12, (SIDE, SIDE))).clip(0, 255).astype(np.uint8) for _ in range(n)]


def sets(names: Sequence[str], photos: Path | None) -> Iterator[tuple[str, str, list[Pixels], bool]]:
    """Kind of the sets asked for, name, pictures, and whether all of them are different."""
    if "elpv" in names:
        folder = packaged_folder("elpv-dataset", "1.0.0.post1", "elpv_dataset") / "data"
        yield "elpv", "ELPV", read(sorted(folder.rglob("*.png"))), False
    if "photos" in names and photos:
        paths = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".png"))
        yield "photos", "photos", read(paths), False
    for noise in NOISES if "fixed" in names else ():
        pictures = list(shots(FIXED, seed=noise, side=SIDE, noise=noise, scratched=FIXED // 8))
        yield "fixed", f"fixed camera, noise {noise}", pictures, True
    if "textures" in names:
        yield "textures", "textures of noise", textures(TEXTURES), True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photos to measure on")
    parser.add_argument("--planted", type=float, default=1.0, help="share of the copies to make, for a trial")
    parser.add_argument("--sets", default=",".join(PLANTED))
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON to write")
    arguments = parser.parse_args()
    found = [
        measured(name, pictures, max(1, round(arguments.planted * PLANTED[kind])), different)
        for kind, name, pictures, different in sets(arguments.sets.split(","), arguments.photos)
    ]
    head = {"benchmark": "benchmarks/duplicates.py", "cores": os.cpu_count(), "rules": list(RULES)}
    files.write_table(arguments.out, head, "sets", found)


if __name__ == "__main__":
    main()

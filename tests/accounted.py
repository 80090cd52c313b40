"""Building without writing Parquet, and counting what lies in a raw folder in another way than the builder does."""

import os
import sys
from pathlib import Path

from hf_inspect.data import Rules, build


def there_in(root: Path) -> int:
    """Files, links to none, and links back to folders that are read anyway, below `root`, by `os.walk`."""
    n, seen, waiting = 0, {os.path.realpath(root)}, [root]
    later = []
    while waiting or later:
        top = waiting.pop() if waiting else later.pop(0)
        for name in sorted(os.listdir(top)):
            path = top / name
            if not path.is_dir():
                n += 1
            elif path.is_symlink():
                later = sorted([*later, path])
            else:
                seen.add(os.path.realpath(path))
                waiting.append(path)
        while not waiting and later and os.path.realpath(later[0]) in seen:
            n, later = n + 1, later[1:]
        if not waiting and later:
            seen.add(os.path.realpath(later[0]))
    return n


def building(tmp_path, monkeypatch):
    """A function that is `build` up to the manifest and the card, and counts over what is accounted for."""
    made = sys.modules["hf_inspect.data.build"]
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(made, "_write_parquet", lambda *given: None)
    monkeypatch.setattr(made, "write_sheet", lambda *given: None)

    def run(name, src, on_conflict="refuse", **options):
        rules = Rules(on_conflict=on_conflict)
        manifest = build(name, tmp_path / "out", src=src, options=options, rules=rules, accept_license=True)
        check(manifest, src if src.is_dir() else src.parent)
        return manifest

    return run


def check(manifest, root):
    """Taken and left out are what was there, and the images that are taken are those of the manifest."""
    account = manifest["accounting"]
    for one in account.values():
        left = sum(found["n"] for found in one["left_out"].values())
        assert one["there"] == sum(one["taken"].values()) + left
        assert all(len(found["first"]) == min(found["n"], 10) for found in one["left_out"].values())
    assert account["files"]["there"] == there_in(root)
    assert account["files"]["taken"]["images"] == len({image["source"] for image in manifest["images"]})


def classes_of(manifest):
    """Sources of the images by class."""
    found = {}
    for image in manifest["images"]:
        found.setdefault(image["class"], set()).add(image["source"])
    return found


def left_out(manifest, kind="files"):
    """How many of a kind are left out, by reason."""
    return {reason: found["n"] for reason, found in manifest["accounting"][kind]["left_out"].items()}

"""A raw folder -> its image files in a fixed order, their names below it, and what groups them by name."""

import re
from collections.abc import Sequence
from pathlib import Path

from hf_inspect.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def relative(path: Path, root: Path) -> str:
    """`path` below `root` with '/', as manifests name it."""
    return path.relative_to(root).as_posix()


def images_in(folder: Path) -> list[Path]:
    """Every image file below `folder`, hidden ones left out, sorted by path."""
    inside = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def keys_by_rule(names: Sequence[str], rule: str) -> list[str | None]:
    """Group 1 of the regular expression `rule` in each file name, None where it does not match -> (n,).

    Images of one key are one group: `(.+)\\.rf\\.` joins the augmented copies of a photo. DataError for a rule that
    is none, has no group, or matches nothing.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"the group rule {rule!r} is no regular expression ({error}).") from None
    if not pattern.groups:
        raise DataError(f"the group rule {rule!r} has no group; put what names the part in parentheses: (.+)_tile.")
    found = [pattern.search(name) for name in names]
    if not any(found):
        raise DataError(f"the group rule {rule!r} matches none of {len(names)} file names, such as {names[:1]}.")
    return [match.group(1) if match else None for match in found]

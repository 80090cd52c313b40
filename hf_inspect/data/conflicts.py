"""Equal images under unequal classes: one of the labels is wrong, so they are refused, or all left out."""

from collections import defaultdict
from collections.abc import Sequence

from hf_inspect.data.examine import Examined
from hf_inspect.errors import DataError

_NAMED = 5  # pairs that a refusal names


def settled(examined: Sequence[Examined], on_conflict: str) -> tuple[list[Examined], list[str]]:
    """The images whose bytes have one class alone, in order, and the sources of the others.

    Others are left out where `on_conflict` is "drop", else a DataError names them. Only equal bytes are a conflict: a
    good part and the same part scratched may look nearly alike.
    """
    by_content: dict[str, list[Examined]] = defaultdict(list)
    for image in examined:
        by_content[image.signature.sha256].append(image)
    torn = {sha: images for sha, images in by_content.items() if len({one.sample.class_name for one in images}) > 1}
    more = f"; and {len(torn) - _NAMED} more" if len(torn) > _NAMED else ""
    if torn and on_conflict != "drop":
        raise DataError(
            f"{len(torn)} image{'s have' if len(torn) > 1 else ' has'} the same bytes under different classes: "
            f"{'; '.join(map(_shown, list(torn.values())[:_NAMED]))}{more}. Delete the wrong ones, or leave out all of "
            "them with --on-conflict drop."
        )
    kept = [image for image in examined if image.signature.sha256 not in torn]
    return kept, [image.sample.source for image in examined if image.signature.sha256 in torn]


def _shown(images: Sequence[Examined]) -> str:
    """One file of each class."""
    by_class = {str(image.sample.class_name): image.sample.source for image in reversed(images)}
    return " = ".join(f"{source} ({name})" for name, source in sorted(by_class.items()))

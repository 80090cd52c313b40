"""Verdicts -> pictures of where: each image with its edge's map, or what was found, over it; a PNG of its own."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.images import Source
from hf_inspect.inspector import Inspector
from hf_inspect.schema import Verdict
from hf_inspect.tasks.heat import png_of

MAP = "map"  # of a row: the picture's path
_NAME = 60  # letters of an image's own name, at most, in its picture's
_DIGITS = 20  # of the SHA-256 that tells pictures apart: none of a million million images' are equal


@dataclass(frozen=True, slots=True)
class Maps:
    """A folder of pictures. The same image under the same path has the same picture, any other one another."""

    folder: Path
    inspector: Inspector

    @classmethod
    def of(cls, folder: Path, inspector: Inspector, paths: Sequence[Path] = ()) -> "Maps":
        """The pictures of a cascade's verdicts in `folder`, which is made when it is missing.

        DataError where the edge has no maps and nobody looks for things, and where `folder` is no folder or lies in one
        of `paths`, the folders that are inspected: a later run would take the pictures for parts.
        """
        if not inspector.things.says_where:
            raise DataError(
                f"The edge of this cascade says whether, and not where: it answers {inspector.task}, without maps. "
                "Leave out --maps, or calibrate a cascade with an anomaly or a detection model for its edge, or with a "
                "VLM of recipes/vlm_ground."
            )
        if inspector.heat is None and inspector.task.says_where and not inspector.task.finds:
            raise DataError("This cascade does not say how its maps are drawn; run 'hf-inspect calibrate' again.")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give --maps a folder.")
        inside = [path for path in paths if path.is_dir() and folder.resolve().is_relative_to(path.resolve())]
        if inside:
            raise DataError(
                f"{folder} lies in {inside[0]}, whose images are inspected; give --maps a folder elsewhere."
            )
        return cls(folder, inspector)

    def place(self, name: str, sha256: str) -> Path:
        """Where the picture of a path's image of this content lies, whether it is there or not."""
        own = hashlib.sha256(b"\0".join([os.fsencode(name), sha256.encode()])).hexdigest()[:_DIGITS]
        return self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(name).stem)[:_NAME]}-{own}.png"

    def has(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether a row names the picture of its image, and it is there; or says that nobody could tell where."""
        if row["found_by"] is None and not any("map_highest" in one for one in row["evidence"].values()):
            return True
        at = self.place(name, str(row["sha256"]))
        return bool(row.get(MAP) == str(at) and at.is_file())

    def write(self, name: str, sha256: str, content: Source, verdict: Verdict) -> dict[str, str]:
        """Write the picture of one image, whole or not at all -> what its row says of it; nothing without a map.

        DataError where it cannot be written.
        """
        shown = self.inspector.shown(content, verdict)
        if shown is None:
            return {}
        at = self.place(name, sha256)
        try:
            files.write_bytes(at, png_of(shown))
        except OSError as error:
            raise DataError(
                f"{at} cannot be written ({error.strerror or error}); make room there, or give another --maps. The "
                "same command then goes on."
            ) from error
        return {MAP: str(at)}

"""Rows of `predict` -> what was found, as COCO results, and which id is which picture's."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_inspect import files
from hf_inspect.console import shown
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.schema import Finding, TaskSpec

_UNREAD, _UNLISTED = "pictures could not be read", "pictures are not in {}, and were left out"
_UNSOUGHT = "pictures were decided by an edge that looks for nothing, and were left out"
_UNNAMED = "findings have a label that is no class, and were left out"


@dataclass(slots=True)
class Results:
    """What is found in pictures, gathered for one file: a list of COCO results, as evaluators take it.

    Without a COCO file that says the ids, pictures are numbered from 1 as they come and categories in the task's order;
    a second file, `ids`, lists both: `COCO(ids).loadRes(path)`.
    """

    path: Path
    categories: Mapping[str, int]
    given: Path | None = None
    known: Mapping[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    images: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, path: Path, task: TaskSpec, ids: Path | None = None) -> "Results":
        """Nothing as yet, for the file `path`; ids are those of the COCO file `ids`, by the names there.

        DataError for a task that finds nothing, and for a file of ids without one of its classes.
        """
        if not task.finds:
            raise DataError(
                f"The edge of this cascade finds nothing in a picture, it answers {task}; leave out --coco, or take a "
                "detection model for its edge or a VLM of recipes/vlm_ground."
            )
        if ids is None:
            return cls(path, {name: number for number, name in enumerate(task.classes, 1)})
        from hf_inspect.data.coco.splitting import checked
        from hf_inspect.data.raw.document import read_document, whole

        document = read_document(ids)
        checked(document)
        named = {one.get("name"): whole(one.get("id")) for one in document.categories if isinstance(one, dict)}
        if lacking := [name for name in task.classes if named.get(name) is None]:
            raise DataError(f"{ids} has no category {', '.join(map(shown, lacking))}, which is looked for.")
        categories = {name: named[name] for name in task.classes}
        listed = {_plain(one["file_name"]): whole(one["id"]) for one in document.images}
        return cls(path, categories, ids, listed)  # type: ignore[arg-type]  # `checked` has seen to ids

    @property
    def ids(self) -> Path:
        """The file that says which id is which picture's, where none was given."""
        return self.path.with_suffix(".images.json")

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Take what a row of `predict` says was found in the picture `name`; DataError for two pictures of one id.

        What has a label that is no class, as a VLM may say one, is counted.
        """
        if row["found_by"] is None:
            answered = any("severity" in one for one in row["evidence"].values())
            self.left[_UNSOUGHT if answered else _UNREAD] += 1
            return
        said = row["evidence"][row["found_by"]]["findings"]
        number = len(self.images) + 1 if self.given is None else self._id_of(name)
        if number is None:
            self.left[_UNLISTED.format(self.given)] += 1
            return
        size = {"width": row["width"], "height": row["height"]}
        if number in self.images:
            two = f"{shown(self.images[number]['file_name'])} and {shown(name)}"
            raise DataError(f"{two} are both the image {number} of {self.given}; inspect one of them.")
        self.images[number] = {"id": number, "file_name": name, **size}
        for one in map(Finding.from_dict, said):
            if one.name not in self.categories:
                self.left[_UNNAMED] += 1
                continue
            self.found.append(json.dumps(self._result(one, number, row["height"], row["width"])))

    def write(self) -> str:
        """Write the file, and the one of the ids where none was given -> what was written, in words."""
        files.write_text(self.path, "[\n" + ",\n".join(self.found) + "\n]\n")
        if self.given is None:
            categories = [{"id": number, "name": name} for name, number in self.categories.items()]
            text = json.dumps({"images": list(self.images.values()), "categories": categories, "annotations": []})
            files.write_text(self.ids, text + "\n")
        left = "".join(f"; {n} {what}" for what, n in self.left.items())
        ids = self.given or self.ids
        return f"  {len(self.found)} findings in {len(self.images)} pictures lie in {self.path}, ids in {ids}{left}"

    def _id_of(self, name: str) -> int | None:
        """The id of the listed name that a path ends in, the longest one."""
        parts = PurePosixPath(_plain(name)).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((self.known[end] for end in ends if end in self.known), None)

    def _result(self, one: Finding, number: int, height: int, width: int) -> dict[str, Any]:
        x0, y0, x1, y1 = one.box
        result = {"image_id": number, "category_id": self.categories[one.name], "bbox": [x0, y0, x1 - x0, y1 - y0]}
        mask = {} if one.mask is None else {"segmentation": packed(one.mask_in(height, width))}
        return result | {"score": one.score} | mask


def packed(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask bool (h, w) as COCO's compressed RLE, whose counts are text."""
    try:
        from faster_coco_eval import mask as library
    except ImportError as error:
        raise MissingExtraError(
            "Masks of COCO results need faster-coco-eval: pip install 'hf-inspect[train]'"
        ) from error
    rle = library.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")

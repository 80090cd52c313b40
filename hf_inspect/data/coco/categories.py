"""A COCO file's categories -> those that can be kept, by which id annotations name them, and what is wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_inspect.data.coco.rules import Finding, seen
from hf_inspect.data.raw.coco import loose
from hf_inspect.data.raw.document import whole


@dataclass(frozen=True, slots=True)
class Categories:
    """`kept` as a repair writes them; `ids`: whichever id an annotation gives -> that of the category it means."""

    findings: Sequence[Finding]
    kept: Sequence[dict[str, Any]]
    ids: Mapping[int, int]

    def keypoints(self) -> dict[int, int]:
        """How many keypoints each category has that names them."""
        named = {one["id"]: one.get("keypoints") for one in self.kept}
        return {own_id: len(points) for own_id, points in named.items() if isinstance(points, list)}


def judge_categories(categories: Sequence[Any], used: Mapping[int, int]) -> Categories:
    """What is wrong with categories, where `used` says how many annotations give an id."""
    findings, by_id = list[Finding](), defaultdict[int, list[dict[str, Any]]](list)
    for number, category in enumerate(categories, 1):
        said = category if isinstance(category, dict) else {}
        own_id, name = whole(said.get("id")), said.get("name")
        if own_id is None or not isinstance(name, str) or not name.strip():
            findings.append(Finding("category-form", f"category number {number}", "", seen(category)))
            continue
        if type(said["id"]) is not int:
            findings.append(Finding("id-form", f"category {own_id}", "", seen(repr(said["id"]))))
        by_id[own_id].append({**said, "id": own_id})
    one_each = dict[int, dict[str, Any]]()
    for own_id, of_id in by_id.items():
        names = list(dict.fromkeys(loose(one["name"].strip()) for one in of_id))
        if len(of_id) > 1:
            rule = "category-twice" if len(names) == 1 else "category-clash"
            findings.append(Finding(rule, f"category {own_id}", "", ", ".join(seen(one["name"]) for one in of_id)))
        if len(names) == 1:
            one_each[own_id] = of_id[0]
    ids, renamed = _united(one_each, used)
    kept = [one for own_id, one in one_each.items() if ids[own_id] == own_id]
    unused = [
        Finding("category-unused", f"category {one['id']}", "", seen(one["name"]))
        for one in kept
        if not any(used.get(own_id) for own_id, meant in ids.items() if meant == one["id"])
    ]
    return Categories([*findings, *renamed, *unused], kept, ids)


def _united(categories: Mapping[int, dict[str, Any]], used: Mapping[int, int]) -> tuple[dict[int, int], list[Finding]]:
    """The id that each id stands for: of one name, that which most annotations give; and the names of several."""
    by_name, findings = defaultdict[str, list[int]](list), list[Finding]()
    for own_id, category in categories.items():
        by_name[loose(category["name"].strip())].append(own_id)
    ids = dict[int, int]()
    for of_name in by_name.values():
        meant = max(of_name, key=lambda own_id: used.get(own_id, 0))
        ids |= dict.fromkeys(of_name, meant)
        for own_id in of_name:
            if own_id != meant:
                names = f"{seen(categories[own_id]['name'])} is {seen(categories[meant]['name'])} of id {meant}"
                findings.append(Finding("category-renamed", f"category {own_id}", "", names))
    return ids, findings

"""Which token ids training saw, and which classes they name: inference that would render others refuses to run."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hf_inspect.schema import TaskSpec


def fingerprint(token_ids: Sequence[int], image_token_id: int, image_rule: Mapping[str, Any], task: TaskSpec) -> str:
    """SHA-256 (hex) over the ids, each run of image tokens collapsed to one, the image-size rule and the task."""
    ids = collapse(token_ids, image_token_id)
    content = {"ids": ids, "image_rule": dict(image_rule), "task": task.to_dict()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def collapse(token_ids: Sequence[int], image_token_id: int) -> list[int]:
    """The ids with each run of image tokens shortened to one."""
    ids = [int(i) for i in token_ids]
    return [i for at, i in enumerate(ids) if i != image_token_id or at == 0 or ids[at - 1] != image_token_id]


def text_diff(trained: str, now: str) -> str:
    """A line-by-line difference for an error message; says so when only invisible parts differ."""
    lines = difflib.unified_diff(trained.splitlines(), now.splitlines(), "trained", "now", lineterm="", n=1)
    return "\n".join(lines) or "(the text is the same; the classes, the tokenizer or the image-size rule differ)"

"""Run as a process of its own, where torch, transformers and datasets cannot be imported: the box at the line.

Arguments: cascade, the server's address, a folder of images, deadline, rest. Each line on standard input lets one part
pass the camera; a JSON line a verdict comes out, then the wire's own counts.
"""

import json
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "datasets", "peft", "timm", "accelerate")


class Absent:
    """An import of what the edge box does not have fails as it would there."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    sys.meta_path.insert(0, Absent())
    from dataclasses import replace

    from hf_inspect import Inspector, hub
    from hf_inspect.schema import TaskSpec
    from hf_inspect.vlm.identity import Wanted
    from hf_inspect.vlm.remote import RemoteVLM

    cascade, url, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    deadline, rest = map(float, sys.argv[4:6])
    stated = hub.read_cascade(cascade)
    wanted = Wanted(stated["files"], TaskSpec.from_dict(stated["task"], cascade))
    vlm = RemoteVLM.connect(url, wanted, deadline=deadline, rest=rest)
    inspector = replace(Inspector.from_pretrained(cascade, use_vlm=False), vlm=vlm)
    paths = sorted(folder.iterdir())

    def camera():
        for path in paths:
            sys.stdin.readline()
            yield path

    for path, verdict in zip(paths, inspector.inspect(camera()), strict=True):
        print(json.dumps({"path": path.name, **verdict.to_dict()}), flush=True)
    print(json.dumps({"counts": vlm.wire.counts}), flush=True)
    assert not set(HEAVY) & set(sys.modules)


if __name__ == "__main__":
    main()

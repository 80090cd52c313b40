"""The line's worst day at full size: 2,000 parts of a torch-free box, and a server that fails in every way.

Killed twice, slowed to 5 s, garbage once, 503 for a minute, over loopback, with a deadline of 2 s a part; the server's
VLM is a stand-in. Prints what became of the parts, and ends with 1 where a part is lost, doubled, without a reason, or
answered otherwise than in process:
python benchmarks/line.py [--parts 2000]
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.line import Phase, by_vlm, live, reasons

REFUSES = 60.0  # seconds of 503


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2000)
    arguments = parser.parse_args()
    share = arguments.parts // 20
    happens = [("killed", 0.0), ("slow 5", 0.0), ("killed", 0.0), ("garbage", 0.0), ("503", REFUSES)]
    phases = [phase for what, seconds in happens for phase in (Phase("up", 2 * share), Phase(what, share, seconds))]
    phases.append(Phase("up", arguments.parts - sum(phase.parts for phase in phases)))
    begin = perf_counter()
    with TemporaryDirectory() as folder:
        rows, counts, alone = live(phases, Path(folder), deadline=2.0, rest=1.0)
    print(f"{len(rows)} verdicts of {arguments.parts} parts in {perf_counter() - begin:.0f} s")
    print(f"decided by {dict(Counter(row['decided_by'] for row in rows))}; the wire counted {counts}")
    for reason, n in reasons(rows).most_common():
        print(f"  undecided {n}: {reason}")
    wrong = [f"{i:05}.png" for i in range(arguments.parts)] != [row["path"] for row in rows]
    wrong |= any(by_vlm(row) is None and "gave no answer: its" not in row["reason"] for row in rows)
    answered = [(by_vlm(row), own) for row, own in zip(rows, alone, strict=False) if by_vlm(row) is not None]
    wrong |= any(abs(one - own) > 1e-9 for one, own in answered)
    print(f"{len(answered)} answers of the VLM, as in process: {not wrong}")
    raise SystemExit(int(wrong))


if __name__ == "__main__":
    main()

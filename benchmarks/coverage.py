"""How often each kind of interval that results.json states holds the truth, on hard cases.

python benchmarks/coverage.py [--redraws 2000]

Truths are known, samples simulated (tests/hard.py has them): rare classes, several views a part, AUROC near 1. A line
for each: the share of redraws whose 95 % interval holds the truth, and its mean width. 0.93 is the least that counts.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.hard import CASES, coverage

LEAST = 0.93


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraws", type=int, default=2000)
    redraws = parser.parse_args().redraws
    print(f"{'':52} {'truth':>6} {'holds':>6} {'width':>6}")
    for case in CASES:
        held, width = coverage(case, redraws, seed=1)
        print(
            f"{case.name:52} {case.truth:6.3f} {held:6.3f} {width:6.3f}{'' if held >= LEAST else '  TOO NARROW'}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How often the certificate's promise holds: composite fitted once, limits from 1,000 redraws of the calibration parts.

python benchmarks/certificate.py [--redraws 1000] [--seeds 5]

Populations are known: two distributions of edge and VLM (with and without ties), and the shipped solar cells of the
calibration split as a whole population, whose composite comes from the validation cells. A line for each: the shares of
redraws in which the escape, the overkill and both kept within 5 % and 10 %, the share that is promised, and whether a
one-sided binomial test finds fewer (P < 0.001).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import test_certified

PROMISED = (0.975, 0.975, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraws", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    test_certified.REDRAWS = arguments.redraws
    print(f"{'':44} {'escape':>7} {'overkill':>9} {'both':>7}")
    for seed in range(arguments.seeds):
        for levels, sizes in ((0, (122, 271)), (12, (122, 271)), (0, (72, 36)), (0, (1000, 2000))):
            name = f"seed {seed}, {sizes[0]} defects, {sizes[1]} good" + (f", {levels} levels" if levels else "")
            show(name, test_certified.held(seed, levels, 0, sizes))
        show(f"seed {seed}, solar cells", test_certified.held_on_cells(seed))


def show(name: str, held: np.ndarray) -> None:
    fewer = [
        binomtest(int(one.sum()), len(one), stated, alternative="less").pvalue < 0.001
        for one, stated in zip(held, PROMISED, strict=True)
    ]
    shares = [float(one.mean()) for one in held]
    print(f"{name:44} {shares[0]:7.3f} {shares[1]:9.3f} {shares[2]:7.3f}{'  BROKEN' if any(fewer) else ''}", flush=True)


if __name__ == "__main__":
    main()

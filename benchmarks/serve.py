"""A served VLM against the same VLM in process: parts a second, and milliseconds that a part waits (p50, p99).

Starts `hf-inspect serve` as a process, loads the same VLM here, and asks both in turn in one run. A client sends one
part at a time, the next when it has its answer; all run on this machine, and take their share of it. Prints each
number of clients' rate as a share of the rate in process, in batches of 16 (wanted: 0.8 with 8 clients):
python benchmarks/serve.py [hf_inspect/assets/elpv] [--parts 192] [--clients 1 8 32] [--port 8100]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from time import perf_counter

import numpy as np

from hf_inspect.errors import ServerError
from hf_inspect.vlm.remote import RemoteVLM
from hf_inspect.vlm.serve import load_served

DEADLINE, STARTS_WITHIN = 600.0, 600.0  # seconds
SIDE = 300  # pixels, as ELPV's cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("served", nargs="?", default="hf_inspect/assets/elpv")
    parser.add_argument("--parts", type=int, default=192, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--port", type=int, default=8100)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(arguments.parts)]
    command = [Path(sys.executable).with_name("hf-inspect"), "serve", arguments.served, "--port", str(arguments.port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{arguments.port}"
        first, vlm = connected(url), load_served(arguments.served)
        print(
            f"{arguments.served}: {first.about.task}; same identity in process: {first.about.identity == vlm.identity}"
        )
        for some in (first, vlm):  # what is compiled when an image first comes
            some.predict(parts[:16])
        for clients in arguments.clients:
            begin = perf_counter()
            vlm.predict(parts)
            here = len(parts) / (perf_counter() - begin)
            rate, waits = asked(url, parts, clients)
            p50, p99 = np.quantile(waits, [0.5, 0.99]) * 1000
            print(
                f"{clients:3} clients: {rate:6.1f} parts/s, p50 {p50:6.0f} ms, p99 {p99:6.0f} ms; in process "
                f"{here:6.1f} parts/s; {rate / here:.2f} of it",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()


def connected(url: str) -> RemoteVLM:
    """The client of a server that is just starting."""
    ends = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            return RemoteVLM.connect(url, deadline=DEADLINE)
        except ServerError:
            if time.monotonic() > ends:
                raise


def asked(url: str, parts: list[np.ndarray], clients: int) -> tuple[float, list[float]]:
    """Parts a second of so many clients, who share the parts, and the seconds that each part waited."""
    waits: list[float] = []
    vlms = [connected(url) for _ in range(clients)]

    def ask(number: int) -> None:
        for part in parts[number::clients]:
            begin = perf_counter()
            [found] = vlms[number].predict([part])
            waits.append(perf_counter() - begin)
            if found.severity is None:
                raise RuntimeError(found.unreadable)

    asking = [Thread(target=ask, args=(number,)) for number in range(clients)]
    begin = perf_counter()
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    seconds = perf_counter() - begin
    if len(waits) != len(parts):
        raise RuntimeError(f"{len(waits)} of {len(parts)} parts were answered")
    return len(parts) / seconds, waits


if __name__ == "__main__":
    main()

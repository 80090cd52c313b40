"""The Space's app.py as a process of its own on loopback, and pages of it in Debian's chromium."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

SPACE = Path(__file__).parent.parent / "spaces" / "cascade"
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]  # fmt: skip
STARTS_WITHIN = 400  # seconds
# The app with an edge model that waits as long as a file is there: for filling the queue.
HELD = """
import pathlib, runpy, sys, time
from hf_inspect.runtime import Engine
predict, hold = Engine.predict, pathlib.Path(sys.argv[2])
def waiting(*arguments, **options):
    while hold.exists():
        time.sleep(0.02)
    return predict(*arguments, **options)
Engine.predict = waiting
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@dataclass(frozen=True)
class Server:
    """A running app: where it listens, its process, its log, and the file that holds its edge model back."""

    url: str
    process: subprocess.Popen
    log: Path
    hold: Path

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@contextmanager
def serve(work: Path, cascade: Path | None = None) -> Iterator[Server]:
    """The app with a cascade's folder, or the shipped one; its uploads and log lie in `work`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(work / "uploads"),
        "HF_INSPECT_CASCADE": str(cascade or ""),
    }  # fmt: skip
    hold, log = work / "hold", work / "log"
    command = [sys.executable, "-c", HELD, SPACE / "app.py", hold]
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=out, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", process, log, hold)
    try:
        _wait(server)
        yield server
    finally:
        hold.unlink(missing_ok=True)
        process.terminate()
        process.wait(30)


def _wait(server: Server) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        try:
            if httpx.get(server.url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the Space did not start:\n{server.log.read_text()[-3000:]}")


@contextmanager
def browser() -> Iterator:
    """Debian's chromium; skips where it is not installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@contextmanager
def visit(started, server: Server, width: int = 1200, height: int = 900) -> Iterator:
    """A page that has loaded; afterwards it must have had no error on its console and asked for nothing elsewhere."""
    context = started.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else wrong.append(r.url))
    page.goto(server.url)
    page.wait_for_selector("#plot img")
    yield page
    context.close()
    assert wrong == []


def verdict_of(page) -> str:
    """What the page says of an image, once it says something."""
    page.wait_for_selector("#verdict .verdict")
    return page.inner_text("#verdict")

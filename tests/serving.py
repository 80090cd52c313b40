"""A VLM's server on loopback, in a thread, for as long as a block lasts; and servers that misbehave on purpose."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from starlette.responses import Response

from hf_inspect.schema import BINARY, History, Prediction, TaskSpec
from hf_inspect.vlm.identity import About, Wanted, history_sha256, identity_of
from hf_inspect.vlm.serve import Limits, application

PROMPT = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2}


class Brightness:
    """A `Predictor` whose severity is an image's mean brightness; `asked` holds the sizes of the batches.

    Each image takes `seconds`; one that is all of `fails` raises.
    """

    history, reading = History(), None

    def __init__(self, task: TaskSpec = BINARY, seconds: float = 0.0, fails: int | None = None):
        self.task, self.seconds, self.fails, self.asked = task, seconds, fails, []
        self.identity = identity_of(decides())

    def predict(self, images):
        self.asked.append(len(images))
        time.sleep(self.seconds * len(images))
        if any((image == self.fails).all() for image in images):
            raise RuntimeError("/secret/place/weights.bin cannot be read")
        means = [float(np.float64(image.mean()) / 255) for image in images]
        return [Prediction(mean, (1 - mean, mean)) for mean in means]


def decides(**files: str) -> dict:
    """What a served stand-in says that its answers rest on."""
    stated = {"base/model.safetensors": "a" * 64, "adapter/adapter_model.safetensors": "b" * 64}
    return {"files": stated | {"adapter/prompt.json": "c" * 64} | files, "question": {}, "asking": {}}


def about(task: TaskSpec = BINARY, rule: Mapping = PROMPT, **files: str) -> About:
    """What a stand-in's server says; `files` are other hashes than the usual ones."""
    stated = decides(**files)
    return About("0", task, identity_of(stated), "d" * 64, rule, None, stated, history_sha256(History()))


def wanted(task: TaskSpec = BINARY) -> Wanted:
    """What a cascade that was calibrated with the stand-in wants of a server."""
    return Wanted(about().files, task)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(
    predictor, says: About | None = None, token: str | None = None, limits: Limits | None = None, **options
) -> Iterator[str]:
    """The address of `predictor`, served; `options` are uvicorn's."""
    import uvicorn

    app = application(predictor, says or about(predictor.task), token, limits or Limits())
    settings = {"host": "127.0.0.1", "port": free_port(), "log_level": "warning", "access_log": False} | options
    settings["log_config"] = None  # uvicorn's own closes the handlers of all others, and what they write to
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"{'https' if 'ssl_certfile' in options else 'http'}://127.0.0.1:{settings['port']}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, bytes], None], port: int = 0) -> Iterator[str]:
    """The address of a plain web server whose every request is answered by `answer(handler, body)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self, self.rfile.read(int(self.headers.get("content-length", 0))))

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *args: None  # a client that waits no more
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    """Answer a request of `answering`."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


class Moody:
    """An app whose answers to POST are for a while as a file says: `slow 5`, `503`, or `garbage`, once."""

    def __init__(self, app, mood: Path):
        self._app, self._mood = app, mood

    async def __call__(self, scope, receive, send):
        said = self._mood.read_text().split() if scope.get("method") == "POST" and self._mood.exists() else []
        match said:
            case ["slow", seconds]:
                await asyncio.sleep(float(seconds))
            case ["garbage"]:
                self._mood.write_text("")
                return await Response(b"\x00\xff<html>", 200)(scope, receive, send)
            case ["503"]:
                return await Response("try again later", 503)(scope, receive, send)
        return await self._app(scope, receive, send)


def main() -> None:
    """Serve `Brightness` on a port until killed: arguments are the port and the file of the mood."""
    import uvicorn

    app = Moody(application(Brightness(seconds=0.002), about()), Path(sys.argv[2]))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning"))
    threading.Thread(target=lambda: _say_ready(server), daemon=True).start()
    server.run()


def _say_ready(server) -> None:
    while not server.started:
        time.sleep(0.01)
    print("ready", flush=True)


if __name__ == "__main__":
    main()

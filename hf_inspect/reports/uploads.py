"""What lies on the disk of a web page's server: no request of any length, and no upload for long."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from hf_inspect.reports.page import MAX_BYTES_AT_ONCE

_FORM = 1_000_000  # bytes that the form around a request's files may take
KEPT, SWEPT = 600, 5  # seconds that an upload is kept, and between sweeps
MAX_KEPT = 1_000_000_000  # bytes of all uploads: the oldest go first

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def bounded(uploads: set[str]) -> dict[str, Any]:
    """What a gradio app is made with so that requests are bounded; from here on its `uploads` are swept."""
    from gradio.utils import get_upload_folder
    from starlette.middleware import Middleware

    folder = Path(get_upload_folder())

    def keep_sweeping() -> None:
        while True:
            time.sleep(SWEPT)
            sweep(uploads, folder)

    Thread(target=keep_sweeping, name="uploads", daemon=True).start()
    return {"middleware": [Middleware(Bounded)]}


class Bounded:
    """An ASGI app that takes no request of more than `most` bytes and a form, by what its head says or what comes."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], most: int = MAX_BYTES_AT_ONCE) -> None:
        self.app, self.most, self.longest = app, most, most + _FORM

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer 413 with a sentence, or hand the request on."""
        stated = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if scope["type"] == "http" and int(stated) > self.longest:
            return await _refuse(send, self.most)
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.longest:
                return {"type": "http.disconnect"}  # more than its head says: the app stops reading
            return message

        await self.app(scope, counted, send)


async def _refuse(send: Send, most: int) -> None:
    text = f"This page takes {most // 10**6} MB at once; send fewer or smaller files.".encode()
    head = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": head})
    await send({"type": "http.response.body", "body": text})


def sweep(uploads: set[str], folder: Path) -> None:
    """Delete uploads older than KEPT, and the oldest of those beyond MAX_KEPT bytes; they leave `uploads` as well.

    Right in `folder` lie files of requests that broke off, which nobody else deletes.
    """
    there: dict[str, Any] = {}
    for path in {*uploads, *(str(one) for one in folder.glob("tmp*"))}:
        with suppress(FileNotFoundError):
            there[path] = Path(path).stat()
    kept, now = 0, time.time()
    for path in sorted(there, key=lambda one: there[one].st_ctime, reverse=True):
        kept += there[path].st_size
        if kept > MAX_KEPT or now - there[path].st_ctime > KEPT:
            Path(path).unlink(missing_ok=True)
            uploads.discard(path)

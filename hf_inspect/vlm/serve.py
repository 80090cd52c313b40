"""A VLM as a small HTTP server, for boxes at the line that have no room for one: images come in, predictions go out.

POST /predict takes one image file as its body; GET /vlm says what the VLM is, /history what it saw, /health that it
lives. Whatever goes wrong is answered by one sentence, without a path or a traceback in it.
"""

import asyncio
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import files, hub, images
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.hub import kinds
from hf_inspect.images import Rgb
from hf_inspect.reading import Reading
from hf_inspect.schema import Predictor
from hf_inspect.vlm.answered import answer_of
from hf_inspect.vlm.batching import WAITING, WINDOW, Batcher, Full
from hf_inspect.vlm.identity import SERVER, About, history_sha256
from hf_inspect.vlm.parity import PROMPT, image_rule
from hf_inspect.vlm.remote import ABOUT, HISTORY, LEFT, PREDICT
from hf_inspect.vlm.wire import TOKEN, token_of_environment

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from hf_inspect.vlm.grounded import GroundedVLM
    from hf_inspect.vlm.guiding import Guide
    from hf_inspect.vlm.model import VLM

PORT = 8100
MOST_BYTES = 32 << 20  # of an image; one of 2,048 x 2,048 pixels has 12 MB at most
_READ_ON = 256 << 20  # bytes of a larger one that are read and dropped, so that its sender comes to read the answer
_SENDING = 30.0  # seconds that a client may take to send an image
_PATIENCE = 60.0  # seconds that an image waits whose client does not say how long it will
_CONNECTIONS = 512  # at once; uvicorn refuses more with 503
_LOG = logging.getLogger("hf_inspect.serve")


@dataclass(frozen=True, slots=True)
class Limits:
    """`waiting` images in the queue, `window` seconds that a batch is gathered for, `most_bytes` of an image."""

    waiting: int = WAITING
    window: float = WINDOW
    most_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        if self.waiting < 1 or self.most_bytes < 1 or not 0 <= self.window <= 1:
            raise DataError(
                f"The server's limits are {self}; one or more images wait, a window is of 0 to 1 s, an image has bytes."
            )


class _Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers or {}


def serve(
    served: str | Path,
    base: str | Path | None = None,
    *,
    guide: "Guide | None" = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    limits: Limits = Limits(),
    show: Callable[[str], None] = print,
) -> None:
    """Serve the VLM of a cascade, an adapter, or a base fine-tuned whole, until the process is ended.

    `base` is an adapter's, where adapter_config.json does not name one that can be had anywhere. `guide` shows a VLM
    that says where things are exemplars first. DataError for a folder that is none of these, MissingExtraError without
    FastAPI.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("Serving a VLM needs FastAPI: pip install 'hf-inspect[serve]'") from error
    token = token_of_environment()
    vlm = load_served(served, base, guide)
    about = about_of(vlm)
    show(f"{about.task}; identity {about.identity[:16]}" + (f"; exemplars {about.guide[:16]}" if about.guide else ""))
    show(f"http://{host}:{port}, {'a token' if token else 'no token'} asked for")
    app = application(vlm, about, token, limits)
    uvicorn.run(
        app, host=host, port=port, log_config=None, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=10,
    )  # fmt: skip


def load_served(
    served: str | Path, base: str | Path | None = None, guide: "Guide | None" = None
) -> "VLM | GroundedVLM":
    """The VLM of a cascade, of an adapter, or of a base fine-tuned whole: a folder or a repository.

    DataError for a `guide` of one that is shown no exemplars: a closed question's, or a cascade's own.
    """
    from hf_inspect.vlm import load
    from hf_inspect.vlm.base import PACKAGED, base_folder

    folder = base_folder(served) if str(served) in PACKAGED else _folder(served)
    kind = hub.kind_of(folder)
    if base is not None and kind is not kinds.ADAPTER:
        raise DataError(f"{served} is a {kind}, which brings its own base; leave --base out.")
    if kind is kinds.CASCADE:
        if guide is not None:
            raise DataError(f"{served} shows the exemplars that it was calibrated with, if any; leave --exemplars out.")
        return _of_cascade(folder, served)
    if kind is kinds.ADAPTER:
        return load(base or _named_base(folder, served), folder, guide)
    if kind is not kinds.VLM:
        raise DataError(f"{served} is a {kind}; give a cascade, an adapter, or a VLM that was fine-tuned whole.")
    return load(folder, guide=guide)


def about_of(vlm: "VLM | GroundedVLM") -> About:
    """What a VLM's server says of it."""
    from importlib.metadata import version

    parts = vlm.parts or {}
    trained = parts.get("adapter", parts["base"])
    return About(
        version=version("hf-inspect"),
        task=vlm.task,
        identity=vlm.identity,
        fingerprint=files.read_json(trained / PROMPT).get("sha256") if (trained / PROMPT).is_file() else None,
        image_rule=image_rule(vlm.processor),
        reading=vlm.reading,
        decides=vlm.decides,
        history=history_sha256(vlm.history),
        told=getattr(vlm, "told", None),
    )


def application(
    predictor: Predictor,
    about: About,
    token: str | None = None,
    limits: Limits = Limits(),
) -> "FastAPI":
    """The app around any predictor; `token`, where given, is asked for of all but /health."""
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import JSONResponse

    batcher = Batcher(predictor, limits.waiting, limits.window)

    @asynccontextmanager
    async def lifespan(app: "FastAPI") -> AsyncIterator[None]:
        yield
        await run_in_threadpool(batcher.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _say_in_sentences(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"server": SERVER, "version": about.version, "waiting": batcher.waiting()}

    @app.get(ABOUT)
    async def vlm(request: Request) -> dict[str, Any]:
        _authorise(request, token)
        return about.to_dict()

    @app.get(HISTORY)
    async def history(request: Request) -> dict[str, Any]:
        _authorise(request, token)
        return predictor.history.to_dict()

    @app.post(PREDICT)
    async def predict(request: Request) -> JSONResponse:
        _authorise(request, token)
        until = time.monotonic() + _seconds_left(request)
        content = await _body(request, limits.most_bytes)
        image = await run_in_threadpool(_decoded, content, about.reading)
        try:
            found = await asyncio.wrap_future(batcher.submit(image, until))
        except Full:
            raise _Refused(429, f"{limits.waiting} images wait already; ask again", {"retry-after": "1"}) from None
        except TimeoutError:
            raise _Refused(504, "the image's turn did not come within the time that its client waits") from None
        return JSONResponse(answer_of(found) | {"identity": about.identity})

    return app


def _of_cascade(folder: Path, served: str | Path) -> "VLM | GroundedVLM":
    """The VLM that lies in a cascade's folder, or that its cascade.json names."""
    from hf_inspect.vlm import load_of_cascade

    stated = hub.read_cascade(folder)
    if stated["vlm"] is None or "server" in stated["vlm"]:
        why = "has no VLM to serve" if stated["vlm"] is None else "has its VLM at a server already"
        raise DataError(f"{served} {why}; give a cascade that was calibrated with one of its own.")
    hub.refuse_changed(folder, stated)
    return load_of_cascade(folder, stated)


def _folder(served: str | Path) -> Path:
    """The folder that a name means; of a repository all files, for it may be a cascade."""
    found = hub.reference(served)
    return hub.pull(found.name, found.revision) if isinstance(found, hub.Repository) else found


def _named_base(adapter: Path, served: str | Path) -> str:
    """The base that adapter_config.json names, if it is packaged or a repository: a folder's name says nothing here."""
    from hf_inspect.vlm.base import PACKAGED

    name = str(files.read_json(adapter / kinds.ADAPTER_CONFIG).get("base_model_name_or_path"))
    if name in PACKAGED or (isinstance(hub.reference(name), hub.Repository) and not Path(name).exists()):
        return name
    raise DataError(f"{served} names its base as {name!r}, which may lie anywhere; give it with --base.")


def _say_in_sentences(app: "FastAPI") -> None:
    """Let every refusal and every failure be one JSON object with one sentence."""
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @app.exception_handler(_Refused)
    async def refused(request: "Request", error: _Refused) -> "Response":
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: "Request", error: HTTPException) -> "Response":
        return JSONResponse({"error": f"{error.detail}; see POST {PREDICT}, GET {ABOUT}, /health"}, error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: "Request", error: Exception) -> "Response":
        return JSONResponse({"error": f"the server failed ({type(error).__name__}); its log says more"}, 500)


def _authorise(request: "Request", token: str | None) -> None:
    if token is None:
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise _Refused(401, f"a bearer token is wanted: the client's {TOKEN}", {"www-authenticate": "Bearer"})


def _seconds_left(request: "Request") -> float:
    try:
        left = float(request.headers.get(LEFT, _PATIENCE))
    except ValueError:
        raise _Refused(400, f"the header {LEFT} is no number of seconds") from None
    return min(left, _PATIENCE) if math.isfinite(left) else _PATIENCE


async def _body(request: "Request", most: int) -> bytes:
    """The request's body, refused above `most` bytes and where it does not come."""
    from starlette.requests import ClientDisconnect

    content, size = bytearray(), 0
    try:
        async with asyncio.timeout(_SENDING):
            async for some in request.stream():
                size += len(some)
                if size <= most:
                    content += some
                if size > _READ_ON:
                    break
    except (TimeoutError, ClientDisconnect):
        raise _Refused(408, f"no whole image came within {_SENDING:g} s") from None
    if size > most:
        raise _Refused(413, f"the image has more than {most} bytes, the most that is taken; send it smaller")
    if not content:
        raise _Refused(400, "no image came; send an image file as the body of the request")
    return bytes(content)


def _decoded(content: bytes, reading: Reading | None) -> Rgb:
    try:
        return images.load(content, reading or Reading()).rgb
    except DataError as error:
        raise _Refused(400, str(error)) from None

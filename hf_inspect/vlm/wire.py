"""One server of a VLM over HTTP: each part is asked within a deadline, again where that may help, and answered by the
server or by why there is no answer. Needs neither torch nor transformers.
"""

import asyncio
import json
import logging
import os
import re
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from hf_inspect.errors import DataError, InspectError, MissingExtraError, ServerError
from hf_inspect.faults import reason
from hf_inspect.runtime import LoadedHere

if TYPE_CHECKING:
    import httpx
    from circuitbreaker import CircuitBreaker
    from tenacity import RetryCallState

TOKEN = "HF_INSPECT_SERVE_TOKEN"  # environment variable, of the server and of its clients
DEADLINE = 10.0  # seconds a part
PATIENCE = 5.0  # seconds that a server may take to say what it is, and its whole history
FAILURES, REST = 8, 10.0  # parts in a row without an answer, after which the server is left alone; seconds
_CONNECTIONS = 32
_UNCHECKED = ("failed", "absent", "broken", "garbage", "late", "changed")  # after which the server may be another one
LOST = ("failed", "absent", "broken", "garbage", "late", "changed", "busy", "given up")  # for want of a server
_LONGEST = 1 << 20  # bytes of an answer; ours has a few hundred
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds before a part is asked again: twice as long each time, jittered
_QUOTED = 160  # letters of what a server says of itself
_PASSING = (502, 503, 504)
_FITS_HEADER = re.compile(r"[\x21-\x7e]+")
_LOG = logging.getLogger("hf_inspect.wire")
Answer = TypeVar("Answer")


class Unanswered(Exception):
    """Why a part has no answer, in words. `kind` is what it counts as; `again` whether asking once more may help."""

    def __init__(self, kind: str, why: str, again: bool = False, pause: float = 0.0) -> None:
        super().__init__(why)
        self.kind, self.again, self.pause = kind, again, pause


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: the status, the body, and the place that it sends on to."""

    status: int
    content: bytes
    location: str | None


class Wire:
    """One server at `url`, asked by a thread of its own; `counts` of what came of it.

    `late` parts had no answer within the deadline, `given up` were not asked because so many before them had failed.
    A `strict` one raises ServerError where a part has no answer for want of a server: what is fitted on the answers
    needs them all. Threads may share one, a fork of the process may not use it.
    """

    strict = False

    def __init__(self, url: str, deadline: float = DEADLINE, rest: float = REST, longest: int = _LONGEST) -> None:
        """Ask nothing yet. `deadline` is of a part, in seconds; `rest` of a server that `FAILURES` parts in a row had
        no answer from; an answer has `longest` bytes at most. DataError for an address that may not be used.
        """
        self.url, self.deadline, self._longest = checked_url(url), deadline, longest
        if not deadline > 0:
            raise DataError(f"The deadline is {deadline:g} s; give the seconds that a part may wait, such as 2.")
        self.counts: Counter[str] = Counter()
        self._token, self._loaded_here = token_of_environment(), LoadedHere("The client of a VLM's server")
        self._breaker = _breaker(rest)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="hf_inspect wire").start()
        self._client = self.wait(self._opened())

    def close(self) -> None:
        """Close the connections, and end the thread."""
        if not self._loop.is_closed() and self._loop.is_running():
            self.wait(self._client.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def wait(self, work: "Awaitable[Answer]") -> Answer:
        """What a coroutine of this wire comes to, run by its thread."""
        self._loaded_here.check()

        async def run() -> Answer:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def each(self, asks: Sequence[Callable[[], Awaitable[Answer]]]) -> list[Answer | Unanswered]:
        """An answer for each part, in order, all asked at once; Unanswered says why there is none.

        ServerError where it is `strict`, and the server had none for one of them.
        """

        async def every() -> list[Answer | Unanswered]:
            return await asyncio.gather(*(self._or_why(ask) for ask in asks))

        found = self.wait(every())
        lost = [one for one in found if isinstance(one, Unanswered) and one.kind in LOST]
        if self.strict and lost:
            raise ServerError(
                f"{self.url} gave no answer for {len(lost)} of {len(found)} parts ({lost[0]}); look after the server "
                "and run the same command again: it goes on from the last whole batch."
            )
        return found

    async def send(self, method: str, path: str, longest: int | None = None, **given: Any) -> Reply:
        """One request, without a second try; Unanswered where no whole answer comes, or one that is no 2xx.

        `longest` is the most bytes of this one's answer.
        """
        import httpx

        self.counts["bytes"] += len(given.get("content") or b"")
        try:
            async with self._client.stream(method, f"{self.url}{path}", **given) as response:
                reply = Reply(
                    response.status_code,
                    await _body(response, longest or self._longest),
                    response.headers.get("location"),
                )
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise _failed(error, self.url) from None
        if not 200 <= reply.status < 300:
            raise _refused(reply, self.url, response.headers.get("retry-after"), bool(self._token))
        return reply

    async def within(self, ask: Callable[[], Awaitable[Answer]], seconds: float | None = None) -> Answer:
        """`ask`, tried again with pauses while that may help and `seconds`, by default the deadline, are not over."""
        from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

        jitter = wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)
        last: list[Unanswered] = []
        seconds = self.deadline if seconds is None else seconds

        def pause(state: "RetryCallState") -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(jitter(state), error.pause if isinstance(error, Unanswered) else 0.0)

        async def once() -> Answer:
            try:
                return await ask()
            except Unanswered as error:
                last[:] = [error]
                raise

        again = retry_if_exception(lambda error: isinstance(error, Unanswered) and error.again)
        try:
            async with asyncio.timeout(seconds):
                return await AsyncRetrying(retry=again, wait=pause, before_sleep=self._retried, reraise=True)(once)
        except TimeoutError:
            if last:
                raise Unanswered(last[0].kind, f"{last[0]}, for {seconds:g} s", again=True) from None
            raise Unanswered("late", f"its server did not answer within {seconds:g} s", again=True) from None

    def summary(self) -> str:
        """How many parts were asked and what became of them, in a line."""
        asked = self.counts["asked"]
        told = [f"{n} {kind}" for kind, n in sorted(self.counts.items()) if kind not in ("asked", "bytes") and n]
        each = f"; {self.counts['bytes'] / asked:,.0f} bytes a part" if asked else ""
        return f"the VLM's server {self.url}: {asked} parts asked ({', '.join(told) or 'nothing'}){each}"

    async def _or_why(self, ask: Callable[[], Awaitable[Answer]]) -> Answer | Unanswered:
        try:
            answer = await self._guarded(ask)
        except Unanswered as error:
            self.counts[error.kind] += 1
            return error
        except Exception as error:  # of our own making: the part is not lost for it
            self.counts["failed"] += 1
            return Unanswered("failed", f"asking its server failed ({reason(error)})")
        self.counts["answered"] += 1
        return answer

    async def _guarded(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._breaker.opened:
            until = self._breaker.open_until.astimezone()
            last = self._breaker.last_failure
            raise Unanswered(
                "given up",
                f"its server is given up until {until:%H:%M:%S} ({self._breaker.failure_count} failures, the last: "
                f"{last})",
            )
        self.counts["asked"] += 1
        with self._breaker:
            return await self.within(ask)

    def _retried(self, state: "RetryCallState") -> None:
        self.counts["retries"] += 1

    async def _opened(self) -> "httpx.AsyncClient":
        """The client, made in the thread that uses it."""
        import httpx

        headers = {"accept-encoding": "identity", "user-agent": "hf-inspect"}
        return httpx.AsyncClient(
            headers=headers | ({"authorization": f"Bearer {self._token}"} if self._token else {}),
            timeout=self.deadline,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        )


class Trust:
    """Whether a server is the one that is wanted: asked again after each failure, before a part is entrusted to it.

    `check` asks; it raises an InspectError of ours where the server is another one.
    """

    def __init__(self, wire: Wire, check: Callable[[], Awaitable[None]]) -> None:
        """Nothing is asked yet: see `connect`."""
        self._wire, self._check, self._lock = wire, check, asyncio.Lock()
        self.checked = False

    def connect(self, url: str, patience: float, wait: bool) -> None:
        """Check the server now; `wait`: one that is not there is told of in the log, and checked when a part comes.

        ServerError where it does not answer within `patience` seconds, or whatever `check` raises; the wire is closed.
        """
        try:
            self._wire.wait(self._wire.within(self._check, patience))
            self.checked = True
        except Unanswered as error:
            if not (wait and error.again):
                self._wire.close()
                raise refusal(error, url) from None
            _LOG.warning("The VLM does not answer (%s): parts that need it stay undecided until it does.", error)
        except BaseException:
            self._wire.close()
            raise

    def require(self, url: str, patience: float = PATIENCE) -> None:
        """ServerError unless the server has been checked, or can be now."""
        if not self.checked:
            self.connect(url, patience, wait=False)

    async def ask(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `ask` comes to, at a server that is the one that is wanted; Unanswered where it is not."""
        try:
            await self._ensure()
            return await ask()
        except Unanswered as error:
            self.checked = self.checked and error.kind not in _UNCHECKED
            raise
        except asyncio.CancelledError:  # the deadline has passed
            self.checked = False
            raise

    async def _ensure(self) -> None:
        async with self._lock:
            if self.checked:
                return
            try:
                await self._check()
            except InspectError as error:
                raise Unanswered("changed", f"its server is not the one that is wanted: {error}") from None
            self._wire.counts["reconnected"] += 1
            self.checked = True


def checked_url(url: str) -> str:
    """An address `http://host:port` or `https://...` without a slash at its end; DataError for any other."""
    missing = [name for name in ("httpx", "tenacity", "circuitbreaker") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"A VLM's server needs {', '.join(missing)}: pip install 'hf-inspect[edge]'")
    import httpx

    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise DataError(f"{url!r} is no address; give one such as http://10.0.0.5:8100.") from None
    if found.userinfo or found.query or found.fragment:
        host = found.host or "that server"
        raise DataError(
            f"The address of {host} holds a name, a password or a query; give http://host:port alone, and a token in "
            f"the environment as {TOKEN}."
        )
    if found.scheme not in ("http", "https") or not found.host:
        raise DataError(f"{url!r} is no address of a server; give one such as http://10.0.0.5:8100.")
    return url.rstrip("/")


def token_of_environment() -> str | None:
    """The bearer token in HF_INSPECT_SERVE_TOKEN, None without one; DataError, which does not show it, if unusable."""
    token = os.environ.get(TOKEN) or None
    if token is not None and not _FITS_HEADER.fullmatch(token):
        raise DataError(f"{TOKEN} holds a space, a line's end or a letter beyond ASCII; set it to the token alone.")
    return token


def refusal(error: Unanswered, url: str) -> InspectError:
    """The error of a server that cannot be used from the start."""
    return ServerError(f"{url}: {error}; look after the server, or give another address.")


def _breaker(rest: float) -> "CircuitBreaker":
    from circuitbreaker import CircuitBreaker

    def counts(kind: type[BaseException], error: BaseException) -> bool:
        return isinstance(error, Unanswered) and error.kind not in ("busy", "refused")  # which show that it lives

    return CircuitBreaker(FAILURES, rest, counts)


async def _body(response: "httpx.Response", longest: int) -> bytes:
    content = b""
    async for some in response.aiter_raw():
        content += some
        if len(content) > longest:
            raise Unanswered("garbage", f"its server's answer is longer than {longest} bytes")
    return content


def _failed(error: BaseException, url: str) -> Unanswered:
    """Why no answer came, by the connection's own error."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    insecure = next((one for one in chain if isinstance(one, ssl.SSLError)), None)
    if insecure is not None:
        why = getattr(insecure, "verify_message", None) or insecure.reason or type(insecure).__name__
        return Unanswered(
            "failed",
            f"no secure connection comes about ({str(why).replace('_', ' ').lower()}); give the server a certificate "
            "for its name that this machine trusts, SSL_CERT_FILE naming who signed it, or an address it has one for",
        )
    numbers = [one.errno for one in chain if isinstance(one, OSError) and one.errno and one.errno > 0]
    why = os.strerror(numbers[0]) if numbers else str(error) or type(error).__name__
    return Unanswered("failed", f"its server cannot be reached ({_brief(why)})", again=True)


def _refused(reply: Reply, url: str, retry_after: str | None, with_token: bool) -> Unanswered:
    """Why an answer with a status that is no 2xx is none."""
    import httpx

    status, said = reply.status, _sentence(reply.content)
    if status == HTTPStatus.UNAUTHORIZED or status == HTTPStatus.FORBIDDEN:
        came = "the token in it is another" if with_token else "none is there"
        return Unanswered("failed", f"its server wants a token ({status}); set {TOKEN}, {came}")
    if 300 <= status < 400:
        try:
            host = httpx.URL(reply.location or "").host
        except httpx.InvalidURL:
            host = ""
        return Unanswered(
            "failed", f"its server sends on to {host or 'another page'} ({status}), which is not followed"
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        return Unanswered("busy", f"its server is busy ({status})", again=True, pause=seconds)
    kind = "absent" if status == HTTPStatus.NOT_FOUND else "failed" if status >= 500 else "refused"
    kind = "broken" if status == HTTPStatus.INTERNAL_SERVER_ERROR else kind  # at this request
    return Unanswered(kind, f"its server answered {status} ({said or _phrase(status)})", again=status in _PASSING)


def _sentence(content: bytes) -> str:
    """What a server says in an answer that is an error: ours, or in OpenAI's or FastAPI's form; "" in any other."""
    try:
        stated = json.loads(content)
        said = stated.get("error") or stated.get("detail")
        said = said.get("message") if isinstance(said, dict) else said
    except (ValueError, AttributeError, RecursionError):
        return ""
    return _brief(said) if isinstance(said, str) else ""


def _brief(text: str) -> str:
    """A text on one line that a terminal takes."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no status that HTTP knows"

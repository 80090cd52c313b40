"""A VLM that another machine serves (`hf-inspect serve`), as a `Predictor`: images go out, answers come back.

Needs neither torch nor transformers. A part without an answer in time is one whose `unreadable` says why.
"""

import asyncio
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from PIL import Image

from hf_inspect.errors import DataError, InspectError
from hf_inspect.images import Rgb
from hf_inspect.reading import Reading
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.vlm.identity import About
from hf_inspect.vlm.sizing import sizing_of
from hf_inspect.vlm.wire import DEADLINE, PATIENCE, REST, Reply, Unanswered, Wire, refusal

ABOUT, PREDICT, HISTORY = "/vlm", "/predict", "/history"  # what a server of ours answers
LEFT = "x-seconds-left"  # header: after so many nobody waits for the answer
_FAST = 1  # zlib's level: at 224 pixels a third of the time of the default, for a tenth more bytes
_UNCHECKED = ("failed", "absent", "broken", "garbage", "late", "changed")  # after which the server may be another one


class RemoteVLM:
    """A `Predictor` at the other end of a wire; see `connect`.

    Every answer carries the identity of the VLM that gave it, and is none where that is not the one that was checked.
    Threads may share one; a fork of the process may not use it (ForkError).
    """

    def __init__(
        self, wire: Wire, about: About, files: Mapping[str, str] | None = None, jpeg: int | None = None
    ) -> None:
        """`about` is what the server said of itself; `connect` asks it."""
        self.wire, self.about, self._files, self._jpeg = wire, about, files, jpeg
        self._sizing, self._checked, self._checking = sizing_of(about.image_rule), True, asyncio.Lock()

    @classmethod
    def connect(
        cls,
        url: str,
        files: Mapping[str, str] | None = None,
        *,
        deadline: float = DEADLINE,
        jpeg: int | None = None,
        rest: float = REST,
        patience: float = PATIENCE,
    ) -> "RemoteVLM":
        """Ask the server at `url` what its VLM is.

        `files` are a cascade.json's: ParityError unless base and adapter are those. `deadline` is of each part, in
        seconds; `jpeg`, 1 to 100, sends images at that quality instead of as they are. ServerError where no server
        answers within `patience` seconds, DataError for one that is not of ours.
        """
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise DataError(f"The JPEG quality is {jpeg}; give 1 to 100, or leave it out to send images as they are.")
        wire = Wire(url, deadline, rest)
        try:
            about = wire.wait(wire.within(partial(_about, wire, files), patience))
        except Unanswered as error:
            wire.close()
            raise refusal(error, wire.url) from None
        except BaseException:
            wire.close()
            raise
        return cls(wire, about, files, jpeg)

    @property
    def task(self) -> TaskSpec:
        """What the served VLM answers."""
        return self.about.task

    @property
    def reading(self) -> Reading | None:
        """How the files were read that the served VLM was trained on."""
        return self.about.reading

    @property
    def identity(self) -> str:
        """That of the served VLM: the same as in process. Sent as JPEG, images are others, and so is the identity."""
        if self._jpeg is None:
            return self.about.identity
        return hashlib.sha256(f"{self.about.identity} jpeg {self._jpeg}".encode()).hexdigest()

    @cached_property
    def history(self) -> History:
        """What the served VLM and its ancestors were trained on, fetched when it is first asked for."""
        try:
            reply = self.wire.wait(self.wire.within(partial(self.wire.send, "GET", HISTORY), PATIENCE))
        except Unanswered as error:
            raise refusal(error, self.wire.url) from None
        return History.from_dict(_json(reply), self.wire.url)

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """An answer for each RGB uint8 (h, w, 3) image of any size, in order; all are asked at once.

        Each is sent at the size that the prompt needs.
        """
        answers = self.wire.each([partial(self._ask, image) for image in images])
        return [Prediction(None, unreadable=str(one)) if isinstance(one, Unanswered) else one for one in answers]

    async def _ask(self, image: Rgb) -> Prediction:
        until = time.monotonic() + self.wire.deadline
        try:
            content = await asyncio.to_thread(lambda: encode(self._sizing.fit(image), self._jpeg))
        except DataError as error:
            raise Unanswered("refused", str(error)) from None
        try:
            await self._check()
            reply = await self.wire.send(
                "POST", PREDICT, content=content, headers={LEFT: f"{max(0.0, until - time.monotonic()):.3f}"}
            )
            return self._read(reply)
        except Unanswered as error:
            self._checked = self._checked and error.kind not in _UNCHECKED
            raise
        except asyncio.CancelledError:  # the deadline has passed
            self._checked = False
            raise

    async def _check(self) -> None:
        """Ask the server what it is, once after each failure, before a part is entrusted to it again."""
        async with self._checking:
            if self._checked:
                return
            try:
                about = await _about(self.wire, self._files)
            except InspectError as error:
                raise Unanswered("changed", f"its server is not the one that was checked: {error}") from None
            if about.identity != self.about.identity:
                raise Unanswered("changed", "its server has another VLM now than the one that was checked")
            self.wire.counts["reconnected"] += 1
            self._checked = True

    def _read(self, reply: Reply) -> Prediction:
        stated = _json(reply)
        try:
            of, severity, p = stated["identity"], stated.get("severity"), stated.get("probabilities")
            if isinstance(severity, bool):
                raise TypeError("severity")
            found = Prediction(severity, None if p is None else tuple(p), stated.get("unreadable"))
        except (KeyError, TypeError, AttributeError, DataError):
            raise Unanswered("garbage", "its server answered what is no prediction") from None
        if p is not None and len(p) != len(self.task.classes):
            raise Unanswered("garbage", f"its server answered {len(p)} probabilities, not {len(self.task.classes)}")
        if of != self.about.identity:
            raise Unanswered("changed", "its server has another VLM now than the one that was checked")
        return found


def encode(rgb: Rgb, jpeg: int | None = None) -> bytes:
    """An image uint8 (h, w, 3) as a PNG, which loses nothing, or as a JPEG of a quality, 1 to 100."""
    buffer = io.BytesIO()
    if jpeg is None:
        Image.fromarray(rgb).save(buffer, "PNG", compress_level=_FAST)
    else:
        Image.fromarray(rgb).save(buffer, "JPEG", quality=jpeg, subsampling=0)
    return buffer.getvalue()


async def _about(wire: Wire, files: Mapping[str, str] | None) -> About:
    """What the server says of itself, once it is known to be the one that is wanted."""
    try:
        reply = await wire.send("GET", ABOUT)
        about = About.from_dict(_json(reply), wire.url)
    except Unanswered as error:
        if error.kind in ("garbage", "absent"):
            raise DataError(f"{wire.url} is no server of a VLM of ours; start 'hf-inspect serve' there.") from None
        raise
    if files is not None:
        about.refuse_other_files(files, wire.url)
    return about


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        raise Unanswered("garbage", "its server answered what is no JSON") from None

"""A VLM that another machine serves (`hf-inspect serve`), as a `Predictor`: images go out, answers come back.

Needs neither torch nor transformers. A part without an answer in time is one whose `unreadable` says why.
"""

import asyncio
import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from PIL import Image

from hf_inspect.errors import DataError, ParityError
from hf_inspect.images import Rgb
from hf_inspect.prompts.sizing import Size, sizing_of
from hf_inspect.reading import Reading
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks.detection import Decoding
from hf_inspect.vlm.answered import prediction_of
from hf_inspect.vlm.identity import SERVER, About, Wanted, history_sha256
from hf_inspect.vlm.wire import DEADLINE, PATIENCE, REST, Reply, Trust, Unanswered, Wire, refusal

ABOUT, PREDICT, HISTORY = "/vlm", "/predict", "/history"  # what a server of ours answers
LEFT = "x-seconds-left"  # header: after so many nobody waits for the answer
_FAST = 1  # zlib's level: at 224 pixels a third of the time of the default, for a tenth more bytes
_HISTORY_WITHIN = 60.0  # seconds for a whole history
_LONGEST_HISTORY = 256 << 20  # bytes; an image takes some 120


class RemoteVLM:
    """A `Predictor` at the other end of a wire; see `connect`.

    Every answer carries the identity of the VLM that gave it, and is none where that is not the one that was checked.
    Threads may share one; a fork of the process may not use it (ForkError).
    """

    def __init__(self, url: str, wanted: Wanted | None, deadline: float, jpeg: int | None, rest: float) -> None:
        """Ask nothing yet; see `connect`."""
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise DataError(f"The JPEG quality is {jpeg}; give 1 to 100, or leave it out to send images as they are.")
        self.wire, self._wanted, self._jpeg = Wire(url, deadline, rest), wanted, jpeg
        self._trust = Trust(self.wire, self._check)
        self._about: About | None = None

    @classmethod
    def connect(
        cls,
        url: str,
        wanted: Wanted | None = None,
        *,
        deadline: float = DEADLINE,
        jpeg: int | None = None,
        rest: float = REST,
        patience: float = PATIENCE,
        wait: bool = False,
    ) -> "RemoteVLM":
        """Ask the server at `url` what its VLM is.

        `wanted` is what a cascade was calibrated with: ParityError or DataError for another VLM. `deadline` is of each
        part, in seconds; `jpeg`, 1 to 100, sends images at that quality instead of as they are. ServerError where no
        server answers within `patience` seconds, DataError for one that is not of ours. With `wait`, and `wanted`, a
        server that is not there yet is no error: it is checked when a part comes, and until it is the one that is
        wanted no part has an answer.
        """
        remote = cls(url, wanted, deadline, jpeg, rest)
        remote._trust.connect(remote.wire.url, patience, wait and wanted is not None)
        return remote

    @property
    def about(self) -> About:
        """What the server says of its VLM; ServerError where it has not answered yet, and does not now."""
        if self._about is None:
            self._trust.require(self.wire.url)
        assert self._about is not None
        return self._about

    @property
    def address(self) -> str:
        """Where it is served, as a cascade.json names it."""
        return self.wire.url

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that decide, by role and name; DataError for a server that has none to state."""
        if not self.about.files:
            raise DataError(f"{self.wire.url} states no files of its VLM; start 'hf-inspect serve' there.")
        return self.about.files

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a promise made with it must say of it besides: nothing, as its files are known."""
        return ()

    @property
    def states(self) -> dict[str, Any]:
        """What a cascade.json keeps of it beside the SHA-256 of its files, as plain JSON values."""
        about = self.about
        stated = {"kind": SERVER, "identity": about.identity, "fingerprint": about.fingerprint}
        return stated | ({"guide": about.guide, "told": about.told} if about.task.finds else {})

    @property
    def task(self) -> TaskSpec:
        """What is answered here: the cascade's task, in its order, or else the served VLM's."""
        return self._wanted.task if self._wanted else self.about.task

    @property
    def told(self) -> float:
        """The score from which on what is found is told of."""
        stated = self._wanted.told if self._wanted else self.about.told
        return Decoding().told if stated is None else stated

    @property
    def reading(self) -> Reading | None:
        """How the files were read that the served VLM was trained on; None while that is not known."""
        return self._about.reading if self._about else None

    @property
    def identity(self) -> str:
        """That of the wanted files, or else of the served VLM, the same as in process.

        Sent as JPEG, images are others, and so is the identity.
        """
        own = self._wanted.identity if self._wanted else self.about.identity
        return own if self._jpeg is None else hashlib.sha256(f"{own} jpeg {self._jpeg}".encode()).hexdigest()

    @cached_property
    def history(self) -> History:
        """What the served VLM and its ancestors were trained on, fetched when it is first asked for."""
        about, ask = self.about, partial(self.wire.send, "GET", HISTORY, longest=_LONGEST_HISTORY)
        try:
            found = History.from_dict(_json(self.wire.wait(self.wire.within(ask, _HISTORY_WITHIN))), self.wire.url)
        except Unanswered as error:
            raise refusal(error, self.wire.url) from None
        if history_sha256(found) != about.history:
            raise ParityError(f"{self.wire.url} tells of another training than its VLM's; start the server again.")
        return found

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """An answer for each RGB uint8 (h, w, 3) image of any size, in order; all are asked at once.

        Each is sent at the size that the prompt needs.
        """
        until = time.monotonic() + self.wire.deadline
        answers = self.wire.each([partial(self._ask, image, until) for image in images])
        return [Prediction(None, unreadable=str(one)) if isinstance(one, Unanswered) else one for one in answers]

    async def _ask(self, image: Rgb, until: float) -> Prediction:
        return await self._trust.ask(partial(self._answer, image, until))

    async def _answer(self, image: Rgb, until: float) -> Prediction:
        assert self._about is not None
        try:
            fitted = await asyncio.to_thread(sizing_of(self._about.image_rule).fit, image)
            content = await asyncio.to_thread(encode, fitted, self._jpeg)
        except DataError as error:
            raise Unanswered("refused", str(error)) from None
        left = f"{max(0.0, until - time.monotonic()):.3f}"
        reply = await self.wire.send("POST", PREDICT, content=content, headers={LEFT: left})
        return self._read(reply, fitted.shape[:2], image.shape[:2])

    async def _check(self) -> None:
        """Ask the server what it is; an InspectError where it is not what is wanted, or another than before."""
        try:
            about = About.from_dict(_json(await self.wire.send("GET", ABOUT)), self.wire.url)
        except Unanswered as error:
            if error.kind in ("garbage", "absent"):
                raise DataError(
                    f"{self.wire.url} is no server of a VLM of ours; start 'hf-inspect serve' there."
                ) from None
            raise
        if self._wanted is not None:
            self._wanted.refuse_other(about, self.wire.url)
        if self._about is not None and about.identity != self._about.identity:
            raise ParityError("it has another VLM now than the one that was checked")
        self._about = about

    def _read(self, reply: Reply, sent: Size, size: Size) -> Prediction:
        """What a reply says of an image, which was sent at another size, in the order of the task here."""
        assert self._about is not None
        stated, served = _json(reply), self._about.task
        found = prediction_of(stated, served, sent, size)
        if "identity" not in stated:
            raise Unanswered("garbage", "its server answered what is no prediction")
        if stated["identity"] != self._about.identity:
            raise Unanswered("changed", "its server has another VLM now than the one that was checked")
        order = self._wanted.task.order_in(served) if self._wanted else range(len(served.classes))
        p = found.probabilities
        return found if p is None else replace(found, probabilities=tuple(p[i] for i in order))


def encode(rgb: Rgb, jpeg: int | None = None) -> bytes:
    """An image uint8 (h, w, 3) as a PNG, which loses nothing, or as a JPEG of a quality, 1 to 100."""
    buffer = io.BytesIO()
    if jpeg is None:
        Image.fromarray(rgb).save(buffer, "PNG", compress_level=_FAST)
    else:
        Image.fromarray(rgb).save(buffer, "JPEG", quality=jpeg, subsampling=0)
    return buffer.getvalue()


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        raise Unanswered("garbage", "its server answered what is no JSON") from None

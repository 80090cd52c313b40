"""Questions that come one by one from many clients -> batches for the one predictor that answers them."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Thread

from hf_inspect.faults import each
from hf_inspect.images import Rgb
from hf_inspect.schema import Prediction, Predictor

AT_ONCE = 16  # images a batch, as an Inspector's
WINDOW = 0.004  # seconds that the first of a batch waits for others
PATIENCE = 0.1  # share of the last batch's time that is waited for those who asked then, and may well ask again
WAITING = 64  # images that wait; one more is refused


@dataclass(frozen=True, slots=True)
class _Asked:
    """One image, what becomes of it, and when (of `time.monotonic`) nobody waits for it any more."""

    image: Rgb
    until: float
    answer: "Future[Prediction]" = field(default_factory=Future)


class Batcher:
    """A thread that asks `predictor` about what has come from all sides, up to 16 images at a time.

    The first of a batch waits for others for a moment, and a little longer until as many have come as asked last:
    clients that wait for their answers and ask again stay in one batch. With a `window` of 0 nobody waits. `submit` may
    be called from any thread. An image at which the predictor fails is answered by that alone, and one whose time is
    over, or that nobody waits for any more, is not asked about.
    """

    def __init__(self, predictor: Predictor, waiting: int = WAITING, window: float = WINDOW) -> None:
        self._predictor, self._window = predictor, window
        self._expected, self._patience = 0, window  # images of a batch, and seconds that they are waited for
        self._queue: Queue[_Asked | None] = Queue(waiting)
        self._thread = Thread(target=self._run, daemon=True, name="hf_inspect batches")
        self._thread.start()

    def submit(self, image: Rgb, until: float) -> "Future[Prediction]":
        """The answer to come for an RGB uint8 (h, w, 3) image; TimeoutError in it where `until` passes before its turn.

        `queue.Full` when too many wait already.
        """
        asked = _Asked(image, until)
        self._queue.put_nowait(asked)
        return asked.answer

    def waiting(self) -> int:
        """How many images wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """End the thread once all that wait are answered."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ended = self._joined(first)
            begin = time.monotonic()
            self._answer(batch)
            self._expected = len(batch) + self._queue.qsize()
            self._patience = self._window and max(self._window, PATIENCE * (time.monotonic() - begin))
            if ended:
                return

    def _joined(self, first: _Asked) -> tuple[list[_Asked], bool]:
        """The first and whatever comes in time, and whether the end came too."""
        batch, begin = [first], time.monotonic()
        while len(batch) < AT_ONCE:
            waits = self._patience if len(batch) < self._expected else self._window
            try:
                one = self._queue.get(timeout=max(0.0, begin + waits - time.monotonic()))
            except Empty:
                return batch, False
            if one is None:
                return batch, True
            batch.append(one)
        return batch, False

    def _answer(self, batch: Sequence[_Asked]) -> None:
        now = time.monotonic()
        waited_for = [one for one in batch if one.answer.set_running_or_notify_cancel()]
        for one in waited_for:
            if one.until <= now:
                one.answer.set_exception(TimeoutError())
        asked = [one for one in waited_for if one.until > now]
        found = each(lambda some: self._predictor.predict([one.image for one in some]), asked, _failed)
        for one, prediction in zip(asked, found, strict=True):
            one.answer.set_result(prediction)


def _failed(asked: _Asked, error: Exception) -> Prediction:
    """The answer for an image at which the predictor failed; what the error says stays here, it may name a path."""
    return Prediction(None, unreadable=f"the VLM failed at the image ({type(error).__name__})")


__all__ = ["AT_ONCE", "WAITING", "WINDOW", "Batcher", "Full"]

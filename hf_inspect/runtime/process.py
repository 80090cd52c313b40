"""The process that a model was loaded in, and a sentence for any other that uses it."""

import os

from hf_inspect.errors import ForkError


class LoadedHere:
    """Remembers the process it is made in: the threads of OpenVINO and torch do not come along into a fork of it."""

    def __init__(self, what: str) -> None:
        self._what, self._process = what, os.getpid()

    def check(self) -> None:
        """Raise ForkError in another process, where the model could wait for ever for threads that are not there."""
        if os.getpid() != self._process:
            raise ForkError(
                f"{self._what} was loaded in process {self._process} and came into process {os.getpid()} by a fork, "
                "where its threads do not run; start processes with multiprocessing.get_context('spawn') and load it "
                "in each, or fork before any model is loaded."
            )

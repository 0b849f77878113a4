"""The time limit of one job, over all that is done for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from config.errors import InferenceError
from dicomnode.series.decode import Decoder, FrameRequest


class Deadline:
    """When the time of one analysis is up.

    Args:
        what: Who is stopped then, for the error: the model.
        seconds: From now on; None for no limit.
    """

    def __init__(self, what: str, seconds: float | None) -> None:
        self._what = what
        self._ends = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds that are left, None for any number of them.

        Raises:
            InferenceError: There are none.
        """
        if self._ends is None:
            return None
        left = self._ends - time.monotonic()
        if left <= 0:
            raise InferenceError(f"{self._what} was stopped: its time was up")
        return left

    def over(self, decoder: Decoder) -> Decoder:
        """The decoder, stopped between two frames when the time is up."""

        def decode(requests: Sequence[FrameRequest]) -> Iterator[NDArray[Any]]:
            for plane in decoder(requests):
                self.left()
                yield plane

        return decode

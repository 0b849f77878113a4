"""Closes the rows of associations that ended, also when the database cannot be written just then.

A row that stays open would hold up its series until the next start: whether everything came that
was to come is judged by it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from config.errors import StorageError
from storage.db import Ledger
from storage.index import close_association
from storage.turn import Turn

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""How long the end of an association waits for the rows of its objects."""


class Closing:
    """Closes association rows; what fails is tried again until it is written. Safe for threads.

    Args:
        ledger: Where the rows are.
        turn: Queues with the other receivers for the database.
        settled: Whether the objects of an association have their rows, waiting so many seconds.
        first_retry_seconds: Pause before the second attempt; it doubles.
    """

    def __init__(
        self,
        ledger: Ledger,
        turn: Turn,
        settled: Callable[[int, float], bool],
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._turn = turn
        self._settled = settled
        self._first_retry_seconds = first_retry_seconds
        self._left: dict[int, str] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = False

    def close(self, association_id: int, outcome: str) -> bool:
        """Close one row; whether it is written. If not, it will be."""
        if self._written(association_id, outcome, SETTLE_SECONDS):
            return True
        with self._changed:
            self._left[association_id] = outcome
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._retry, name="closing")
                self._thread.start()
        return False

    def end(self) -> None:
        """Give up; the next start closes what is left."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _written(self, association_id: int, outcome: str, patience: float = 0.0) -> bool:
        """Write the row, after those of all that the association brought."""
        if not self._settled(association_id, patience):
            return False
        try:
            with self._turn.held(time.monotonic()):
                close_association(self._ledger, association_id, outcome)
        except StorageError as error:
            log.error("the end of an association could not be recorded: %s", error)
            return False
        return True

    def _retry(self) -> None:
        pause = self._first_retry_seconds
        while (left := self._wait(pause)) is not None:
            association_id, outcome = left
            if self._written(association_id, outcome):
                with self._changed:
                    del self._left[association_id]
                pause = 0.0
            else:
                pause = min(max(self._first_retry_seconds, pause * 2), LONGEST_RETRY_SECONDS)
        self._ledger.close()  # this thread's connection

    def _wait(self, seconds: float) -> tuple[int, str] | None:
        """Wait a moment; what is to be tried again then."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, seconds)
            if self._left and not self._ending:
                return next(iter(self._left.items()))
            self._thread = None
            return None

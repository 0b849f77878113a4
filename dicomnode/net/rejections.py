"""Puts rejected associations on record, within bounds and without holding anybody up.

Whoever reaches the port may ask and be rejected as often as they like. What comes from one address
for one cause is told at once, and then at most once a minute, with how many there were.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from config.errors import StorageError
from dicomnode.net.peers import Rejection
from dicomnode.net.repeats import OTHERS, Key, Repeats, times
from storage.db import Ledger
from storage.turn import Turn

log = logging.getLogger(__name__)


class Rejections:
    """The audit events and log lines of one receiver's rejections.

    Args:
        ledger: Where the events go.
        turn: Queues with the other receivers for the database.
    """

    def __init__(self, ledger: Ledger, turn: Turn) -> None:
        self._ledger = ledger
        self._turn = turn
        self._repeats = Repeats()
        self._counting = threading.Lock()
        # One thread: it may wait for the database, those who reject may not.
        self._thread = ThreadPoolExecutor(1, "rejections")

    def note(self, rejection: Rejection, asked: tuple[str, str, str]) -> None:
        """An association was rejected; from any thread, at once.

        Args:
            rejection: How.
            asked: Called and calling AE title, and the address, of the requestor.
        """
        called, calling, address = asked
        with self._counting:
            key, count = self._repeats.count((rejection.why, address))
        if count:
            named = key != OTHERS
            who = f"ae:{calling}" if named else "ae:"
            since = time.monotonic()
            self._thread.submit(self._tell, key, count, who, called if named else "", since)

    def wait(self) -> None:
        """Wait until what was noted before is on record."""
        self._thread.submit(lambda: None).result()

    def end(self) -> None:
        """Put the rest on record."""
        self._thread.submit(self._tell_rest).result()
        self._thread.shutdown()

    def _tell_rest(self) -> None:
        since = time.monotonic()
        for key, count in self._repeats.rest():
            self._tell(key, count, "ae:", "", since)

    def _tell(self, key: Key, count: int, who: str, called: str, since: float) -> None:
        why, address = key
        log.warning("association rejected: %s, from %s%s", why, address, times(count))
        detail = {"why": why, "called_ae": called, "address": address, "count": count}
        try:
            with self._turn.held(since), self._ledger.transaction() as change:
                change.audit("association.rejected", object=who, outcome="refused", detail=detail)
        except StorageError as error:
            log.error("a rejected association could not be put on record: %s", error)
        finally:
            self._ledger.close()  # this thread's connection

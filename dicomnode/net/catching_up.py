"""A receiver finishes what the one that it replaces left, and takes nothing new before that."""

from __future__ import annotations

import logging
import threading
import time

from config.errors import StorageError
from dicomnode.recovery import Persistent
from storage.db import Ledger
from storage.index import close_lost_associations, known_keys, last_association
from storage.objects import ObjectStore
from storage.replay import replay
from storage.tidy import tidy

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long the start waits for it; when the disk or the database refuses the receiver serves."""


class CatchingUp:
    """What acknowledged objects of runs that are no more lack, in a thread of its own.

    Args:
        ledger: The database.
        store: Takes nothing new until all is done.
        receiver: Whose associations are lost.
    """

    def __init__(self, ledger: Ledger, store: ObjectStore, receiver: str) -> None:
        self._ledger = ledger
        self._store = store
        self._receiver = receiver
        self._last = last_association()
        self._work = Persistent(self._finish)
        self._tried = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catching-up", daemon=True)

    def begin(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Try it, and go on trying; returns when it was tried once, or after the time."""
        self._store.hold(StorageError("what was acknowledged before is not stored yet"))
        self._thread.start()
        self._tried.wait(seconds)

    def end(self) -> None:
        """Give up; the next start goes on."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._attempt():
                self._tried.set()
                if self._ending.wait(max(0.0, self._work.due_at - time.monotonic())):
                    return
            self._tried.set()
        finally:
            self._ledger.close()  # this thread's connection

    def _attempt(self) -> bool:
        done = self._work.attempt()
        self._store.hold(self._work.fault)
        return done

    def _finish(self) -> None:
        try:
            replay(self._ledger)
            close_lost_associations(self._ledger, self._receiver, self._last)
            tidy(self._ledger.data_dir, known_keys)
        except StorageError:
            raise
        except Exception as error:  # the border of the thread: it must go on, and say so
            log.exception("what was acknowledged before could not be stored")
            raise StorageError(f"unexpected {type(error).__name__}") from error

"""The scrub's place in the worker: a thread of its own that sleeps until its next round."""

from __future__ import annotations

import threading
import time

import structlog

from config.errors import StorageError
from storage import scrub
from storage.db import Ledger
from storage.objects import ObjectStore

log = structlog.get_logger(__name__)

ROUND_SECONDS = 86400.0
"""A round begins this long after the one before ended; a small store is not read all day."""

LOOK_AGAIN_SECONDS = 3600.0
"""How often what was found damaged is read again, and a fault of the whole store waited for."""


def scrub_until(
    stopping: threading.Event,
    ledger: Ledger,
    store: ObjectStore,
    rate: int,
    *,
    round_seconds: float = ROUND_SECONDS,
    look_again_seconds: float = LOOK_AGAIN_SECONDS,
) -> None:
    """Scrub round after round.

    Args:
        stopping: Set when the worker ends.
        ledger: The database.
        store: Where the objects lie.
        rate: Bytes a second; 0 scrubs nothing.
        round_seconds: Pause between two rounds.
        look_again_seconds: Longest sleep.
    """
    if not rate:
        return
    scrubber = scrub.Scrub(ledger, store, rate, _waiter(stopping))
    while not stopping.is_set():
        pause = look_again_seconds
        try:
            scrubber.look_again()
            pause = _until_next(round_seconds)
            if pause <= 0 and scrubber.round():
                log.info("scrub.ended", objects=scrub.place().objects, found=len(scrub.findings()))
                pause = round_seconds
        except StorageError as error:
            log.error("scrub.fault", why=str(error))
            pause = look_again_seconds
        except Exception:  # the border of the thread: the worker goes on
            log.exception("scrub.fault")
        ledger.close()  # this thread's connection: it is not needed for long
        stopping.wait(min(max(pause, 0.0), look_again_seconds))


def _waiter(stopping: threading.Event) -> scrub.Wait:
    return lambda seconds: stopping.wait(seconds) if seconds else stopping.is_set()


def _until_next(round_seconds: float) -> float:
    here = scrub.place()
    if here.begun_at or here.ended_at is None:
        return 0.0
    # A clock that was set back makes the last round lie ahead: never more than one pause.
    return min(here.ended_at + round_seconds - time.time(), round_seconds)

"""The processes that the supervisor starts: their life, one by one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import structlog

from config.errors import UsageError

log = structlog.get_logger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0

# What a worker says of itself, beside its first word, which says that it has begun.
ALIVE = "alive"
RETIRING = "retiring"


class Child:
    """One supervised process; restarted with a growing delay.

    Args:
        name: Shown in logs, audit and status.
        start: Starts it with the pipe that tells it to stop; gives the process, and the pipe on
            which it says that it has begun where it does.
    """

    def __init__(
        self, name: str, start: Callable[[Connection], tuple[Any, Connection | None]]
    ) -> None:
        self.name = name
        self._start = start
        self._stop: Connection | None = None
        self.process: Any = None
        self.voice: Connection | None = None
        self.has_begun = False
        self.heard_at = 0.0
        self.retired_at = 0.0
        self.restarts = -1
        self.started_at = 0.0
        self.restart_at = 0.0
        self.hindrance = ""
        self._backoff = FIRST_BACKOFF_SECONDS

    def start(self) -> bool:
        """Start it; when its address is taken, plan another try and say so once."""
        self.started_at = self.heard_at = time.monotonic()
        theirs, self._stop = multiprocessing.Pipe(duplex=False)
        try:
            with theirs:
                self.process, self.voice = self._start(theirs)
        except UsageError as error:
            self.tell_to_stop()
            if str(error) != self.hindrance:
                log.error("process.waits", process=self.name, why=str(error))
            self.hindrance = str(error)
            self.failed()
            return False
        self.has_begun = self.voice is None
        self.hindrance = ""
        self.restarts += 1
        return True

    def words(self) -> Iterator[Any]:
        """What it has said since it was last listened to; its voice is None when it has ended."""
        while self.voice is not None and self.voice.poll():
            try:
                word = self.voice.recv()
            except EOFError:
                self.voice.close()
                self.voice = None
                return
            self.has_begun = True
            self.heard_at = time.monotonic()
            yield word

    def has_died(self) -> bool:
        """Whether it ended since it was started, and nothing was planned yet."""
        return self.process is not None and self.process.exitcode is not None

    def failed(self) -> None:
        """Plan the restart of a process that ended by itself."""
        if self.voice is not None:
            self.voice.close()
            self.voice = None
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self._backoff = FIRST_BACKOFF_SECONDS
        self.restart_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)
        self.process = None
        self.has_begun = False

    def retire(self) -> Child:
        """Give another, not started yet, that takes its place while it still runs."""
        self.retired_at = time.monotonic()
        after = Child(self.name, self._start)
        after.restarts = self.restarts
        return after

    def tell_to_stop(self) -> None:
        """Ask it to end."""
        if self._stop is not None:
            self._stop.close()

    def kill(self) -> None:
        """End it at once; `has_died` is true afterwards."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def end(self, seconds: float) -> None:
        """Wait for its end; kill it when that takes too long."""
        if self.process is None:
            return
        self.process.join(seconds)
        if self.process.is_alive():
            log.warning("process.killed", process=self.name, why="it did not end in time")
            self.kill()

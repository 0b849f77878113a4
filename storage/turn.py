"""The queue of those who write rows of objects and associations, over all receivers of a node."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.errors import StorageError
from storage.files import storage_errors

log = logging.getLogger(__name__)

_MOMENT = struct.Struct("<d")


class Turn:
    """Queues its holder with the other receivers: SQLite would sleep for milliseconds instead.

    A thread holds it once. Who does not ask for it, the worker, may still be in the way.

    Args:
        data_dir: The data folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self._mutex = threading.Lock()
        # The file's lock is the process's. Its threads stand in a queue before it, each with a lock
        # that the one before it releases: else who comes now might be served before who waits.
        self._queue: deque[threading.Lock] = deque()
        self._fd = _open(data_dir / "commit.lock")
        self._next_fd = _open(data_dir / "commit-next.lock")
        self._failed = 0.0

    @contextmanager
    def held(self, since: float) -> Iterator[None]:
        """Have the turn.

        When the database failed one that stood before in the queue, those behind fail with it: each
        would wait as long for a locked database, and their senders for the sum.

        Args:
            since: When the holder began to wait, of the machine's monotonic clock.

        Raises:
            StorageError: The database failed while the holder waited, or the turn cannot be had.
        """
        with self._first_here(), self._held(since):
            yield

    @contextmanager
    def _first_here(self) -> Iterator[None]:
        place = threading.Lock()
        place.acquire()
        with self._mutex:
            self._queue.append(place)
            waits = self._queue[0] is not place
        if waits:
            place.acquire()
        try:
            yield
        finally:
            with self._mutex:
                self._queue.popleft()
                if self._queue:
                    self._queue[0].release()

    @contextmanager
    def _held(self, since: float) -> Iterator[None]:
        if self._fd < 0:
            raise StorageError("the node is ending")
        self._check(since)
        with storage_errors("queueing for the database"):
            # One process alone waits for the holder, and the holder stands behind it: it would have
            # the lock again before another process is awake.
            fcntl.flock(self._next_fd, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._next_fd, fcntl.LOCK_UN)
        try:
            with storage_errors("queueing for the database"):
                noted = os.pread(self._fd, _MOMENT.size, 0)
            if len(noted) == _MOMENT.size:
                (self._failed,) = _MOMENT.unpack(noted)
            self._check(since)
            try:
                yield
            except StorageError:
                self._note_failure()
                raise
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _check(self, since: float) -> None:
        if since < self._failed <= time.monotonic():
            raise StorageError("the database failed the objects before this one")

    def _note_failure(self) -> None:
        self._failed = time.monotonic()
        try:
            os.pwrite(self._fd, _MOMENT.pack(self._failed), 0)
        except OSError as error:  # what failed the database, a full disk or a read-only one
            log.error("a failure of the database could not be noted: %s", error.strerror)

    def close(self) -> None:
        """Let go of the locks' files; nobody has the turn afterwards."""
        with self._first_here():
            fd, self._fd = self._fd, -1
        os.close(fd)
        os.close(self._next_fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

"""Group commit: objects finished at the same moment share disk syncs and a row transaction.

Whoever comes first while nobody commits leads: it takes all that waits, makes the files durable
one after the other (eight threads that sync at once are slower), syncs the folder once, commits
one transaction and tells each how it went. Who came meanwhile is led by the first among them. A
lone sender so pays no thread switch, and many share one another's waits.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from config.errors import MedAIError, StorageError
from storage.db import Ledger
from storage.index import Arrival, Kept, known_keys, record_arrivals
from storage.objects import Incoming, ObjectStore

_MOMENT = struct.Struct("<d")


@dataclass
class _Waiter:
    incoming: Incoming
    arrival_of: Callable[[str], Arrival]
    since: float = field(default_factory=time.monotonic)
    turn: threading.Lock = field(default_factory=threading.Lock)
    leads: bool = False
    kept: Kept | None = None
    error: MedAIError | None = None


class GroupCommit:
    """Makes finished objects durable and known, many at a time.

    Args:
        store: Where the files are.
        ledger: Where the rows go.
        on_kept: Called after a batch brought something new.
    """

    def __init__(self, store: ObjectStore, ledger: Ledger, on_kept: Callable[[], None]) -> None:
        self._store = store
        self._ledger = ledger
        self._on_kept = on_kept
        self._mutex = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._led = False
        self._doubtful: list[str] = []
        path = store.data_dir / "commit.lock"
        self._turn_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def commit(self, incoming: Incoming, arrival_of: Callable[[str], Arrival]) -> Kept:
        """Make one object durable and record it; returns when both are done.

        Args:
            incoming: The finished file.
            arrival_of: The row to write, given the key that the file was kept under.

        Raises:
            StorageError: It is not stored; nothing of it stays.
        """
        waiter = _Waiter(incoming, arrival_of)
        waiter.turn.acquire()
        with self._mutex:
            self._waiting.append(waiter)
            leads = not self._led
            self._led = True
        if not leads:
            waiter.turn.acquire()
            leads = waiter.leads
        if leads:
            self._lead()
        if waiter.error is not None:
            raise waiter.error
        if waiter.kept is None:
            raise RuntimeError("a commit ended without a result")
        return waiter.kept

    def _lead(self) -> None:
        with self._mutex:
            batch, self._waiting = self._waiting, []
        try:
            self._commit(batch)
        except MedAIError as error:
            for waiter in batch:
                waiter.error = error
        finally:
            with self._mutex:
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            if following is not None:
                following.leads = True
                following.turn.release()
            for waiter in batch:
                if not waiter.leads:
                    waiter.turn.release()

    def _commit(self, batch: list[_Waiter]) -> None:
        self._store.keep([waiter.incoming for waiter in batch])
        keys = [waiter.incoming.key for waiter in batch]
        arrivals = [waiter.arrival_of(waiter.incoming.key) for waiter in batch]
        try:
            with self._turn(batch[0].since):
                results = record_arrivals(self._ledger, arrivals)
        except BaseException:
            # Whether the commit took place may be unknown: the files stay until the rows can be
            # asked. Nobody was told that they are stored.
            self._doubtful += keys
            raise
        for waiter, kept in zip(batch, results, strict=True):
            waiter.kept = kept
            if kept is Kept.SAME:
                self._store.remove(waiter.incoming.key)
        self._store.settle(keys)
        if any(kept is not Kept.SAME for kept in results):
            self._on_kept()
        if self._doubtful:
            self._settle_doubtful()

    @contextmanager
    def _turn(self, since: float) -> Iterator[None]:
        """Queue with the other receivers: SQLite would sleep for milliseconds instead.

        When the database failed one that stood before in the queue, those behind fail with it:
        each would wait as long for a locked database, and their senders for the sum.

        Args:
            since: When the first of the batch began to wait, of the machine's monotonic clock.

        Raises:
            StorageError: The database failed while the batch waited.
        """
        fcntl.flock(self._turn_fd, fcntl.LOCK_EX)
        try:
            noted = os.pread(self._turn_fd, _MOMENT.size, 0)
            if len(noted) == _MOMENT.size and since < _MOMENT.unpack(noted)[0] <= time.monotonic():
                raise StorageError("the database failed the objects before this one")
            try:
                yield
            except StorageError:
                os.pwrite(self._turn_fd, _MOMENT.pack(time.monotonic()), 0)
                raise
        finally:
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock's file."""
        os.close(self._turn_fd)

    def _settle_doubtful(self) -> None:
        """The database answers again: remove files of failed commits that no row names."""
        named = known_keys(self._doubtful)
        for key in self._doubtful:
            if key not in named:
                self._store.remove(key)
        self._store.settle(self._doubtful)
        self._doubtful = []

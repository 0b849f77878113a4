"""Group commit: objects finished at the same moment share disk syncs and a row transaction.

Whoever comes first while nobody commits leads: it takes all that waits, makes it durable with one
write or one after the other (eight threads that sync at once are slower), and tells each how it
went. Who came meanwhile is led by the first among them. A lone sender so pays no thread switch, and
many share one another's waits. On a slow disk the leader lets those catch up that took part a
moment ago: else half of them would always wait for the other half. Small objects go to the intake
journal; what it has no room for, and every large object, goes to a file of its own, in a lane of
its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from config.errors import MedAIError
from storage.db import Ledger
from storage.incoming import Incoming
from storage.index import Arrival, Kept, known_keys, record_arrivals
from storage.objects import ObjectStore
from storage.settler import Settler
from storage.turn import Turn

SLOW_SECONDS = 0.002
"""A commit that takes so long is worth waiting for others before the next."""

CATCH_UP = 0.25
"""How long they are waited for, as a part of what the last commit took."""

MOST_SECONDS = 0.01
"""And how long at most."""


@dataclass
class _Waiter:
    incoming: Incoming
    arrival: Arrival
    since: float = field(default_factory=time.monotonic)
    turn: threading.Lock = field(default_factory=threading.Lock)
    leads: bool = False
    kept: Kept | None = None
    error: MedAIError | None = None


class _Lane:
    """Lets many threads have their work done together by the first of them.

    Args:
        commit: Does the work of a batch; sets what became of each.
    """

    def __init__(self, commit: Callable[[list[_Waiter]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._arrived = threading.Condition(self._mutex)
        self._expected = 0
        self._took = 0.0
        self._waiting: list[_Waiter] = []
        self._led = False

    def join(self, waiter: _Waiter) -> None:
        """Have one object's work done; returns when it is, raises what went wrong with it."""
        waiter.turn.acquire()
        with self._mutex:
            self._waiting.append(waiter)
            leads = not self._led
            self._led = True
            if len(self._waiting) == self._expected:
                self._arrived.notify()
        if not leads:
            waiter.turn.acquire()
            leads = waiter.leads
        if leads:
            self._lead()
        if waiter.error is not None:
            raise waiter.error

    def _lead(self) -> None:
        with self._mutex:
            if self._took >= SLOW_SECONDS:
                self._arrived.wait_for(
                    lambda: len(self._waiting) >= self._expected,
                    min(self._took * CATCH_UP, MOST_SECONDS),
                )
            batch, self._waiting = self._waiting, []
        began = time.monotonic()
        try:
            self._commit(batch)
        except MedAIError as error:
            for waiter in batch:
                waiter.error = error
        finally:
            with self._mutex:
                self._took = time.monotonic() - began
                self._expected = len(batch) + len(self._waiting)
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            if following is not None:
                following.leads = True
                following.turn.release()
            for waiter in batch:
                if not waiter.leads:
                    waiter.turn.release()


class GroupCommit:
    """Makes finished objects durable, many at a time.

    Args:
        store: Where the files are.
        ledger: Where the rows go.
        turn: Queues with the other receivers for the database.
        on_kept: Called after a batch brought something new.
        settler: Makes files and rows of what goes to the intake journal; None without one.
    """

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        turn: Turn,
        on_kept: Callable[[], None],
        settler: Settler | None = None,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._turn = turn
        self._on_kept = on_kept
        self._settler = settler
        self._journaled = _Lane(self._append)
        self._filed = _Lane(self._keep)
        self._doubtful: list[str] = []

    def commit(self, incoming: Incoming, arrival: Arrival) -> Kept:
        """Make one object durable; returns when it is.

        Args:
            incoming: The finished object.
            arrival: Its row, whose key is given here.

        Returns:
            What became of it; `Kept.JOURNALED` when that shows later.

        Raises:
            StorageError: It is not stored; nothing of it stays.
        """
        waiter = _Waiter(incoming, arrival)
        if incoming.gathered is not None:
            self._journaled.join(waiter)
        if waiter.kept is None:
            incoming.to_file()
            waiter = replace(waiter, turn=threading.Lock(), leads=False)
            self._filed.join(waiter)
        if waiter.kept is None:
            raise RuntimeError("a commit ended without a result")
        return waiter.kept

    def _append(self, batch: list[_Waiter]) -> None:
        """Put as many as there is room for into the journal; the others have nothing kept yet."""
        settler = self._settler
        if settler is None or settler.journal is None:
            return
        left = batch
        while left:
            entries = settler.journal.append([(waiter.incoming, waiter.arrival) for waiter in left])
            for waiter in left[: len(entries)]:
                waiter.kept = Kept.JOURNALED
            if entries:
                settler.take(entries)
            left = left[len(entries) :]
            if left and not settler.wait_for_room():
                return

    def _keep(self, batch: list[_Waiter]) -> None:
        self._store.keep([waiter.incoming for waiter in batch])
        keys = [waiter.incoming.key for waiter in batch]
        arrivals = [replace(waiter.arrival, object_key=waiter.incoming.key) for waiter in batch]
        try:
            with self._turn.held(batch[0].since):
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

    def _settle_doubtful(self) -> None:
        """The database answers again: remove files of failed commits that no row names."""
        named = known_keys(self._doubtful)
        for key in self._doubtful:
            if key not in named:
                self._store.remove(key)
        self._store.settle(self._doubtful)
        self._doubtful = []

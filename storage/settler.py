"""Makes files and rows of what the intake journal acknowledged, in a thread beside the receiving.

Objects are settled in the order in which they were acknowledged, many with one transaction. Their
files are not synced one by one: the journal holds each object until the files made of a whole
segment are durable, and only then is the segment used again. What cannot be settled stays in the
journal and is tried again; meanwhile nothing new is taken.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from config.errors import StorageError
from storage.db import BUSY_SECONDS, Ledger
from storage.files import storage_errors, sync_file_system
from storage.index import Kept, known_keys, record_arrivals
from storage.journal import DamagedSegmentError, Entry, Journal, Segment, segment_name
from storage.objects import ObjectStore
from storage.provision import Provision
from storage.replay import give_up
from storage.runs import FAULT
from storage.segment import SEGMENT_BYTES, new_buffer
from storage.turn import Turn

log = logging.getLogger(__name__)

BATCH = 128
LULL_SECONDS = 0.02
"""Objects gather until none has come for so long: a burst has the disk to itself. It is longer on
a disk so slow that the last batch took half of it."""

PATIENCE_SECONDS = 2.0
"""How long the first of them waits at most."""

ROOM_SECONDS = 0.5
"""How long room in a full journal is waited for; the settler takes a tenth of it to make some."""

IN_VAIN_SECONDS = 5.0
"""How long nobody waits after somebody did so in vain."""

RETRY_SECONDS = 1.0

FEW_FILES = 64
"""So many are synced one by one: a sync of the whole file system also writes what others left."""

_FAULT_BYTES = 256


class Settler:
    """The settling thread of one process and what it has before it.

    Args:
        store: Where files are made.
        ledger: Where rows go.
        turn: Queues with the other receivers for the database.
        on_kept: Called after a batch brought something new.
    """

    def __init__(
        self, store: ObjectStore, ledger: Ledger, turn: Turn, on_kept: Callable[[], None]
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._turn = turn
        self._on_kept = on_kept
        self._changed = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._of: Counter[int] = Counter()
        self._hurry = self._ending = False
        self._fault: StorageError | None = None
        self._tried = self._taken = self._since = self._took = 0.0
        self._in_vain_until = 0.0
        self._provision = Provision(store)
        self._buffer = new_buffer()
        self._fault_fd = -1
        self.journal: Journal | None = None
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)

    def start(self) -> None:
        """Begin; the journal takes objects as soon as its first segment is on the disk."""
        self._thread.start()

    def take(self, entries: Sequence[Entry]) -> None:
        """Settle these objects, which are in the journal."""
        with self._changed:
            first = not self._waiting
            self._taken = time.monotonic()
            if first:
                self._since = self._taken
            self._waiting.extend(entries)
            for entry in entries:
                self._of[entry.arrival.association_id] += 1
            if first or self._is_pressed() or self._wants_growth():
                self._changed.notify_all()

    def check(self) -> None:
        """Refuse new objects while acknowledged ones cannot be settled.

        Whoever asks then has it tried at once, and shares what comes of that with all who ask.

        Raises:
            StorageError: They cannot be settled now.
        """
        if self._fault is None:
            return
        asked = time.monotonic()
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._fault is None or self._tried > asked, timeout=BUSY_SECONDS
            )
            if self._fault is not None:
                raise type(self._fault)(str(self._fault))

    def wait_until_settled(self, association_id: int | None, seconds: float) -> bool:
        """Wait for the objects of an association, or of all, to have their rows.

        Returns:
            Whether they have; False at once when settling fails.
        """
        with self._changed:
            if self._left(association_id):
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: not self._left(association_id) or self._fault is not None, seconds
                )
            return not self._left(association_id)

    def wait_for_room(self) -> bool:
        """Wait for the journal, which is full, to have room again: that is sooner than a file.

        Returns:
            Whether it has; False at once while nothing can be settled, or when the last who waited
            waited in vain.
        """
        asked = time.monotonic()
        with self._changed:
            journal = self.journal
            if journal is None or asked < self._in_vain_until:
                return False
            self._changed.wait_for(
                lambda: self._fault is not None or self._ending or journal.has_room(),
                timeout=ROOM_SECONDS,
            )
            if not journal.has_room():
                self._in_vain_until = time.monotonic() + IN_VAIN_SECONDS
            return journal.has_room()

    def _left(self, association_id: int | None) -> bool:
        if association_id is None:
            return bool(self._waiting)
        return bool(self._of[association_id])

    def close(self, seconds: float) -> None:
        """End; what is not settled within the time stays in the journal for the next start.

        Raises:
            StorageError: The disk refused.
        """
        self.wait_until_settled(None, seconds)
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(BUSY_SECONDS + seconds)
        journal = self.journal
        if self._thread.is_alive() or journal is None:
            return
        journal.end()
        # In the journal an object is before anybody says so: one of an association that could not
        # be ended in time may not be among those that wait.
        if left := journal.unsettled():
            log.error("%d acknowledged objects stay in the intake journal", left)
            journal.close(remove=False)
            return
        self._make_durable(journal.segments())
        journal.close(remove=True)
        os.close(self._fault_fd)
        with storage_errors("ending the intake journal"):
            os.unlink(FAULT, dir_fd=journal.run.spool_fd)

    def _run(self) -> None:
        try:
            self._attempt([])
            while (batch := self._next_batch()) is not None:
                began = time.monotonic()
                fault = self._attempt(batch)
                if not batch:  # while one is open, SQLite keeps descriptors of those closed since
                    self._ledger.close()
                with self._changed:
                    self._count_off()
                    self._note(fault)
                    self._tried = began
                    if batch:
                        self._took = time.monotonic() - began
                    self._changed.notify_all()
        finally:
            self._ledger.close()  # this thread's connection

    def _count_off(self) -> None:
        while self._waiting and self._waiting[0].done:
            association_id = self._waiting.popleft().arrival.association_id
            self._of[association_id] -= 1
            if not self._of[association_id]:
                del self._of[association_id]

    def _next_batch(self) -> list[Entry] | None:
        """Wait until something is to be done; None at the end."""
        with self._changed:
            if self._fault is None and not self._waiting:
                self._wait_for(
                    lambda: bool(self._waiting), self._provision.idle_seconds(self.journal)
                )
            if self._fault is not None:
                self._wait_for(lambda: False, RETRY_SECONDS)
            elif self._waiting:
                self._wait_for_lull()
            if self._ending:
                return None
            if self._wants_growth():
                return []
            batch = list(_within(self._waiting, BATCH, SEGMENT_BYTES))
            # While nothing can be settled who asks has it tried once, not on and on.
            more = self._fault is None and len(batch) < len(self._waiting)
            self._hurry = self._hurry and more
            return batch

    def _wait_for_lull(self) -> None:
        """Leave disk and processor to those who receive, while the journal has room for more."""
        latest = self._since + PATIENCE_SECONDS
        while not (self._hurry or self._ending or self._is_pressed() or self._wants_growth()):
            lull = max(LULL_SECONDS, 2 * self._took)
            rest = min(latest, self._taken + lull) - time.monotonic()
            if rest <= 0:
                return
            self._changed.wait(rest)

    def _is_pressed(self) -> bool:
        journal = self.journal
        return journal is not None and journal.is_short() and not self._may_grow(journal)

    def _may_grow(self, journal: Journal) -> bool:
        return self._fault is None and self._provision.may_grow(journal)

    def _wants_growth(self) -> bool:
        journal = self.journal
        return journal is not None and journal.wants_segment() and self._may_grow(journal)

    def _wait_for(self, what: Callable[[], bool], seconds: float) -> None:
        self._changed.wait_for(lambda: self._hurry or self._ending or what(), seconds)

    def _attempt(self, batch: Sequence[Entry]) -> StorageError | None:
        """Settle a batch and look after the segments; what went wrong, if something did."""
        try:
            if self.journal is not None:
                self._settle(batch, self.journal)
                self._empty_segments(self.journal)
                if not self.journal.in_use():
                    self.journal.shrink()
            self.journal = self._provision.make(self.journal, self._begin, ahead=not batch)
        except DamagedSegmentError as damaged:
            return self._give_up(damaged.segment)
        except StorageError as fault:
            return fault
        except Exception as error:  # the border of the thread: it must go on, and say so
            log.exception("acknowledged objects could not be settled")
            return StorageError(f"unexpected {type(error).__name__}")
        return None

    def _give_up(self, segment: Segment) -> StorageError | None:
        """Save what can be read of a segment, keep it aside and go on; what hinders that."""
        journal = self.journal
        if journal is None:
            return None
        try:
            journal.drop(segment)
            path = journal.run.spool / segment_name(segment.number)
            give_up(self._ledger, path, [entry.arrival for entry in segment.entries])
            keys = [entry.key for entry in segment.entries if entry.key]
            named = known_keys(keys)
            for key in keys:
                if key not in named:
                    self._store.remove(key)
            self._store.settle(keys)
        except StorageError as fault:
            return fault
        os.close(segment.fd)
        for entry in segment.entries:
            entry.done = True
        self._on_kept()
        return None

    def _note(self, fault: StorageError | None) -> None:
        before, self._fault = self._fault, fault
        if str(before) == str(fault):
            return
        if fault is None:
            log.warning("acknowledged objects are settled again")
        else:
            self._hurry = False
            log.error("acknowledged objects wait in the intake journal: %s", fault)
        if self._fault_fd >= 0:
            text = "" if fault is None else str(fault)
            try:
                os.pwrite(self._fault_fd, text.encode()[:_FAULT_BYTES].ljust(_FAULT_BYTES), 0)
            except OSError as error:  # a disk that became read-only
                log.error("why objects wait could not be noted: %s", error.strerror)

    def _settle(self, batch: Sequence[Entry], journal: Journal) -> None:
        if not batch:
            return
        began = time.monotonic()
        run = journal.run
        if not run.is_in_place():
            raise StorageError("the data folder is missing or was replaced")
        # After a failure it may be unknown whether the rows were written: ask.
        tried = [entry.key for entry in batch if entry.key]
        named = known_keys(tried) if tried else set()
        left = [entry for entry in batch if not entry.done and entry.key not in named]
        with storage_errors("making the file of an object"):
            for entry, content in journal.contents(left, self._buffer):
                entry.key = entry.key or run.next_key()
                run.make_file(entry.key, content, entry.length)
        with self._turn.held(began):
            results = record_arrivals(
                self._ledger, [replace(entry.arrival, object_key=entry.key) for entry in left]
            )
        keys = [entry.key for entry in batch]
        for entry in batch:
            entry.done = True
        for entry, kept in zip(left, results, strict=True):
            if kept is Kept.SAME:
                self._store.remove(entry.key)
                entry.key = ""
        self._store.settle(keys)
        self._on_kept()

    def _empty_segments(self, journal: Journal) -> None:
        """Use segments again whose every object has its row, once the files are durable."""
        journal.retire_old(time.monotonic())
        settled = journal.settled()
        if settled:
            self._make_durable(settled)
            for segment in settled:
                journal.empty(segment)

    def _make_durable(self, segments: Sequence[Segment]) -> None:
        journal = self.journal
        made = [entry for segment in segments for entry in segment.entries if entry.key]
        if journal is None or not made:
            return
        keys = [entry.key for entry in made]
        try:
            with storage_errors("syncing objects"):
                if any(segment.suspect for segment in segments):
                    # What a failed sync left clean in memory may never have reached the disk.
                    for entry, content in journal.contents(made, self._buffer):
                        if (journal.run.objects / entry.key).exists():  # else deleted since
                            journal.run.make_file(entry.key, content, entry.length)
                    journal.run.sync_files(keys)
                elif len(keys) <= FEW_FILES:
                    journal.run.sync_files(keys)
                else:
                    sync_file_system(journal.run.objects_fd)
        except StorageError:
            # The system says so once, of the whole disk: files of others may be among the lost.
            for segment in journal.segments():
                segment.suspect = bool(segment.entries)
            raise
        for segment in segments:
            segment.suspect = False

    def _begin(self) -> Journal:
        run = self._store.run()
        flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
        with storage_errors("beginning the intake journal"):
            self._fault_fd = os.open(FAULT, flags, 0o640, dir_fd=run.spool_fd)
            os.pwrite(self._fault_fd, b"".ljust(_FAULT_BYTES), 0)
        return Journal(run)


def _within(entries: Iterable[Entry], count: int, size: int) -> Iterator[Entry]:
    """The first so many entries of so many bytes together."""
    for entry in itertools.islice(entries, count):
        size -= entry.length
        yield entry
        if size < 0:
            return

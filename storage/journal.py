"""The intake journal of one process: small objects are durable here before their files are made.

An object is written into a segment that lies on disk already, block for block, so that one write of
data makes it durable: no name, no length and no allocation has to be. `storage.settler` makes the
files and rows afterwards, and makes segments; nobody who writes an object ever waits for one. When
there is no room the object goes to a file of its own, as if there were no journal.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from config.errors import StorageError
from storage.files import open_direct, storage_errors, sync_folder
from storage.incoming import Incoming
from storage.index import Arrival
from storage.runs import Run
from storage.segment import (
    BLOCK,
    RECORD_BYTES,
    SEGMENT_BYTES,
    Buffer,
    Place,
    extent,
    fill,
    seal_record,
    segment_head,
    write_head,
)

log = logging.getLogger(__name__)

SEGMENTS = 8
"""Segments of one process that stay."""

GROWTH = 4
"""So many times as many it may have while a burst goes on."""

SHORT = 0.25
"""With less than this part of it left the journal may fill up."""

SEAL_SECONDS = 10.0
"""How long a segment with records in it is written on: then it is emptied, full or not."""


@dataclass
class Entry:
    """An object in the journal.

    Attributes:
        segment: Where it lies.
        at: Byte of the segment where its record begins.
        length: Bytes of its Part 10 file.
        arrival: Its row, which has no key yet.
        key: The key that its file is made under, once there is one.
        done: Whether its row is there; then `key` is empty when another row named the same bytes.
    """

    segment: Segment
    at: int
    length: int
    arrival: Arrival
    key: str = ""
    done: bool = False


@dataclass(eq=False)
class Segment:
    """A segment that this process writes.

    Attributes:
        number: Its number in the run.
        fd: Open for reading and writing.
        generation: Records of a lower one are void.
        at: Where the next record begins.
        entries: What lies in it.
        since: When the first of them came, of the machine's monotonic clock.
        failed: A write to it failed: it is not used again.
        suspect: A sync of its files failed: what the system holds of them may not reach the disk.
    """

    number: int
    fd: int
    generation: int = 1
    at: int = BLOCK
    entries: list[Entry] = field(default_factory=list)
    since: float = 0.0
    failed: bool = False
    suspect: bool = False


class DamagedSegmentError(StorageError):
    """A segment of this run cannot be read any more.

    Attributes:
        segment: Which.
    """

    def __init__(self, segment: Segment, why: str) -> None:
        super().__init__(f"the intake journal cannot be read: {why}")
        self.segment = segment


def segment_name(number: int) -> str:
    """The file of a segment in the spool folder of its run."""
    return f"journal-{number:04d}"


class Journal:
    """The segments of one run.

    `append` is called by one thread at a time; everything else is the settler's.

    Args:
        run: The process's place in the store.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._made = itertools.count()
        self._active: Segment | None = None
        self._free: list[Segment] = []
        self._full: list[Segment] = []
        self._count = 0
        self._ended = False

    def append(self, finished: Sequence[tuple[Incoming, Arrival]]) -> list[Entry]:
        """Make gathered objects durable, as many as there is room for, with one write if it can be.

        Args:
            finished: Objects that are gathered in memory, with their rows.

        Returns:
            Entries of the first of them; the others are not in the journal.
        """
        entries: list[Entry] = []
        with self._writing:
            while len(entries) < len(finished) and not self._ended:
                room = self._room_for(finished[len(entries)][0])
                if room is None:
                    break
                batch = self._write(room, finished[len(entries) :])
                if not batch:
                    break
                entries += batch
        return entries

    def _room_for(self, incoming: Incoming) -> Segment | None:
        wanted = extent(incoming.head_length + incoming.size)
        if self._active is not None and self._active.at + wanted > SEGMENT_BYTES:
            self._full.append(self._active)
            self._active = None
        if self._active is None and self._free:
            self._active = self._free.pop(0)
        return self._active

    def _write(self, segment: Segment, finished: Sequence[tuple[Incoming, Arrival]]) -> list[Entry]:
        """Write as many of them as the segment holds; none when the disk refused."""
        entries, views = [], []
        at = segment.at
        for incoming, arrival in finished:
            length = incoming.head_length + incoming.size
            if at + extent(length) > SEGMENT_BYTES or incoming.gathered is None:
                break
            place = Place(self.run.token, segment.generation, at, segment.at)
            views.append(
                seal_record(
                    incoming.gathered,
                    length,
                    incoming.head_length,
                    place=place,
                    number=next(self._numbers),
                    arrival=arrival,
                )
            )
            entries.append(Entry(segment, at, length, arrival))
            at += extent(length)
        try:
            whole = os.pwritev(segment.fd, views, segment.at, os.RWF_DSYNC) == at - segment.at
            why = "it was cut short"
            if whole and not self.run.is_in_place():
                whole, why = False, "the data folder is missing or was replaced"
        except OSError as error:
            whole, why = False, error.strerror or "the disk failed"
        if not whole:
            # What lies there now nobody was told of. The segment is not written to again: what a
            # second sync says of pages that a first one failed is not to be relied on.
            log.error("a write to the intake journal failed: %s", why)
            segment.failed = True
            self._full.append(segment)
            self._active = None
            return []
        segment.since = segment.since or time.monotonic()
        segment.entries += entries
        segment.at = at
        return entries

    def wants_segment(self) -> bool:
        """Whether another segment should be made before the room runs out."""
        active = self._active
        ample = active is not None and active.at < SEGMENT_BYTES // 2
        return not self._free and not ample and self.may_grow()

    def is_whole(self) -> bool:
        """Whether it has all the segments that stay."""
        return self._count >= SEGMENTS

    def may_grow(self) -> bool:
        """Whether it has fewer segments than it may have."""
        return self._count < GROWTH * SEGMENTS

    def has_grown(self) -> bool:
        """Whether it has more segments than stay."""
        return self._count > SEGMENTS

    def shrink(self) -> None:
        """Give the disk back what a burst had made the journal grow by.

        Raises:
            StorageError: The disk refused.
        """
        with self._writing:
            while self._free and self.has_grown():
                self._remove(self._free.pop())

    def has_room(self) -> bool:
        """Whether a segment is free to be written to."""
        return bool(self._free) and not self._ended

    def is_short(self) -> bool:
        """Whether so much lies in it that what comes may find no room."""
        active = self._active
        left = len(self._free) * SEGMENT_BYTES
        if active is not None:
            left += SEGMENT_BYTES - active.at
        return left < SHORT * self._count * SEGMENT_BYTES

    def make_segment(self) -> None:
        """Write a new segment to the disk, zeros and all, and put it into use.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        number = next(self._made)
        name = segment_name(number)
        spool_fd = self.run.spool_fd
        with storage_errors("making a segment of the intake journal"):
            fd = open_direct(name, os.O_TRUNC, spool_fd)
            try:
                fill(fd, segment_head(self.run.token, number, 1), SEGMENT_BYTES)
                os.fsync(fd)
                os.fsync(spool_fd)
                sync_folder(self.run.spool.parent)
            except OSError:
                os.close(fd)
                os.unlink(name, dir_fd=spool_fd)
                raise
        self._free.append(Segment(number, fd))
        self._count += 1

    def retire_old(self, now: float) -> None:
        """Stop writing to a segment whose first record has become old."""
        if not self._writing.acquire(blocking=False):
            return  # it is being written to: another time
        try:
            active = self._active
            if active is not None and active.entries and now - active.since > SEAL_SECONDS:
                self._full.append(active)
                self._active = None
        finally:
            self._writing.release()

    def end(self) -> None:
        """Take no more objects."""
        with self._writing:
            self._ended = True

    def unsettled(self) -> int:
        """How many objects have no row yet."""
        return sum(not entry.done for each in self.segments() for entry in each.entries)

    def contents(
        self, entries: Iterable[Entry], buffer: Buffer
    ) -> Iterator[tuple[Entry, memoryview]]:
        """The blocks of these entries' Part 10 files, read together where they lie together.

        Args:
            entries: Which.
            buffer: Room for the longest record; what is given lies in it until the next comes.

        Raises:
            DamagedSegmentError: A segment cannot be read.
        """
        view = memoryview(buffer)
        for together in _neighbours(entries):
            first, last = together[0], together[-1]
            length = last.at + extent(last.length) - first.at
            try:
                got = os.preadv(first.segment.fd, [view[:length]], first.at)
            except OSError as error:
                raise DamagedSegmentError(first.segment, error.strerror or "?") from error
            if got < length:
                raise DamagedSegmentError(first.segment, "it is cut short")
            for entry in together:
                at = entry.at - first.at + BLOCK
                yield entry, view[at : at + extent(entry.length) - BLOCK]

    def settled(self) -> list[Segment]:
        """Segments that are not written to any more and whose every object has its row."""
        return [segment for segment in self._full if all(entry.done for entry in segment.entries)]

    def drop(self, segment: Segment) -> None:
        """Write to a segment no more, and do without it; its file stays open."""
        with self._writing:
            if self._active is segment:
                self._active = None
            elif segment in self._full:
                self._full.remove(segment)
            else:
                return
            self._count -= 1

    def in_use(self) -> bool:
        """Whether any segment holds something."""
        return bool(self._full) or (self._active is not None and bool(self._active.entries))

    def empty(self, segment: Segment) -> None:
        """Void what lies in a segment, durably, and use it again; its files must be durable.

        One that a write failed to is deleted instead.

        Raises:
            OutOfSpaceError: The disk is full.
            StorageError: The disk refused.
        """
        if segment.failed:
            self._full.remove(segment)
            self._remove(segment)
            return
        segment.generation += 1
        head = segment_head(self.run.token, segment.number, segment.generation)
        with storage_errors("emptying a segment of the intake journal"):
            write_head(segment.fd, head)
        segment.at, segment.entries, segment.since = BLOCK, [], 0.0
        self._full.remove(segment)
        self._free.append(segment)

    def segments(self) -> list[Segment]:
        """All that there are, each once, also those that change their place just now."""
        before = self._active
        found = dict.fromkeys((*self._free, *self._full, before, self._active))
        return [segment for segment in found if segment is not None]

    def close(self, *, remove: bool) -> None:
        """Close the files, and delete them when nothing in them is needed any more.

        Raises:
            StorageError: The disk refused.
        """
        segments = self.segments()
        self._free, self._full, self._active = [], [], None
        for segment in segments:
            if remove:
                self._remove(segment)
            else:
                os.close(segment.fd)

    def _remove(self, segment: Segment) -> None:
        self._count -= 1
        os.close(segment.fd)
        with storage_errors("removing a segment of the intake journal"):
            os.unlink(segment_name(segment.number), dir_fd=self.run.spool_fd)


def _neighbours(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in runs that lie one after the other and are no longer than the longest record."""
    together: list[Entry] = []
    for entry in entries:
        if together:
            first, last = together[0], together[-1]
            adjoins = entry.segment is first.segment and entry.at == last.at + extent(last.length)
            if not adjoins or entry.at + extent(entry.length) - first.at > RECORD_BYTES:
                yield together
                together = []
        together.append(entry)
    if together:
        yield together

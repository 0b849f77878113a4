"""How many segments the intake journal of one process has: before they are needed, and no more.

They are made while nobody waits for them where the disk has ample room, and one by one where it has
not. A burst that fills them has more of them made, which are given back after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from config.errors import StorageError
from storage.journal import Journal
from storage.objects import ObjectStore
from storage.segment import SEGMENT_BYTES

log = logging.getLogger(__name__)

UPKEEP_SECONDS = 2.0
"""How long the journal is left alone while nothing comes."""

AHEAD_SECONDS = 0.05
"""The same while segments are made that nobody waits for."""

REST_SECONDS = 60.0
"""The same while nothing lies in the journal: a write to it may fail even then."""

AMPLE_BYTES = 64 * SEGMENT_BYTES
"""Free bytes above the mark from which on those segments that stay are made ahead."""

ROOMY_BYTES = 10 * AMPLE_BYTES
"""And from which on a burst that fills them has more of them made, rather than wait for files."""


class Provision:
    """Makes segments; used by the settler's thread.

    Args:
        store: Knows the room on the disk.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._ample, self._roomy = True, False

    def may_grow(self, journal: Journal) -> bool:
        """Whether the journal and the disk let a burst have more segments."""
        return self._roomy and journal.may_grow()

    def idle_seconds(self, journal: Journal | None) -> float:
        """How long the journal may be left alone while nothing comes."""
        if journal is None:
            return UPKEEP_SECONDS
        if self._ample and not journal.is_whole():
            return AHEAD_SECONDS
        rests = not (journal.in_use() or journal.has_grown() or journal.wants_segment())
        return REST_SECONDS if rests else UPKEEP_SECONDS

    def make(
        self, journal: Journal | None, begin: Callable[[], Journal], *, ahead: bool
    ) -> Journal | None:
        """Make a segment where one is wanted, the first too; without one objects go another way.

        Args:
            journal: None before the first.
            begin: Begins the journal.
            ahead: There is time to make one that will be wanted.

        Returns:
            The journal, if there is one now.
        """
        wanted = journal is None or journal.wants_segment()
        if not wanted and (not ahead or (journal is not None and journal.is_whole())):
            return journal
        try:
            spare = self._store.spare_bytes()
            self._ample, self._roomy = spare >= AMPLE_BYTES, spare >= ROOMY_BYTES
            if spare < 2 * SEGMENT_BYTES or not (wanted or self._ample):
                return journal
            journal = journal or begin()
            if not journal.is_whole() or self.may_grow(journal):
                journal.make_segment()
        except StorageError as error:
            self._ample = self._roomy = False
            log.warning("the intake journal has no room: %s", error)
        return journal

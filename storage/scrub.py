"""The scrub: re-reads what is stored, the longest unread first, and says what is not as it was.

It goes through the rows in the order of their numbers, instances before results, and begins again
when it has come to the end, so that what it reads next is always what it read longest ago. Where
it is stands in the database and outlives restarts. It never touches an object that a row names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from config.errors import NotDicomError, StorageError
from storage import overview
from storage.db import Ledger
from storage.files import forget_pages, storage_errors
from storage.healing import FINDING, REPLACED
from storage.objects import ObjectStore
from storage.part10 import data_set_offset
from storage.records import Instance, NodeFact, Result

log = logging.getLogger(__name__)

CHUNK = 1 << 20
BATCH = 100
LEAST_COST = 4096
"""Bytes that an object counts for at least: many missing files are not gone through at once."""

NOTE_SECONDS = 10.0
"""How often the place is noted; after a crash so much is read again."""

_PLACE = "scrub.place"
_TABLES: tuple[type[Instance] | type[Result], ...] = (Instance, Result)

_KEPT = ("stored", "indexed", "superseded")  # quarantined bytes may have been deleted by hand

Wait = Callable[[float], bool]
"""Waits so many seconds; whether the scrub is to end."""


@dataclass(frozen=True)
class Place:
    """How far the scrub has come.

    Attributes:
        table: Number of the table it is in: instances, then results.
        row: Number of the last row that was read.
        begun_at: When this round began, seconds since the epoch.
        ended_at: When the last whole round ended, or None.
        objects: Objects read since the database was made.
    """

    table: int = 0
    row: int = 0
    begun_at: float = 0.0
    ended_at: float | None = None
    objects: int = 0


def place() -> Place:
    """How far the scrub has come."""
    noted = overview.fact(_PLACE)
    return Place(**json.loads(noted)) if noted else Place()


def findings() -> dict[str, str]:
    """What is not as it was stored: row as the audit chain calls it → ``damaged``, ``missing``."""
    query = NodeFact.select().where(NodeFact.key.startswith(FINDING))
    return {row.key.removeprefix(FINDING): row.value for row in query}


class Scrub:
    """Reads objects at a set rate.

    Args:
        ledger: The database.
        store: Where the objects lie.
        rate: Bytes a second.
        wait: Waits between reads; the scrub ends when it says so.
    """

    def __init__(self, ledger: Ledger, store: ObjectStore, rate: int, wait: Wait) -> None:
        self._ledger = ledger
        self._store = store
        self._rate = rate
        self._wait = wait
        self._debt = 0.0
        self._noted = time.monotonic()

    def round(self) -> bool:
        """Go on from where it was to the end of the last table; whether it got there.

        Raises:
            StorageError: The database or the whole store cannot be read.
        """
        here = place()
        if not here.begun_at:
            here = replace(here, begun_at=time.time())
        for table in range(here.table, len(_TABLES)):
            here = replace(here, table=table, row=here.row if table == here.table else 0)
            while rows := _rows_after(_TABLES[table], here.row):
                for row in rows:
                    if not self._check(row):
                        self._note(here)
                        return False
                    here = replace(here, row=row.id, objects=here.objects + 1)
                    if time.monotonic() - self._noted >= NOTE_SECONDS:
                        self._note(here)
        self._note(Place(ended_at=time.time(), objects=here.objects))
        return True

    def look_again(self) -> None:
        """Read what was found damaged or missing before: it may have been restored.

        What came again lies elsewhere; the files that it replaces are removed.
        """
        self._remove_replaced()
        for label in findings():
            row = _row_of(label)
            if row is None:
                with self._ledger.transaction():
                    NodeFact.delete().where(NodeFact.key == FINDING + label).execute()
            elif not self._check(row):
                return

    def _remove_replaced(self) -> None:
        query = NodeFact.select(NodeFact.key).where(NodeFact.key.startswith(REPLACED)).tuples()
        for note in [key for (key,) in query]:
            try:
                self._store.remove(note.removeprefix(REPLACED))
            except StorageError as error:  # a disk that fails: another time
                log.error("a damaged file whose bytes came again is still there: %s", error)
                continue
            with self._ledger.transaction():
                NodeFact.delete().where(NodeFact.key == note).execute()

    def _note(self, here: Place) -> None:
        overview.set_fact(self._ledger, _PLACE, json.dumps(asdict(here)))
        self._noted = time.monotonic()

    def _check(self, row: Instance | Result) -> bool:
        """Read one object; False when the scrub is to end before it was read to its end."""
        finding: str | None = None
        found: dict[str, object] = {}
        path = self._store.path(row.object_key)
        digest, size = hashlib.sha256(), 0
        cost = LEAST_COST
        try:
            for chunk in _data_set(path):
                digest.update(chunk)
                size += len(chunk)
                cost = max(0, cost - len(chunk))
                if self._pay(len(chunk)):
                    return False
        except FileNotFoundError:
            self._refuse_whole_store()
            finding = "missing"
        except (OSError, NotDicomError) as error:
            finding = "damaged"
            found = {"why": error.strerror if isinstance(error, OSError) else str(error)}
        else:
            if digest.hexdigest() != row.digest:
                finding, found = "damaged", {"found": digest.hexdigest(), "found_size": size}
        if self._pay(cost):
            return False
        self._tell(row, finding, found)
        return True

    def _refuse_whole_store(self) -> None:
        with storage_errors("scrubbing"):
            os.stat(self._store.objects)

    def _pay(self, count: int) -> bool:
        """Keep to the rate; whether the scrub is to end."""
        self._debt += count / self._rate
        if self._debt < 0.25:
            return self._wait(0)
        pause, self._debt = self._debt, 0.0
        return self._wait(pause)

    def _tell(self, row: Instance | Result, finding: str | None, found: dict[str, object]) -> None:
        label = row.label()
        known = overview.fact(FINDING + label)
        if finding == known:
            return
        with self._ledger.transaction() as change:
            # It may have been moved or deleted by hand, or have come again, while it was read.
            now = _row_of(label)
            if now is None or now.object_key != row.object_key:
                return
            NodeFact.delete().where(NodeFact.key == FINDING + label).execute()
            if finding is not None:
                NodeFact.create(key=FINDING + label, value=finding)
            change.audit(
                f"object.{finding or 'intact'}",
                object=label,
                outcome="failure" if finding else "success",
                detail={"object_key": row.object_key, "digest": row.digest, **found},
            )
        if finding is not None:
            log.error("scrub: %s, kept as %s, is %s", label, row.object_key, finding)


def _rows_after(table: type[Instance] | type[Result], number: int) -> list[Instance | Result]:
    query = table.select().where(table.id > number)
    if table is Instance:
        query = query.where(Instance.state.in_(_KEPT))
    return list(query.order_by(table.id).limit(BATCH))


def _row_of(label: str) -> Instance | Result | None:
    noun, _, number = label.partition(":")
    for table in _TABLES:
        if table.noun == noun:
            row: Instance | Result | None = table.get_or_none(table.id == int(number))
            gone = isinstance(row, Instance) and row.state not in _KEPT
            return None if gone else row
    return None


def _data_set(path: Path) -> Iterator[bytes]:
    """The bytes of the data set of a stored file, read from the disk itself where that is known."""
    with path.open("rb", buffering=0) as file:
        # What the page cache remembers says nothing about the disk, and others need its room.
        forget_pages(file.fileno())
        try:
            head = file.read(144)
            offset = data_set_offset(head)
            if offset > path.stat().st_size:
                raise NotDicomError("the file ends inside its File Meta Information")
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk
        finally:
            forget_pages(file.fileno())


def summary() -> list[str]:
    """What the scrub found, as plain sentences for those who run the node."""
    counted: dict[str, int] = {}
    for kind in findings().values():
        counted[kind] = counted.get(kind, 0) + 1
    return [
        f"{count} stored {'objects are' if count > 1 else 'object is'} {kind}: restore from a "
        f"backup, or have them sent again; the audit chain names them as object.{kind}"
        for kind, count in sorted(counted.items())
    ]

"""Verification of the audit chain: whether each event follows, and what happened where one fails.

What it cannot tell: events that someone who can write both the database and the noted head hashed
anew, and events added after the noted head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peewee import fn

from config.errors import AuditError
from storage.audit import COLUMNS, GENESIS, Head, HeadFile, event_hash
from storage.records import AuditEvent

_NUMBERS = frozenset({"seq", "version"})


MOST_REMOVED = 10_000
"""A row that moved up by more numbers than this is told as edited."""


@dataclass(frozen=True)
class Break:
    """The first place where the chain does not hold.

    Attributes:
        seq: Number of the event.
        kind: ``edited``, ``removed``, ``inserted``, ``reordered`` or ``cut off``.
        text: One sentence.
    """

    seq: int
    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What verification found: how many events, where the chain ends, the first break."""

    events: int
    head: Head | None
    first_break: Break | None

    @property
    def intact(self) -> bool:
        """No break was found."""
        return self.first_break is None


def verify(data_dir: Path) -> Verdict:
    """Check every link, and the tail against the noted head.

    Raises:
        AuditError: The noted head cannot be read.
        StorageError: The database cannot be read.
    """
    # The noted head is read first: events appended meanwhile can only lie behind it.
    noted = HeadFile(data_dir).read()
    expected = Head(0, GENESIS)
    at_noted = GENESIS if noted is not None and noted.seq == 0 else None
    for row in _rows():
        if not _follows(row, expected):
            return Verdict(expected.seq, _head(expected), _break(row, expected, noted))
        expected = Head(row.seq, row.hash)
        if noted is not None and expected.seq == noted.seq:
            at_noted = expected.hash
    fault: Break | None = None
    if noted is None:
        text = "the noted head beside the database is missing"
        fault = Break(max(expected.seq, 1), "cut off", text)
    elif noted.seq > expected.seq:
        text = f"event {noted.seq} was written, but the chain ends at {expected.seq}"
        fault = Break(expected.seq + 1, "cut off", text)
    elif at_noted != noted.hash:
        text = f"event {noted.seq} is not the one that was noted when it was written"
        fault = Break(noted.seq, "edited", text)
    return Verdict(expected.seq, _head(expected), fault)


def _head(reached: Head) -> Head | None:
    return reached if reached.seq else None


class _Row(NamedTuple):
    """One row as it lies in the file; `content` is None where a column is not of its type."""

    seq: int
    prev_hash: str
    hash: str
    content: dict[str, Any] | None

    def hash_holds(self, seq: int | None = None) -> bool:
        """Whether the content gives the hash, as it stands or under another number."""
        if self.content is None:
            return False
        try:
            return event_hash({**self.content, "seq": self.seq if seq is None else seq}) == (
                self.hash
            )
        except AuditError:
            return False


def _rows(where: str = "", *params: str) -> Iterator[_Row]:
    # Past the models, which would turn 1.5 into 1 and bytes into text; as bytes, because text that
    # is no UTF-8 would end the reading.
    columns = ", ".join(
        f"typeof({name}), {name if name in _NUMBERS else f'CAST({name} AS BLOB)'}"
        for name in COLUMNS
    )
    query = f"SELECT {columns} FROM audit_event {where} ORDER BY seq"  # noqa: S608 - names of ours
    for values in AuditEvent._meta.database.execute_sql(query, params):
        content: dict[str, Any] = {}
        for name, kind, value in zip(COLUMNS, values[::2], values[1::2], strict=True):
            if name in _NUMBERS and kind == "integer":
                content[name] = value
            elif name not in _NUMBERS and kind == "text":
                with contextlib.suppress(UnicodeDecodeError):
                    content[name] = value.decode("utf-8")
        sound = len(content) == len(COLUMNS)
        yield _Row(
            values[1],
            content.get("prev_hash", ""),
            content.get("hash", ""),
            content if sound else None,
        )


def _follows(row: _Row, before: Head) -> bool:
    return row.seq == before.seq + 1 and row.prev_hash == before.hash and row.hash_holds()


def _break(row: _Row, before: Head, noted: Head | None) -> Break:
    """Name what happened where a row does not follow the one before it."""
    here = before.seq + 1
    moved = _rightful(before, here)
    if row.seq > here:
        if moved is not None:
            return Break(here, "reordered", f"event {here} stands at number {moved}")
        return Break(here, "removed", f"event {here} is missing")
    if row.seq < here:
        return Break(row.seq, "inserted", f"no event has the number {row.seq}")
    original = _original_number(row, noted)
    if moved is None:
        return _stranger(row, original, before)
    if original in (None, here):
        return Break(here, "inserted", f"event {here} did not follow event {before.seq}")
    return Break(here, "reordered", f"event {original} stands at number {here}")


def _stranger(row: _Row, original: int | None, before: Head) -> Break:
    """Name what happened where no event follows the one before."""
    here = before.seq + 1
    if original is None or row.prev_hash == before.hash:
        return Break(here, "edited", f"the content of event {here} does not give its hash")
    parent = _number_of(row.prev_hash)
    if parent is not None and parent < before.seq:
        text = f"event {parent + 1} was put before the one that had its number"
        return Break(parent + 1, "inserted", text)
    if parent is None and original > here:
        return Break(here, "removed", f"event {here} is missing, later ones have moved up")
    text = f"event {before.seq} is not the one that event {here} was written after"
    return Break(max(before.seq, 1), "edited", text)


def _rightful(before: Head, here: int) -> int | None:
    """Where the event now stands that was written after `before`, if not at its own number."""
    for row in _rows("WHERE prev_hash = ?", before.hash):
        if row.seq != here and row.hash_holds(here):
            return row.seq
    return None


def _original_number(row: _Row, noted: Head | None) -> int | None:
    """The number under which the event was hashed, or None when its content was changed."""
    last, count = AuditEvent.select(fn.MAX(AuditEvent.seq), fn.COUNT(AuditEvent.seq)).scalar(
        as_tuple=True
    )
    # A number of any size may stand in the database; so many are tried at most.
    most = min(max(last or 0, noted.seq if noted else 0), count + MOST_REMOVED) + 1
    # Rows move by few places as a rule: the nearest numbers first.
    for distance in range(max(most, row.seq)):
        for number in sorted({row.seq - distance, row.seq + distance}):
            if 1 <= number <= most and row.hash_holds(number):
                return number
    return None


def _number_of(hash_: str) -> int | None:
    if hash_ == GENESIS:
        return 0
    row = AuditEvent.select(AuditEvent.seq).where(AuditEvent.hash == hash_).tuples().first()
    return None if row is None else int(row[0])

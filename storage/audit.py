"""The audit chain: each event carries the hash of the one before it.

``hash = SHA-256(canonical JSON of the row with prev_hash, without hash)``; canonical JSON is
RFC 8785. Events are appended under the writer's lock of the transaction they belong to. The head
of the chain (last number and hash) also stands in a file beside the database, so that a tail that
was cut off is found. What the chain cannot tell: events that someone who can write both the
database and that file hashed anew, and events added after the noted head.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785
from peewee import SqliteDatabase, fn

from config.errors import AuditError, StorageError
from storage.records import AuditEvent

log = logging.getLogger(__name__)

VERSION = 1
GENESIS = "0" * 64
HEAD_FILE = "audit.head"
COLUMNS = (
    "seq",
    "version",
    "time",
    "actor",
    "action",
    "object",
    "outcome",
    "detail",
    "prev_hash",
    "hash",
)
_NUMBERS = frozenset({"seq", "version"})
_HEAD_BYTES = 96


@dataclass(frozen=True)
class Head:
    """Where the chain ends."""

    seq: int
    hash: str


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


def event_hash(fields: Mapping[str, Any]) -> str:
    """Hash of one event from its columns; ``hash`` itself is left out.

    Raises:
        AuditError: A column cannot be written as canonical JSON.
    """
    content = {name: value for name, value in fields.items() if name != "hash"}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Mapping[str, Any]) -> bytes:
    try:
        return rfc8785.dumps(dict(content))
    except rfc8785.CanonicalizationError as error:
        raise AuditError(f"an audit event cannot be written as canonical JSON: {error}") from error


class Chain:
    """Appends within one transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.start: Head | None = None
        self.tail: Head | None = None

    def append(
        self,
        action: str,
        *,
        object: str,
        outcome: str,
        detail: Mapping[str, Any],
        actor: str,
    ) -> int:
        """Append one event; the caller holds the writer's lock.

        Raises:
            AuditError: The detail holds what JSON cannot (bytes, NaN, keys that are no strings).
        """
        if self.start is None:
            self.start = self._last()
        before = self.tail or self.start
        fields = {
            "seq": before.seq + 1,
            "version": VERSION,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "actor": actor,
            "action": action,
            "object": object,
            "outcome": outcome,
            "detail": _canonical(detail).decode("utf-8"),
            "prev_hash": before.hash,
        }
        fields["hash"] = event_hash(fields)
        AuditEvent.insert(**fields).execute()
        self.tail = Head(int(str(fields["seq"])), str(fields["hash"]))
        return self.tail.seq

    def _last(self) -> Head:
        row = self._database.execute_sql(
            "SELECT seq, hash FROM audit_event ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return Head(row[0], row[1]) if row else Head(0, GENESIS)


class HeadFile:
    """The head of the chain beside the database.

    It is written after the commit, in place and under a lock, and never goes back: a crash may
    leave it some events behind the table, never ahead of it. It does not go on from a head that
    the table no longer holds, so that verification keeps finding what was done there.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / HEAD_FILE
        self._stuck = False

    def create(self) -> None:
        """Note the empty chain of a new database, unless a head is noted already.

        Raises:
            OSError: The folder cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            # An empty file is what a crash between its creation and the next line leaves.
            if not os.pread(descriptor, 1, 0):
                os.pwrite(descriptor, _line(Head(0, GENESIS)), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def advance(self, chain: Chain) -> None:
        """Note the tail of a committed transaction.

        A head that cannot be noted is logged and left behind: the events themselves are safe.
        """
        if chain.start is None or chain.tail is None:
            return
        try:
            noted = self._advance(chain.start, chain.tail)
        except (OSError, StorageError) as error:
            log.warning("the head of the audit chain could not be noted: %s", error)
            return
        if not noted and not self._stuck:
            self._stuck = True
            log.error("the audit chain no longer holds its noted head: run 'audit verify'")

    def _advance(self, start: Head, tail: Head) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            noted = _parse(os.pread(descriptor, _HEAD_BYTES, 0))
            if noted is None:
                return False
            if noted.seq >= tail.seq:
                return True
            if noted != start and not _holds(noted):
                return False
            os.pwrite(descriptor, _line(tail), 0)
            return True
        finally:
            os.close(descriptor)

    def read(self) -> Head | None:
        """The noted head, or None when there is none.

        Raises:
            AuditError: The file is there and cannot be read as a head.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            text = f"the noted head of the audit chain cannot be read: {error.strerror}"
            raise AuditError(text) from error
        head = _parse(content)
        if head is None:
            raise AuditError("the noted head of the audit chain is unreadable")
        return head


def _holds(head: Head) -> bool:
    if head.seq == 0:
        return head.hash == GENESIS
    query = AuditEvent.select().where((AuditEvent.seq == head.seq) & (AuditEvent.hash == head.hash))
    return bool(query.exists())


def _line(head: Head) -> bytes:
    return (f"{head.seq} {head.hash}".ljust(_HEAD_BYTES - 1) + "\n").encode("ascii")


def _parse(content: bytes) -> Head | None:
    parts = content.decode("ascii", "replace").split()
    if len(parts) != 2 or not parts[0].isdigit() or len(parts[1]) != 64:
        return None
    return Head(int(parts[0]), parts[1])


def events(after: int = 0) -> Iterator[dict[str, Any]]:
    """The events after a number, in order, as their columns."""
    yield from (
        AuditEvent.select()
        .where(AuditEvent.seq > after)
        .order_by(AuditEvent.seq)
        .dicts()
        .iterator()
    )


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
    last = AuditEvent.select(fn.MAX(AuditEvent.seq)).scalar() or 0
    # Rows move by few places as a rule: the nearest numbers first.
    numbers = range(1, max(last, noted.seq if noted else 0) + 2)
    for number in sorted(numbers, key=lambda number: abs(number - row.seq)):
        if row.hash_holds(number):
            return number
    return None


def _number_of(hash_: str) -> int | None:
    if hash_ == GENESIS:
        return 0
    row = AuditEvent.select(AuditEvent.seq).where(AuditEvent.hash == hash_).tuples().first()
    return None if row is None else int(row[0])

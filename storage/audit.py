"""The audit chain: each event carries the hash of the one before it.

``hash = SHA-256(canonical JSON of the row with prev_hash, without hash)``; canonical JSON is
RFC 8785. Events are appended under the writer's lock of the transaction they belong to. The head
of the chain (last number and hash) also stands in a file beside the database, so that a tail that
was cut off is found: `storage.audit_check`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785
from peewee import SqliteDatabase

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
_HEAD_BYTES = 96


@dataclass(frozen=True)
class Head:
    """Where the chain ends."""

    seq: int
    hash: str


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

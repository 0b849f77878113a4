"""The audit chain: each event carries the hash of the one before it.

``hash = SHA-256(canonical JSON of the row with prev_hash, without hash)``; canonical JSON is
RFC 8785. Events are appended under the writer's lock of the transaction they belong to. The head
of the chain (last number and hash) also stands in a file beside the database, so that a tail that
was cut off is found.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785
from peewee import SqliteDatabase

from config.errors import AuditError
from storage.records import AuditEvent

VERSION = 1
GENESIS = "0" * 64
HEAD_FILE = "audit.head"
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
    """Hash of one event from its columns; ``hash`` itself is left out."""
    content = {name: value for name, value in fields.items() if name != "hash"}
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


class Chain:
    """Appends within one transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
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
        """Append one event; the caller holds the writer's lock."""
        before = self.tail or self._last()
        fields = {
            "seq": before.seq + 1,
            "version": VERSION,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "actor": actor,
            "action": action,
            "object": object,
            "outcome": outcome,
            "detail": json.dumps(detail, sort_keys=True, separators=(",", ":")),
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
    leave it some events behind the table, never ahead of it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / HEAD_FILE

    def advance(self, head: Head) -> None:
        """Note a later head."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            noted = _parse(os.pread(descriptor, _HEAD_BYTES, 0))
            if noted is None or noted.seq < head.seq:
                line = f"{head.seq} {head.hash}".ljust(_HEAD_BYTES - 1) + "\n"
                os.pwrite(descriptor, line.encode("ascii"), 0)
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
        head = _parse(content)
        if head is None:
            raise AuditError("the noted head of the audit chain is unreadable")
        return head


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
    """
    # The noted head is read first: events appended meanwhile can only lie behind it.
    noted = HeadFile(data_dir).read()
    expected = Head(0, GENESIS)
    count = 0
    at_noted: str | None = None
    for event in events():
        fault = _fault(event, expected)
        if fault is not None:
            return Verdict(count, expected, fault)
        count += 1
        expected = Head(event["seq"], event["hash"])
        if noted is not None and expected.seq == noted.seq:
            at_noted = expected.hash
    head = expected if count else None
    if noted is not None and noted.seq > expected.seq:
        text = f"event {noted.seq} was written, but the chain ends at {expected.seq}"
        return Verdict(count, head, Break(expected.seq + 1, "cut off", text))
    if noted is None and count:
        text = "the noted head beside the database is missing"
        return Verdict(count, head, Break(expected.seq, "cut off", text))
    if noted is not None and at_noted != noted.hash:
        text = f"event {noted.seq} is not the one that was noted when it was written"
        return Verdict(count, head, Break(noted.seq, "edited", text))
    return Verdict(count, head, None)


def _fault(event: Mapping[str, Any], before: Head) -> Break | None:
    seq = event["seq"]
    own_hash_holds = event_hash(event) == event["hash"]
    if seq != before.seq + 1:
        return Break(before.seq + 1, "removed", f"event {before.seq + 1} is missing")
    if event["prev_hash"] == before.hash:
        if own_hash_holds:
            return None
        return Break(seq, "edited", f"the content of event {seq} does not give its hash")
    if _successor_of(before.hash, seq) is not None:
        kind = "reordered" if own_hash_holds and _known(event["prev_hash"]) else "inserted"
        return Break(seq, kind, f"event {seq} is not the one that followed event {before.seq}")
    if own_hash_holds and not _known(event["prev_hash"]):
        return Break(seq, "removed", f"the event that came before event {seq} is missing")
    return Break(seq, "edited", f"event {seq} does not name event {before.seq} as the one before")


def _known(hash_: str) -> bool:
    return bool(AuditEvent.select().where(AuditEvent.hash == hash_).exists())


def _successor_of(hash_: str, but: int) -> int | None:
    row = AuditEvent.get_or_none((AuditEvent.prev_hash == hash_) & (AuditEvent.seq != but))
    return None if row is None else int(row.seq)

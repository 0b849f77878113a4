"""What was received: associations, and the rows of the objects that they brought."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from peewee import fn

from storage.db import Change, Ledger
from storage.healing import take_place
from storage.records import (
    Association,
    AuditEvent,
    Instance,
    Result,
)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One object that lies durably in the object store and has no row yet.

    Attributes:
        digest: SHA-256 of the data set's bytes, hexadecimal.
        size: Length of the data set in bytes.
        object_key: Where the object store keeps it.
        association_id: The association that brought it.
        received_at: When it had come whole, seconds since the epoch; None for the moment that its
            row is written.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    digest: str
    size: int
    object_key: str
    association_id: int
    received_at: float | None = None


SETTLING_SECONDS = 60.0
"""How far the order of rows may lag behind that of acknowledgements."""


class Kept(Enum):
    """What became of an arrival."""

    NEW = "new"
    SAME = "same"  # the same bytes are here already; the caller removes its file
    RESTORED = "restored"  # they were damaged or missing: the row names the new file now
    REVISION = "revision"  # same SOP Instance UID, other bytes: both are kept
    JOURNALED = "journaled"  # durable in the intake journal; which of the others shows later


def open_association(
    ledger: Ledger, *, calling_ae: str, called_ae: str, address: str, receiver: str
) -> int:
    """Note that an association was accepted; gives its id."""
    with ledger.transaction() as change:
        row = Association.create(
            calling_ae=calling_ae,
            called_ae=called_ae,
            address=address,
            receiver=receiver,
            opened_at=change.now,
        )
        return int(row.id)


def close_association(ledger: Ledger, association_id: int, outcome: str) -> None:
    """Note the end of an association and cover what it brought in the audit chain.

    Args:
        ledger: The database.
        association_id: As `open_association` gave it.
        outcome: ``released``, ``aborted`` or ``lost``.
    """
    with ledger.transaction() as change:
        (
            Association.update(closed_at=change.now, outcome=outcome)
            .where((Association.id == association_id) & Association.closed_at.is_null())
            .execute()
        )
        cover(change, association_id, outcome)


def cover(change: Change, association_id: int, outcome: str) -> int:
    """Write one audit event a series for the instances of an association that have none yet."""
    rows = (
        Instance.select(
            Instance.id, Instance.series_instance_uid, Instance.sop_instance_uid, Instance.digest
        )
        .where((Instance.association == association_id) & Instance.covered_by.is_null())
        .order_by(Instance.series_instance_uid, Instance.sop_instance_uid, Instance.digest)
        .tuples()
    )
    by_series: dict[str, list[tuple[int, str, str]]] = {}
    for row_id, series_uid, sop_uid, digest in rows:
        by_series.setdefault(series_uid, []).append((row_id, sop_uid, digest))
    for series_uid, members in by_series.items():
        seq = change.audit(
            "instances.received",
            object=f"series:{series_uid}",
            detail={
                "association": association_id,
                "ended": outcome,
                "count": len(members),
                "digest": members_digest([(sop_uid, digest) for _, sop_uid, digest in members]),
            },
            actor=f"association:{association_id}",
        )
        Instance.update(covered_by=seq).where(
            (Instance.association == association_id)
            & (Instance.series_instance_uid == series_uid)
            & Instance.covered_by.is_null()
        ).execute()
    return len(by_series)


def members_digest(pairs: Sequence[tuple[str, str]]) -> str:
    """Digest over the sorted (SOP Instance UID, digest) pairs of one covering event."""
    text = "\n".join(f"{uid} {digest}" for uid, digest in sorted(pairs))
    return hashlib.sha256(text.encode()).hexdigest()


def record_arrivals(ledger: Ledger, arrivals: Sequence[Arrival]) -> list[Kept]:
    """Give every arrival its row, all in one transaction."""
    with ledger.transaction() as change:
        _adopt(arrivals, change.now)
        return [_record(arrival, change) for arrival in arrivals]


def _adopt(arrivals: Sequence[Arrival], now: float) -> None:
    """Make up associations that a database restored from an older backup does not know."""
    database = Instance._meta.database
    for association_id in {arrival.association_id for arrival in arrivals}:
        database.execute_sql(
            "INSERT OR IGNORE INTO association (id, calling_ae, called_ae, address, receiver,"
            " opened_at, closed_at, outcome) VALUES (?, '', '', '', 'journal', ?, ?, 'lost')",
            (association_id, now, now),
        )


def _record(arrival: Arrival, change: Change) -> Kept:
    database = Instance._meta.database
    known = [
        digest
        for (digest,) in database.execute_sql(
            "SELECT digest FROM instance WHERE sop_instance_uid = ?", (arrival.sop_instance_uid,)
        )
    ]
    if arrival.digest in known:
        found = (arrival.sop_instance_uid, arrival.digest, arrival.object_key)
        return Kept.RESTORED if take_place(change, *found) else Kept.SAME
    # Plain SQL: this statement runs once an image and the query builder would double its cost.
    database.execute_sql(
        "INSERT INTO instance (sop_instance_uid, revision, sop_class_uid, transfer_syntax_uid,"
        " study_instance_uid, series_instance_uid, digest, size, object_key, association_id,"
        " received_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'stored')",
        (
            arrival.sop_instance_uid,
            len(known),
            arrival.sop_class_uid,
            arrival.transfer_syntax_uid,
            arrival.study_instance_uid,
            arrival.series_instance_uid,
            arrival.digest,
            arrival.size,
            arrival.object_key,
            arrival.association_id,
            change.now if arrival.received_at is None else arrival.received_at,
        ),
    )
    return Kept.REVISION if known else Kept.NEW


def version_of(sop_instance_uid: str, digest: str) -> Instance | None:
    """The version of an instance that has these bytes, if it has its row."""
    row: Instance | None = Instance.get_or_none(
        (Instance.sop_instance_uid == sop_instance_uid) & (Instance.digest == digest)
    )
    return row


def bytes_were_deleted(row: Instance) -> bool:
    """Whether an administrator deleted the bytes of a quarantined version."""
    if row.state != "quarantined":
        return False
    said = (AuditEvent.action == "instance.deleting") & (AuditEvent.object == row.label())
    return bool(AuditEvent.select().where(said).exists())


def came_before(row: Instance, other: Instance) -> bool:
    """Whether a version was acknowledged before another one whose row was written earlier.

    Objects get their rows a moment after they are acknowledged, and each receiver does so by
    itself. What lies further apart than that may take is a clock that was set back.
    """
    lag = float(other.received_at) - float(row.received_at)
    return int(row.id) > int(other.id) and 0 < lag < SETTLING_SECONDS


def known_keys(keys: Sequence[str]) -> set[str]:
    """Which of these object keys a row names; what no row names was never acknowledged."""
    found: set[str] = set()
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        for table in (Instance, Result):
            query = table.select(table.object_key).where(table.object_key.in_(part)).tuples()
            found.update(key for (key,) in query)
    return found


def last_association() -> int:
    """The highest number of an association, or 0."""
    return int(Association.select(fn.MAX(Association.id)).scalar() or 0)


def close_lost_associations(
    ledger: Ledger, receiver: str | None = None, last: int | None = None
) -> int:
    """Close what a process that is gone left open, and cover it; gives how many.

    What came into an association that was closed just before is covered as well.

    Args:
        ledger: The database.
        receiver: Only those of this receiver; None for all.
        last: Only those up to this one; None for all.
    """
    query = Association.select().where(Association.closed_at.is_null())
    if receiver is not None:
        query = query.where(Association.receiver == receiver)
    if last is not None:
        query = query.where(Association.id <= last)
    lost = [row.id for row in query]
    for association_id in lost:
        close_association(ledger, association_id, "lost")
    for association_id, outcome in _closed_uncovered():
        with ledger.transaction() as change:
            cover(change, association_id, outcome)
    return len(lost)


def _closed_uncovered() -> list[tuple[int, str]]:
    query = (
        Instance.select(Association.id, Association.outcome)
        .join(Association)
        .where(Instance.covered_by.is_null() & Association.closed_at.is_null(False))
        .distinct()
    )
    return list(query.tuples())


def is_own_result(sop_instance_uid: str) -> bool:
    """Whether this node made the object."""
    return bool(Result.select().where(Result.sop_instance_uid == sop_instance_uid).exists())

"""What was received: associations, instances, series and studies."""

from __future__ import annotations

import hashlib
import json
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
    Series,
    SeriesAssociation,
    Study,
)

_NOT_SAID = "?"


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


def unindexed(limit: int = 500) -> list[Instance]:
    """Instances the worker has not read yet, oldest first."""
    return list(
        Instance.select().where(Instance.state == "stored").order_by(Instance.id).limit(limit)
    )


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What the worker read from the header of one instance.

    Attributes:
        announced: Of what (an acquisition's number, or "" for the series) how many images there
            are, as the header says; None where it does not.
        patient: Keyed digest of whose study it is, or None.
        taken_at: When the study was taken, as `Study` has it, or None.
    """

    instance: Instance
    modality: str
    single_image: bool
    announced: tuple[str, int] | None = None
    patient: str | None = None
    taken_at: str | None = None


def index_instances(change: Change, read: Sequence[Indexed]) -> list[Series]:
    """Put instances into their series and studies; gives the series that were touched."""
    touched: dict[str, Series] = {}
    for entry in read:
        row = entry.instance
        updated = (
            Instance.update(state="indexed")
            .where((Instance.id == row.id) & (Instance.state == "stored"))
            .execute()
        )
        if updated:
            series = touched.get(row.series_instance_uid) or _series_for(change, entry)
            touched[row.series_instance_uid] = series
            series.last_object_at = max(series.last_object_at, row.received_at)
            series.single_image = series.single_image and entry.single_image
            _announce(series, entry.announced)
            SeriesAssociation.insert(
                series_instance_uid=row.series_instance_uid, association=row.association_id
            ).on_conflict_ignore().execute()
    whose = {entry.instance.study_instance_uid: entry for entry in read}
    for study_uid, entry in whose.items():
        Study.update(patient=entry.patient, taken_at=entry.taken_at).where(
            Study.study_instance_uid == study_uid
        ).execute()
    latest: dict[str, float] = {}
    for series in touched.values():
        study_uid = series.study_instance_uid
        latest[study_uid] = max(latest.get(study_uid, 0.0), series.last_object_at)
        _recount(change, series, "a late object came")
    for study_uid, moment in latest.items():
        Study.update(last_object_at=fn.MAX(Study.last_object_at, moment)).where(
            Study.study_instance_uid == study_uid
        ).execute()
    return list(touched.values())


def _announce(series: Series, announced: tuple[str, int] | None) -> None:
    known: dict[str, int] = json.loads(series.announced) if series.announced else {}
    # Where one image does not say, the whole is not known.
    of, count = announced or (_NOT_SAID, 0)
    known[of] = max(count, known.get(of, 0))
    series.announced = json.dumps(known, sort_keys=True)


def expected_of(series: Series) -> int | None:
    """How many images the headers of a series announce, or None."""
    known: dict[str, int] = json.loads(series.announced) if series.announced else {}
    if not known or _NOT_SAID in known:
        return None
    return known.get("") or sum(known.values())


def recount(change: Change, series_instance_uid: str, reason: str) -> None:
    """Count a series again after something left it, and let it be judged again."""
    series = Series.get_or_none(Series.series_instance_uid == series_instance_uid)
    if series is None:
        return
    if series.study.state == "settled":
        change.move(series.study, "reopened", reason=reason)
    series.last_object_at = change.now
    _recount(change, series, reason)


def _recount(change: Change, series: Series, reason: str) -> None:
    series.instances = (
        Instance.select()
        .where(
            (Instance.series_instance_uid == series.series_instance_uid)
            & (Instance.state == "indexed")
        )
        .count()
    )
    Series.update(
        instances=series.instances,
        last_object_at=series.last_object_at,
        announced=series.announced,
        single_image=series.single_image,
    ).where(Series.series_instance_uid == series.series_instance_uid).execute()
    if series.state in ("complete", "routed", "skipped"):
        change.move(series, "reopened", reason=reason, forced=False)


def _series_for(change: Change, entry: Indexed) -> Series:
    row = entry.instance
    study, _ = Study.get_or_create(
        study_instance_uid=row.study_instance_uid, defaults={"last_object_at": row.received_at}
    )
    if study.state == "settled":
        change.move(study, "reopened", reason="a late object came")
    series: Series
    series, _ = Series.get_or_create(
        series_instance_uid=row.series_instance_uid,
        defaults={
            "study": study,
            "modality": entry.modality,
            "sop_class_uid": row.sop_class_uid,
            "first_object_at": row.received_at,
            "last_object_at": row.received_at,
            "single_image": entry.single_image,
        },
    )
    return series


def current_instances(series_instance_uid: str) -> list[Instance]:
    """The indexed instances of a series, by SOP Instance UID."""
    return list(
        Instance.select()
        .where(
            (Instance.series_instance_uid == series_instance_uid) & (Instance.state == "indexed")
        )
        .order_by(Instance.sop_instance_uid)
    )


def indexed_version(sop_instance_uid: str) -> Instance | None:
    """The version of a SOP instance that is part of its series, if there is one."""
    row: Instance | None = Instance.get_or_none(
        (Instance.sop_instance_uid == sop_instance_uid) & (Instance.state == "indexed")
    )
    return row


def open_series() -> list[Series]:
    """Series that wait for their completeness, the longest quiet first."""
    return list(
        Series.select()
        .where(Series.state.in_(["receiving", "reopened"]))
        .order_by(Series.last_object_at)
    )


def force(ledger: Ledger, series_instance_uid: str, actor: str) -> bool:
    """Ask that a series be taken as it is; False when none of that UID is waiting."""
    with ledger.transaction() as change:
        series = Series.get_or_none(
            (Series.series_instance_uid == series_instance_uid)
            & Series.state.in_(["receiving", "reopened"])
        )
        if series is None:
            return False
        Series.update(forced=True).where(
            Series.series_instance_uid == series_instance_uid
        ).execute()
        change.audit("series.forced", object=series.label(), actor=actor)
        return True


def open_associations_of(series_instance_uid: str) -> int:
    """How many associations that carried the series are still open."""
    return int(
        SeriesAssociation.select()
        .join(Association)
        .where(
            (SeriesAssociation.series_instance_uid == series_instance_uid)
            & Association.closed_at.is_null()
        )
        .count()
    )


def last_broken_off(series_instance_uid: str) -> float:
    """When an association that carried the series last ended without its release, or 0.

    For one that the node itself lost by dying this is the moment it was up again.
    """
    moment = (
        SeriesAssociation.select(fn.MAX(Association.closed_at))
        .join(Association)
        .where(
            (SeriesAssociation.series_instance_uid == series_instance_uid)
            & (Association.outcome != "released")
        )
        .scalar()
    )
    return float(moment or 0.0)


def calling_ae_of(series_instance_uid: str) -> str | None:
    """The AE title that last sent objects of the series."""
    row = (
        Association.select(Association.calling_ae)
        .join(SeriesAssociation)
        .where(SeriesAssociation.series_instance_uid == series_instance_uid)
        .order_by(Association.id.desc())
        .first()
    )
    return None if row is None else str(row.calling_ae)

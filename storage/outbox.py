"""The outbox: every result for every destination until it is accepted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.db import Change, Ledger
from storage.records import Delivery, Job, Result


@dataclass(frozen=True, kw_only=True)
class NewResult:
    """A proved result object that lies durably in the object store."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    size: int
    object_key: str


def add_results(change: Change, job: Job, results: Sequence[NewResult]) -> list[Result]:
    """Give results their rows."""
    return [
        Result.create(
            job=job,
            kind=result.kind,
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            transfer_syntax_uid=result.transfer_syntax_uid,
            digest=result.digest,
            size=result.size,
            object_key=result.object_key,
            created_at=change.now,
        )
        for result in results
    ]


def add_deliveries(
    change: Change, results: Sequence[Result], destinations: Mapping[str, Sequence[str]]
) -> None:
    """Queue every result for every destination that wants its kind."""
    for destination, kinds in destinations.items():
        for result in results:
            if result.kind in kinds:
                row = Delivery.create(result=result, destination=destination, created_at=change.now)
                change.audit(
                    "delivery.waiting",
                    object=row.label(),
                    detail={"result": result.sop_instance_uid, "destination": destination},
                )


def withdraw_unsent(change: Change, job_id: int, reason: str) -> None:
    """Withdraw the deliveries of a job to each destination that got nothing of it yet.

    A bundle goes whole: where one object was sent, or is being sent, the rest follows.
    """
    rows = list(Delivery.select().join(Result).where(Result.job == job_id))
    begun = {row.destination for row in rows if row.state != "waiting" or row.begun}
    for row in rows:
        if row.destination not in begun:
            change.move(row, "withdrawn", reason=reason, finished_at=change.now)


def destinations_due() -> list[str]:
    """Names of the destinations for which something may go out now, or is under way.

    What is under way while nobody delivers there was left behind, and goes out again.
    """
    due = (Delivery.state == "waiting") & (Delivery.not_before <= time.time())
    query = (
        Delivery.select(Delivery.destination)
        .where(due | (Delivery.state == "sending"))
        .distinct()
        .tuples()
    )
    return sorted(name for (name,) in query)


def claim(ledger: Ledger, destination: str, limit: int) -> list[Delivery]:
    """Take the next deliveries for a destination, in order.

    Nothing is taken while the oldest one still waits for the destination: the order holds. One
    that the destination itself answered with a failure does not hold up the others.
    """
    now = time.time()
    due = Delivery.status.is_null() | (Delivery.not_before <= now)
    with ledger.transaction() as change:
        waiting = (
            Delivery.select()
            .where((Delivery.destination == destination) & (Delivery.state == "waiting") & due)
            .order_by(Delivery.id)
            .limit(limit)
        )
        rows: list[Delivery] = []
        for row in list(waiting):
            if row.not_before > now:
                break
            change.move(
                row, "sending", detail={"attempt": row.attempt + 1}, attempt=row.attempt + 1
            )
            rows.append(row)
        return rows


def note_begun(ledger: Ledger, rows: Sequence[Delivery]) -> None:
    """The destination has accepted an association to take these."""
    with ledger.transaction():
        Delivery.update(begun=True).where(Delivery.id.in_([row.id for row in rows])).execute()


def lost(ledger: Ledger, row: Delivery, reason: str) -> None:
    """The object is not there any more: nothing can be sent."""
    with ledger.transaction() as change:
        change.move(row, "dead", reason=reason, finished_at=change.now)


def accepted(ledger: Ledger, row: Delivery, status: int) -> None:
    """The destination answered that it has the object."""
    with ledger.transaction() as change:
        change.move(
            row,
            "accepted",
            status=status,
            detail={"destination": row.destination, "status": f"0x{status:04X}"},
            finished_at=change.now,
        )


def refused(ledger: Ledger, row: Delivery, reason: str, status: int | None) -> None:
    """The destination will not take the object, now or later."""
    with ledger.transaction() as change:
        change.move(row, "refused", reason=reason, status=status, finished_at=change.now)


def put_back(
    ledger: Ledger,
    rows: Sequence[Delivery],
    reason: str,
    *,
    first: float,
    longest: float,
    jitter: float,
    status: int | None = None,
) -> None:
    """The destination could not take the objects now; try again later, ever later.

    Args:
        ledger: The database.
        rows: Deliveries in state sending.
        reason: A sentence without patient identifiers.
        first: Delay after the first attempt in seconds; it doubles with each.
        longest: Longest delay in seconds.
        jitter: In [0, 1), spreads the delay over its upper half.
        status: What the destination answered to this very object, if it is that.
    """
    with ledger.transaction() as change:
        for row in rows:
            delay = min(longest, first * 2.0 ** min(row.attempt - 1, 30)) * (0.5 + jitter / 2)
            change.move(row, "waiting", reason=reason, status=status, not_before=change.now + delay)


def return_orphans(ledger: Ledger, destination: str | None = None) -> int:
    """Deliveries that were under way when their process ended go out again; gives how many.

    Sending twice is safe: the object's UID is the same, and the receiver keeps one instance.

    Args:
        ledger: The database.
        destination: Only those to this destination; None for all.
    """
    query = Delivery.select().where(Delivery.state == "sending")
    if destination is not None:
        query = query.where(Delivery.destination == destination)
    with ledger.transaction() as change:
        rows = list(query)
        for row in rows:
            change.move(row, "waiting", reason="its process ended", not_before=0.0)
        return len(rows)


def try_all_now(ledger: Ledger) -> None:
    """Let whatever waits for its next attempt go out at once."""
    with ledger.transaction():
        Delivery.update(not_before=0.0).where(
            (Delivery.state == "waiting") & (Delivery.not_before > 0.0)
        ).execute()


def retry(ledger: Ledger, row: Delivery, actor: str) -> None:
    """Send a refused delivery again, by hand."""
    with ledger.transaction() as change:
        change.move(row, "waiting", reason="retried by hand", actor=actor, not_before=0.0)

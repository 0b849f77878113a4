"""The outbox: every result for every destination until it is accepted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage import figures
from storage.backoff import Backoff
from storage.breaker import DESTINATIONS
from storage.db import Change, Ledger
from storage.records import Delivery, Job, Result

DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Patience(Backoff):
    """How a destination is tried again, and when no more.

    Attributes:
        give_up_days: Age from which a delivery is given up; 0 never.
        give_up_failures: Failures the destination answers to one object before it is given up;
            0 never.
    """

    give_up_days: float = 0.0
    give_up_failures: int = 0

    def is_spent(self, age_seconds: float, failures: int) -> bool:
        """Whether a delivery that waited and failed so often is to be given up."""
        too_old = self.give_up_days and age_seconds >= self.give_up_days * DAY_SECONDS
        too_often = self.give_up_failures and failures >= self.give_up_failures
        return bool(too_old or too_often)


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
                row = Delivery.create(
                    result=result,
                    destination=destination,
                    wanted=result.kind,
                    created_at=change.now,
                    since=change.now,
                )
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


def begun_destinations(job: Job) -> list[str]:
    """Destinations that got something of a job's bundle, or are getting it."""
    query = (
        Delivery.select(Delivery.destination)
        .join(Result)
        .where((Result.job == job) & (Delivery.begun | Delivery.state.in_(["sending", "accepted"])))
        .distinct()
        .tuples()
    )
    return sorted(name for (name,) in query)


def sent_results(job: Job, destinations: Sequence[str]) -> list[Result]:
    """What of a job's bundle these destinations have, or will have."""
    gone = ["withdrawn", "refused", "dead"]
    return list(
        Result.select()
        .join(Delivery)
        .where(
            (Result.job == job)
            & Delivery.destination.in_(list(destinations))
            & Delivery.state.not_in(gone)
        )
        .distinct()
        .order_by(Result.id)
    )


def sent_before(job: Job) -> list[Result]:
    """What of the newest earlier bundle on the same subject was sent, if any was."""
    earlier = (
        Job.select()
        .where(
            (Job.subject == job.subject)
            & (Job.route == job.route)
            & (Job.mode == job.mode)
            & (Job.id < job.id)
        )
        .order_by(Job.id.desc())
    )
    for before in earlier:
        if sent := sent_results(before, begun_destinations(before)):
            return sent
    return []


def destinations_due() -> list[str]:
    """Names of the destinations for which something may go out now, or is under way.

    What is under way while nobody delivers there was left behind, and goes out again.
    """
    now = time.time()
    due = (Delivery.state == "waiting") & (Delivery.not_before <= now)
    query = (
        Delivery.select(Delivery.destination)
        .where(due | (Delivery.state == "sending"))
        .distinct()
        .tuples()
    )
    return sorted(name for (name,) in query if DESTINATIONS.lets_through(name, now))


def claim(ledger: Ledger, destination: str, limit: int) -> list[Delivery]:
    """Take the next deliveries for a destination, in order.

    Nothing is taken while the oldest one still waits for the destination: the order holds. One
    that the destination itself answered with a failure does not hold up the others. While the
    destination's circuit breaker is open nothing is taken, and when its time has come one object.
    """
    now = time.time()
    due = Delivery.status.is_null() | (Delivery.not_before <= now)
    with ledger.transaction() as change:
        limit = DESTINATIONS.begin(change, destination, limit)
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
        figures.delivered(change, row.result.job_id)


def refused(ledger: Ledger, row: Delivery, reason: str, status: int | None) -> None:
    """The destination will not take the object, now or later."""
    with ledger.transaction() as change:
        change.move(row, "refused", reason=reason, status=status, finished_at=change.now)


def put_back(
    ledger: Ledger,
    rows: Sequence[Delivery],
    reason: str,
    patience: Patience,
    *,
    jitter: float,
    status: int | None = None,
) -> None:
    """These objects could not be taken now; try again later, ever later, or give them up.

    Args:
        ledger: The database.
        rows: Deliveries in state sending.
        reason: A sentence without patient identifiers.
        patience: The destination's.
        jitter: In [0, 1), spreads the delay over its upper half.
        status: What the destination answered to this very object, if it is that.
    """
    with ledger.transaction() as change:
        for row in rows:
            later = change.now + patience.delay(row.attempt, jitter)
            failures = row.failures + (status is not None)
            if patience.is_spent(change.now - row.since, failures):
                _give_up(change, row, reason, status)
            else:
                values = {"status": status, "failures": failures, "not_before": later}
                change.move(row, "waiting", reason=reason, **values)


def destination_failed(
    ledger: Ledger,
    destination: str,
    rows: Sequence[Delivery],
    reason: str,
    patience: Patience,
    *,
    jitter: float,
) -> None:
    """No association came about, or it broke: all that waits for the destination waits on.

    Args:
        ledger: The database.
        destination: Its name.
        rows: Its deliveries in state sending.
        reason: A sentence without patient identifiers.
        patience: The destination's.
        jitter: In [0, 1), spreads the delay over its upper half.
    """
    with ledger.transaction() as change:
        failures = DESTINATIONS.failures_of(destination) + 1
        later = change.now + patience.delay(failures, jitter)
        DESTINATIONS.failed(change, destination, reason, later)
        for row in rows:
            change.move(row, "waiting", reason=reason, status=None, not_before=later)
        waiting = (Delivery.destination == destination) & (Delivery.state == "waiting")
        for row in list(Delivery.select().where(waiting).order_by(Delivery.id)):
            if patience.is_spent(change.now - row.since, row.failures):
                _give_up(change, row, row.reason or reason, row.status)


def destination_answered(ledger: Ledger, destination: str) -> None:
    """An association took its course: the destination is there."""
    if not DESTINATIONS.failures_of(destination):
        return
    with ledger.transaction() as change:
        if DESTINATIONS.succeeded(change, destination):
            # Those that wait for an answer of their own wait on.
            Delivery.update(not_before=0.0).where(
                (Delivery.destination == destination)
                & (Delivery.state == "waiting")
                & Delivery.status.is_null()
            ).execute()


def _give_up(change: Change, row: Delivery, reason: str, status: int | None) -> None:
    why = f"given up after {row.attempt} attempts: {reason}"
    change.move(row, "dead", reason=why, status=status, finished_at=change.now)


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
        DESTINATIONS.try_all_now()


def retry(ledger: Ledger, row: Delivery, actor: str) -> None:
    """Send a refused or given up delivery again, by hand."""
    with ledger.transaction() as change:
        change.move(
            row,
            "waiting",
            reason="retried by hand",
            actor=actor,
            not_before=0.0,
            failures=0,
            since=change.now,
        )
        DESTINATIONS.try_now(row.destination)

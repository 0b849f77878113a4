"""The attempts at a job: leased, fenced by the attempt number, never taken."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from config.errors import StaleStateError
from storage import figures, outbox
from storage.backoff import Backoff
from storage.breaker import MODELS
from storage.db import Change, Ledger
from storage.figures import Outcome
from storage.jobs import Priority
from storage.outbox import NewResult
from storage.records import Job

MAX_CRASHES = 3
BACKOFF = Backoff(first=2.0, longest=300.0)


def extend_leases(ledger: Ledger, owner: str, lease_seconds: float) -> None:
    """Push the leases of everything this owner runs further out."""
    with ledger.transaction() as change:
        Job.update(lease_until=change.now + lease_seconds).where(
            (Job.owner == owner) & Job.state.in_(["running", "validating"])
        ).execute()


def return_orphans(ledger: Ledger, *, crashed: bool, owner: str | None = None) -> int:
    """Put jobs of a process that is gone back into the queue; gives how many.

    Args:
        ledger: The database.
        crashed: Their process died by itself, so each is a suspect; not so when the whole node
            was stopped.
        owner: Only jobs of this owner; None for all.
    """
    query = Job.select().where(Job.state.in_(["running", "validating"]))
    if owner is not None:
        query = query.where(Job.owner == owner)
    return _return(ledger, query, crashed)


def return_expired(ledger: Ledger) -> int:
    """Put jobs whose lease ran out back into the queue; gives how many."""
    query = Job.select().where(
        Job.state.in_(["running", "validating"]) & (Job.lease_until < time.time())
    )
    return _return(ledger, query, crashed=True) if query.exists() else 0


def _return(ledger: Ledger, query: Any, crashed: bool) -> int:
    with ledger.transaction() as change:
        jobs = list(query)
        for job in jobs:
            crashes = job.crashes + (1 if crashed else 0)
            values: dict[str, Any] = {"crashes": crashes, "owner": None, "queued_at": change.now}
            if crashes >= MAX_CRASHES:
                reason = f"dead letter: its process died {crashes} times"
                change.move(job, "failed", reason=reason, finished_at=change.now, **values)
                figures.count(change, job.model, {"failed": 1})
            else:
                reason = "its process died" if crashed else "its process was stopped"
                change.move(job, "queued", reason=reason, **values)
        if crashed and len(jobs) == 1:  # of several nobody knows which one it was
            _blame(change, jobs[0].model, "its process died", jitter=1.0)
        return len(jobs)


def _blame(change: Change, model: str, reason: str, *, jitter: float) -> None:
    """A job failed by a model's fault."""
    failures = MODELS.failures_of(model) + 1
    MODELS.failed(change, model, reason, change.now + BACKOFF.delay(failures, jitter))


def start_validating(ledger: Ledger, job: Job) -> None:
    """The model has answered and the objects are being proved."""
    with ledger.transaction() as change:
        change.move(job, "validating")


def finish(
    ledger: Ledger,
    job: Job,
    results: Sequence[NewResult],
    destinations: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
    *,
    reason: str | None = None,
    outcome: Outcome | None = None,
    beside: str | None = None,
) -> None:
    """Make a job ready with its results and queue their deliveries, all at once.

    Args:
        ledger: The database.
        job: In state validating.
        results: The proved objects, durably stored.
        destinations: Kinds of result each destination is sent, by its name.
        seconds: Time by stage.
        reason: Why a human look is asked for, without patient identifiers.
        outcome: What the model answered, for its figures.
        beside: ``name@version`` of another model that did its part in the job.
    """
    with ledger.transaction() as change:
        rows = outbox.add_results(change, job, results)
        outbox.add_deliveries(change, rows, destinations)
        change.move(
            job,
            "ready",
            reason=reason,
            detail={"results": [[row.kind, row.sop_instance_uid, row.digest] for row in rows]},
            owner=None,
            finished_at=change.now,
            seconds=json.dumps(dict(seconds)),
        )
        for model in filter(None, (job.model, beside)):
            MODELS.succeeded(change, model)
        if outcome is not None:
            figures.record(change, job, outcome, seconds)


def skip(ledger: Ledger, job: Job, reason: str) -> None:
    """The model is not for what the pixels show; it was not run.

    Args:
        ledger: The database.
        job: Running.
        reason: A sentence without patient identifiers.
    """
    with ledger.transaction() as change:
        change.move(job, "skipped", reason=reason, owner=None, finished_at=change.now)
        figures.count(change, job.model, {"skipped": 1})


def fail(
    ledger: Ledger,
    job: Job,
    reason: str,
    *,
    max_attempts: int,
    retry: bool,
    jitter: float,
    blamed: str | None = None,
) -> None:
    """Note a failed attempt: back to the queue with a growing delay, or failed for good.

    Args:
        ledger: The database.
        job: Running or validating.
        reason: A sentence without patient identifiers.
        max_attempts: Attempts before the job has failed.
        retry: False where another attempt cannot help.
        jitter: In [0, 1), spreads the delay over its upper half.
        blamed: ``name@version`` of the model whose fault it is; it counts against that one, once a
            job.
    """
    with ledger.transaction() as change:
        failures = job.failures + 1
        if blamed is not None and (failures == 1 or not MODELS.is_closed(blamed)):
            _blame(change, blamed, reason, jitter=jitter)
        if retry and failures < max_attempts:
            later = change.now + BACKOFF.delay(failures, jitter)
            change.move(
                job,
                "queued",
                reason=reason,
                owner=None,
                not_before=later,
                queued_at=later,
                failures=failures,
            )
        else:
            change.move(
                job,
                "failed",
                reason=reason,
                owner=None,
                finished_at=change.now,
                failures=failures,
            )
            figures.count(change, job.model, {"failed": 1})


def try_all_now(ledger: Ledger) -> None:
    """Let whatever waits for its next attempt be run at once."""
    with ledger.transaction() as change:
        Job.update(not_before=0.0, queued_at=change.now).where(
            (Job.state == "queued") & (Job.not_before > 0.0)
        ).execute()
        MODELS.try_all_now()


def retry(ledger: Ledger, job: Job, actor: str) -> None:
    """Queue a failed, skipped or cancelled job again, by hand."""
    with ledger.transaction() as change:
        change.move(
            job,
            "queued",
            reason="retried by hand",
            actor=actor,
            failures=0,
            crashes=0,
            not_before=0.0,
            queued_at=change.now,
            finished_at=None,
        )
        MODELS.try_now(job.model)


def prioritize(ledger: Ledger, job: Job, priority: Priority, actor: str) -> None:
    """Let a job that waits run before, or among, the others, by hand."""
    with ledger.transaction() as change:
        fence = (Job.id == job.id) & (Job.state == "queued")
        if not Job.update(priority=priority).where(fence).execute():
            raise StaleStateError(f"{job.label()} is no longer queued")
        change.audit(
            "job.prioritized",
            object=job.label(),
            detail={"from": job.priority, "to": priority},
            actor=actor,
        )
    job.priority = priority


def cancel(ledger: Ledger, job: Job, actor: str) -> None:
    """Cancel a job that is not done yet, by hand."""
    with ledger.transaction() as change:
        change.move(job, "cancelled", reason="cancelled by hand", actor=actor, owner=None)

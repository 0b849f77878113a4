"""The queue of jobs: leased, fenced by the attempt number, never taken."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peewee import fn

from config.errors import StaleStateError
from storage import outbox
from storage.db import Change, Ledger
from storage.outbox import NewResult
from storage.records import Instance, Job, Result, Series

RESULT_FORMAT = 2  # raised whenever the encoding of results changes
MAX_CRASHES = 3
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 300.0

# A cancelled job is among them: it may be retried by hand, and must not speak after a newer one.
_REPLACEABLE = ("queued", "running", "validating", "ready", "failed", "cancelled")

# PS3.16 CID 7010: the title of the rejection note for results that newer ones take the place of.
OUTDATED = "113001"  # Rejected for Quality Reasons
WITHDRAWAL = "withdrawal"  # what such a note is called among the kinds of result


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One routed series, one image of it, or some series of a study, for one model.

    Attributes:
        series: The one that the model's primary input is, or is part of.
        subject: What the model looks at: the Series Instance UID, the SOP Instance UID where each
            image of the series stands by itself, or the Study Instance UID.
        mode: ``live``, or ``shadow`` for a run whose results are kept and never delivered; the
            modes do not replace each other's jobs.
        inputs: The instances of each input role, in no particular order.
        settings: Whatever of the settings changes pixels or codes.
    """

    node_id: str
    series: Series
    subject: str
    route: str
    model: str
    model_digest: str
    send_to: Sequence[str]
    inputs: Mapping[str, Sequence[Instance]]
    settings: Mapping[str, Any]
    run_number: int = 0
    mode: str = "live"

    @property
    def scope(self) -> str:
        """``study`` or ``series``."""
        return "study" if self.subject == self.series.study_instance_uid else "series"


def identity_of(request: JobRequest) -> str:
    """The identity of a job: the same analysis has the same one, on any day."""
    content = {
        "node": request.node_id,
        "inputs": {
            role: sorted(row.digest for row in rows) for role, rows in request.inputs.items()
        },
        "model": request.model_digest,
        "route": request.route,
        "settings": dict(request.settings),
        "format": RESULT_FORMAT,
        "mode": request.mode,
        "run": request.run_number,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def enqueue(change: Change, request: JobRequest) -> Job | None:
    """Queue a job and supersede what the same route said of the subject before.

    Returns:
        The new job, or None when this very analysis was queued or done already.
    """
    identity = identity_of(request)
    while (known := Job.get_or_none(Job.identity == identity)) is not None:
        if known.state != "superseded":
            return None
        # The subject is as it was before something newer came and went: that is a new run.
        request = replace(request, run_number=request.run_number + 1)
        identity = identity_of(request)
    earlier = Job.select().where(
        (Job.subject == request.subject)
        & (Job.route == request.route)
        & (Job.mode == request.mode)
        & Job.state.in_(_REPLACEABLE)
    )
    for job in list(earlier):
        supersede(change, job, f"newer objects of the {request.scope} came")
    row: Job = Job.create(
        identity=identity,
        series=request.series,
        subject=request.subject,
        study_instance_uid=request.series.study_instance_uid,
        route=request.route,
        model=request.model,
        model_digest=request.model_digest,
        mode=request.mode,
        send_to=json.dumps(list(request.send_to)),
        input_instances=json.dumps(
            {role: sorted(row.id for row in rows) for role, rows in request.inputs.items()}
        ),
        run_number=request.run_number,
        created_at=change.now,
    )
    change.audit(
        "job.queued",
        object=row.label(),
        detail={
            "identity": identity,
            "route": request.route,
            "model": request.model,
            "mode": request.mode,
        },
    )
    return row


def current_jobs_of(series: Series) -> list[Job]:
    """The jobs on a series alone whose word counts or may still come, oldest first."""
    return [job for job in current_jobs_in(series.study_instance_uid) if _is_of(job, series)]


def _is_of(job: Job, series: Series) -> bool:
    own = job.series_instance_uid == series.series_instance_uid
    return bool(own and job.subject != job.study_instance_uid)


def current_jobs_in(study_instance_uid: str) -> list[Job]:
    """The jobs of a study whose word counts or may still come, oldest first."""
    return list(
        Job.select()
        .where((Job.study_instance_uid == study_instance_uid) & Job.state.in_(_REPLACEABLE))
        .order_by(Job.id)
    )


def supersede(change: Change, job: Job, reason: str, *, code: str = OUTDATED) -> None:
    """Replace a job; a bundle of which nothing was sent yet is not sent any more.

    Args:
        change: The transaction.
        job: Whose word no longer counts.
        reason: A sentence without patient identifiers.
        code: Title of the rejection note for what was sent of it, PS3.16 CID 7010.
    """
    withdrawal = None
    if job.state == "ready":
        outbox.withdraw_unsent(change, job.id, reason)
        withdrawal = code if outbox.begun_destinations(job) else None
    change.move(job, "superseded", reason=reason, withdrawal=withdrawal)


def to_withdraw() -> list[Job]:
    """Superseded jobs of which something was sent, once nothing newer is still to come."""
    newer = Job.alias()
    pending = newer.select().where(
        (newer.subject == Job.subject)
        & (newer.route == Job.route)
        & (newer.mode == Job.mode)
        & (newer.id > Job.id)
        & newer.state.in_(["queued", "running", "validating", "failed", "cancelled"])
    )
    return list(
        Job.select().where(Job.withdrawal.is_null(False) & ~fn.EXISTS(pending)).order_by(Job.id)
    )


def withdrawn(
    ledger: Ledger, job: Job, note: NewResult | None, destinations: Sequence[str]
) -> None:
    """What was sent of a superseded job is withdrawn at these destinations, or at none.

    Args:
        ledger: The database.
        job: From `to_withdraw`.
        note: The rejection note, durably stored.
        destinations: Who gets it.
    """
    with ledger.transaction() as change:
        fence = (Job.id == job.id) & Job.withdrawal.is_null(False)
        if not Job.update(withdrawal=None).where(fence).execute():
            raise StaleStateError(f"{job.label()} was withdrawn already")
        if note is None:
            return
        rows = outbox.add_results(change, job, [note])
        outbox.add_deliveries(change, rows, {name: [note.kind] for name in destinations})
        change.audit(
            "results.withdrawn",
            object=job.label(),
            detail={
                "code": job.withdrawal,
                "note": note.sop_instance_uid,
                "destinations": list(destinations),
            },
        )


def claim(ledger: Ledger, owner: str, lease_seconds: float) -> Job | None:
    """Lease the next job, or None when there is nothing to do now.

    After a crash the suspects (jobs that were running then) run first and one at a time: nothing
    else begins until what runs has ended and each of them has run alone.
    """
    now = time.time()
    ready = (Job.state == "queued") & (Job.not_before <= now)
    if not Job.select().where(ready).exists():
        return None
    with ledger.transaction() as change:
        running = Job.select().where(Job.state.in_(["running", "validating"]))
        if running.where(Job.crashes > 0).exists():
            return None
        due = Job.select().where(ready).order_by(Job.id)
        job: Job | None = due.where(Job.crashes > 0).first()
        if job is not None and running.exists():
            return None
        job = job or due.where(Job.crashes == 0).first()
        if job is None:
            return None
        change.move(
            job,
            "running",
            detail={"attempt": job.attempt + 1},
            attempt=job.attempt + 1,
            owner=owner,
            lease_until=change.now + lease_seconds,
            started_at=change.now,
        )
        return job


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
            if crashes >= MAX_CRASHES:
                reason = f"dead letter: its process died {crashes} times"
                change.move(job, "failed", reason=reason, crashes=crashes, owner=None)
            else:
                reason = "its process died" if crashed else "the node was stopped"
                change.move(job, "queued", reason=reason, crashes=crashes, owner=None)
        return len(jobs)


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
) -> None:
    """Make a job ready with its results and queue their deliveries, all at once.

    Args:
        ledger: The database.
        job: In state validating.
        results: The proved objects, durably stored.
        destinations: Kinds of result each destination is sent, by its name.
        seconds: Time by stage.
    """
    with ledger.transaction() as change:
        rows = outbox.add_results(change, job, results)
        outbox.add_deliveries(change, rows, destinations)
        change.move(
            job,
            "ready",
            detail={"results": [[row.kind, row.sop_instance_uid, row.digest] for row in rows]},
            owner=None,
            finished_at=change.now,
            seconds=json.dumps(dict(seconds)),
        )


def fail(
    ledger: Ledger, job: Job, reason: str, *, max_attempts: int, retry: bool, jitter: float
) -> None:
    """Note a failed attempt: back to the queue with a growing delay, or failed for good.

    Args:
        ledger: The database.
        job: Running or validating.
        reason: A sentence without patient identifiers.
        max_attempts: Attempts before the job has failed.
        retry: False where another attempt cannot help.
        jitter: In [0, 1), spreads the delay over its upper half.
    """
    with ledger.transaction() as change:
        failures = job.failures + 1
        if retry and failures < max_attempts:
            delay = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (failures - 1))
            later = change.now + delay * (0.5 + jitter / 2)
            change.move(
                job, "queued", reason=reason, owner=None, not_before=later, failures=failures
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


def try_all_now(ledger: Ledger) -> None:
    """Let whatever waits for its next attempt be run at once."""
    with ledger.transaction():
        Job.update(not_before=0.0).where((Job.state == "queued") & (Job.not_before > 0.0)).execute()


def retry(ledger: Ledger, job: Job, actor: str) -> None:
    """Queue a failed or cancelled job again, by hand."""
    with ledger.transaction() as change:
        change.move(
            job,
            "queued",
            reason="retried by hand",
            actor=actor,
            failures=0,
            crashes=0,
            not_before=0.0,
            finished_at=None,
        )


def cancel(ledger: Ledger, job: Job, actor: str) -> None:
    """Cancel a job that is not done yet, by hand."""
    with ledger.transaction() as change:
        change.move(job, "cancelled", reason="cancelled by hand", actor=actor, owner=None)


def inputs_of(job: Job) -> dict[str, list[Instance]]:
    """The instances a job works on, by input role."""
    return {role: _instances(ids) for role, ids in json.loads(job.input_instances).items()}


def input_ids_of(job: Job) -> set[int]:
    """The ids of all instances a job works on."""
    return {number for ids in json.loads(job.input_instances).values() for number in ids}


def _instances(ids: Sequence[int]) -> list[Instance]:
    rows: list[Instance] = []
    for start in range(0, len(ids), 500):
        rows.extend(Instance.select().where(Instance.id.in_(ids[start : start + 500])))
    return rows


def results_of(job: Job) -> list[Result]:
    """The results of a job, in the order they were made."""
    return list(Result.select().where(Result.job == job).order_by(Result.id))

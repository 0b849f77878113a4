"""Jobs: what identifies one, what it works on, and which newer one takes its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from peewee import fn

from config.errors import StaleStateError
from storage import outbox
from storage.db import Change, Ledger
from storage.outbox import NewResult
from storage.records import Instance, Job, Result, Series

RESULT_FORMAT = 4  # raised whenever the encoding of results changes

Priority = Literal["stat", "routine"]

# A cancelled job is among them: it may be retried by hand, and must not speak after a newer one.
_REPLACEABLE = ("queued", "running", "validating", "ready", "skipped", "failed", "cancelled")

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
        priority: Whether it runs before others.
        source: The calling AE title that sent the primary input.
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
    priority: Priority = "routine"
    source: str = ""

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
        queued_at=change.now,
        priority=request.priority,
        source=request.source,
    )
    change.audit(
        "job.queued",
        object=row.label(),
        detail={
            "identity": identity,
            "route": request.route,
            "model": request.model,
            "mode": request.mode,
            "priority": request.priority,
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

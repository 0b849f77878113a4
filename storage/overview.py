"""What the node is doing, in numbers and rows: for `status`, `/metrics` and `/health/ready`."""

from __future__ import annotations

import json
import time
from typing import Any

from peewee import fn

from storage import procedures, source_counts
from storage.db import Ledger
from storage.record import Record
from storage.records import (
    Association,
    AuditEvent,
    CircuitBreaker,
    Delivery,
    Destination,
    Instance,
    Job,
    ModelBreaker,
    NodeFact,
    Result,
    Series,
    Study,
)
from storage.series import expected_of


def fact(key: str) -> str | None:
    """One fact about the node, or None."""
    row = NodeFact.get_or_none(NodeFact.key == key)
    return None if row is None else str(row.value)


def facts(beginning: str, value: str) -> list[str]:
    """The keys of the facts that begin so and have that value."""
    found = NodeFact.select(NodeFact.key).where(NodeFact.value == value).order_by(NodeFact.key)
    return [key for (key,) in found.tuples() if key.startswith(beginning)]


def set_fact(ledger: Ledger, key: str, value: str) -> None:
    """Note a fact about the node."""
    with ledger.transaction():
        NodeFact.insert(key=key, value=value).on_conflict_replace().execute()


def fact_once(ledger: Ledger, key: str, value: str) -> str:
    """Note a fact unless it is known; gives the one that holds."""
    with ledger.transaction():
        NodeFact.insert(key=key, value=value).on_conflict_ignore().execute()
    return str(fact(key))


def counts_by_state() -> dict[str, dict[str, int]]:
    """How many rows of each kind are in each state."""
    return {Instance.noun: _instances_by_state()} | {
        table.noun: dict(table.select(table.state, fn.COUNT("*")).group_by(table.state).tuples())
        for table in (Series, Study, Job, Delivery)
    }


def _instances_by_state() -> dict[str, int]:
    # Nearly all are indexed: counting the others and all of them reads two small indexes, counting
    # by state would read every row. One statement, so that the numbers belong together.
    rows = Instance._meta.database.execute_sql(
        "SELECT 'indexed', (SELECT count(*) FROM instance)"
        " - (SELECT count(*) FROM instance WHERE state <> 'indexed') UNION ALL"
        " SELECT state, count(*) FROM instance WHERE state <> 'indexed' GROUP BY state"
    ).fetchall()
    return {state: count for state, count in rows if count}


def open_associations() -> int:
    """Associations open now."""
    return int(Association.select().where(Association.closed_at.is_null()).count())


def oldest_waiting_seconds(table: type[Record], states: list[str]) -> float:
    """Age of the oldest row in one of these states, in seconds; 0 where there is none."""
    oldest = table.select(fn.MIN(table.created_at)).where(table.state.in_(states)).scalar()
    return max(0.0, time.time() - oldest) if oldest else 0.0


def studies(limit: int = 100) -> list[dict[str, Any]]:
    """The newest studies with their series."""
    rows = Study.select().order_by(Study.last_object_at.desc()).limit(limit)
    return [
        {
            "study_instance_uid": study.study_instance_uid,
            "state": study.state,
            "reason": study.reason,
            "last_object_at": study.last_object_at,
            "series": [
                {
                    "series_instance_uid": series.series_instance_uid,
                    "modality": series.modality,
                    "instances": series.instances,
                    "state": series.state,
                    "reason": series.reason,
                    "complete": _verdict(series),
                    "announced": _announced(series),
                    "quality": _quality(series),
                }
                for series in study.series.order_by(Series.first_object_at)
            ],
        }
        for study in rows
    ]


def _verdict(series: Series) -> dict[str, Any] | None:
    """Why a series is complete: reason and evidence; None where it is not."""
    if series.completeness is None or series.state in ("receiving", "reopened"):
        return None
    verdict: dict[str, Any] = json.loads(series.completeness)
    return verdict


def _announced(series: Series) -> list[dict[str, Any]]:
    """How many instances its sources say that a series has, and how many of those are here."""
    found = []
    listed = procedures.listed(series.series_instance_uid)
    if listed is not None:
        found.append({"source": "MPPS", "instances": listed.objects, "here": listed.here})
    counts = {
        "C-FIND (0020,1209)": source_counts.of_series(series),
        "its headers": expected_of(series),
    }
    found += [
        {"source": source, "instances": count, "here": min(count, series.instances)}
        for source, count in counts.items()
        if count is not None
    ]
    return found


def _quality(series: Series) -> list[dict[str, Any]]:
    """The verdict on each unit of a series, with every reason; none before it is complete."""
    units = json.loads(series.explanation or "[]")
    return [{"subject": unit["subject"], **unit["quality"]} for unit in units]


def jobs(limit: int = 100, **wanted: str | None) -> list[dict[str, Any]]:
    """The newest jobs, of those that `matching_jobs` gives."""
    query = matching_jobs(**wanted).order_by(Job.id.desc()).limit(limit)
    return [job_row(job) for job in query]


def matching_jobs(
    *, state: str | None = None, model: str | None = None, route: str | None = None
) -> Any:
    """A query of jobs, the oldest first.

    Args:
        state: In this state alone.
        model: Of this model alone, ``name@version``, or a name for all its versions.
        route: Of this route alone.
    """
    query = Job.select().order_by(Job.id)
    if state is not None:
        query = query.where(Job.state == state)
    if model is not None:
        version = Job.model == model if "@" in model else Job.model.startswith(f"{model}@")
        query = query.where(version)
    return query if route is None else query.where(Job.route == route)


# What an event in the audit chain says of how far a job has come.
_STAGES = {
    "instances.received": "received",
    "series.complete": "complete",
    "series.routed": "routed",
    "job.queued": "queued",
    "job.running": "running",
    "job.validating": "validating",
    "job.ready": "ready",
    "job.failed": "failed",
    "job.superseded": "superseded",
    "job.cancelled": "cancelled",
    "results.deleted": "results deleted",
    "delivery.sending": "delivering",
    "delivery.accepted": "delivered",
    "delivery.refused": "delivery failed",
    "delivery.dead": "delivery failed",
}


def stages(job: Job) -> list[dict[str, Any]]:
    """Every stage of a job as the audit chain has it, its series and its deliveries among them."""
    deliveries = Delivery.select().join(Result).where(Result.job == job)
    labels = [job.series.label(), job.label(), *(row.label() for row in deliveries)]
    events = (
        AuditEvent.select()
        .where(AuditEvent.object.in_(labels) & AuditEvent.action.in_(list(_STAGES)))
        .order_by(AuditEvent.seq)
    )
    return [
        {
            "stage": _STAGES[event.action],
            "time": event.time,
            "object": event.object,
            "reason": json.loads(event.detail).get("reason"),
        }
        for event in events
    ]


def job_row(job: Job) -> dict[str, Any]:
    """One job as plain values, with what became of its results."""
    return {
        "id": job.id,
        "route": job.route,
        "model": job.model,
        "mode": job.mode,
        "state": shown_state(job),
        "reason": job.reason,
        "attempt": job.attempt,
        "failures": job.failures,
        "crashes": job.crashes,
        "priority": job.priority,
        "source": job.source,
        "not_before": job.not_before,
        "identity": job.identity,
        "series_instance_uid": job.series_instance_uid,
        "study_instance_uid": job.study_instance_uid,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def shown_state(job: Job) -> str:
    """The job's state with its deliveries folded in: delivering, delivered, delivery failed."""
    state = str(job.state)
    if state != "ready":
        return state
    query = Delivery.select(Delivery.state).join(Result).where(Result.job == job).tuples()
    states = {row_state for (row_state,) in query}
    if not states:
        return "ready"
    if states & {"refused", "dead"}:
        return "delivery failed"
    return "delivered" if states <= {"accepted", "committed", "withdrawn"} else "delivering"


def deliveries(limit: int = 100) -> list[dict[str, Any]]:
    """The newest deliveries."""
    rows = Delivery.select(Delivery, Result).join(Result).order_by(Delivery.id.desc()).limit(limit)
    breakers = destinations()
    return [
        {
            "id": row.id,
            "job": row.result.job_id,
            "kind": row.result.kind,
            "wanted": row.wanted,
            "fell_back": row.fell_back,
            "destination": row.destination,
            "destination_state": breakers.get(row.destination, {}).get("state", "closed"),
            "state": row.state,
            "reason": row.reason,
            "status": row.status,
            "attempt": row.attempt,
            "not_before": row.not_before,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
            "sop_instance_uid": row.result.sop_instance_uid,
        }
        for row in rows
    ]


def destinations() -> dict[str, dict[str, Any]]:
    """The circuit breaker of each destination that ever failed, by its name."""
    return _breakers(Destination)


def models() -> dict[str, dict[str, Any]]:
    """The circuit breaker of each model that ever failed, by ``name@version``."""
    return _breakers(ModelBreaker)


def _breakers(table: type[CircuitBreaker]) -> dict[str, dict[str, Any]]:
    return {
        row.name: {
            "state": row.state,
            "failures": row.failures,
            "retry_at": row.retry_at,
            "reason": row.reason,
        }
        for row in table.select()
    }

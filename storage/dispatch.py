"""Which job runs next: stat before routine, fair between sources, first in first out in each.

What runs in shadow waits until no live job may start.

What may not run now holds up nothing else: jobs of a model that is at its limit, jobs that need one
whose circuit breaker is open, and jobs of a route that is paused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peewee import fn

from storage.breaker import MODELS
from storage.db import Ledger
from storage.records import Job

AGING_SECONDS = 600.0
"""A routine job that waited longer is not left behind any more, whatever is stat."""

STAT_IN_A_ROW = 3
"""Stat jobs that start one after another while such a routine job waits; then that has a turn."""

_RUNNING = Job.state.in_(["running", "validating"])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may run at once, over all workers of the node.

    Attributes:
        jobs: How many jobs; None for any number.
        models: How many jobs of a model, by its name; its versions count together.
        paused: Names of routes of which none may start.
        beside: ``name@version`` of the model that jobs of a route need beside their own, by the
            route's name.
    """

    jobs: int | None = None
    models: Mapping[str, int] = field(default_factory=dict)
    paused: Collection[str] = ()
    beside: Mapping[str, str] = field(default_factory=dict)


NO_LIMITS = Limits()


def claim(
    ledger: Ledger, owner: str, lease_seconds: float, limits: Limits = NO_LIMITS
) -> Job | None:
    """Lease the next job, or None when there is nothing to do now.

    After a crash the suspects (jobs that were running then) run first and one at a time: nothing
    else begins until what runs has ended and each of them has run alone.

    Args:
        ledger: The database.
        owner: Who runs it.
        lease_seconds: Time after which it is put back unless the lease is extended.
        limits: What may run at once.
    """
    if _next(time.time(), limits) is None:
        return None  # found without the writer's lock
    with ledger.transaction() as change:
        job = _next(change.now, limits)
        if job is None:
            return None
        for model in filter(None, (job.model, limits.beside.get(job.route))):
            MODELS.begin(change, model, 1)
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


def _next(now: float, limits: Limits) -> Job | None:
    waiting = (Job.state == "queued") & (Job.not_before <= now)
    models = [model for (model,) in Job.select(Job.model).where(waiting).distinct().tuples()]
    if not models:
        return None
    running = list(Job.select().where(_RUNNING))
    full = limits.jobs is not None and len(running) >= limits.jobs
    if full or any(job.crashes for job in running):
        return None
    free = [model for model in models if _may_run(model, now, running, limits)]
    held = [*limits.paused, *_held(now, running, limits)]
    waiting &= Job.model.in_(free) & Job.route.not_in(held)
    suspect: Job | None = Job.select().where(waiting & (Job.crashes > 0)).order_by(Job.id).first()
    if suspect is not None:
        return None if running else suspect
    for turn in _turns(now):
        job = _fairest(waiting & turn, running)
        if job is not None:
            return job
    return None


def _may_run(model: str, now: float, running: Sequence[Job], limits: Limits) -> bool:
    name = _name(model)
    limit = limits.models.get(name)
    if limit is not None and sum(_name(job.model) == name for job in running) >= limit:
        return False
    return _is_let_through(model, now, any(job.model == model for job in running))


def _held(now: float, running: Sequence[Job], limits: Limits) -> list[str]:
    """Routes whose jobs need a model beside their own that is left in peace."""
    busy = {limits.beside.get(job.route) for job in running}
    return [
        route
        for route, model in limits.beside.items()
        if not _is_let_through(model, now, model in busy)
    ]


def _is_let_through(model: str, now: float, busy: bool) -> bool:
    # Of one that failed again and again a single job is tried.
    return MODELS.is_closed(model) or (MODELS.lets_through(model, now) and not busy)


def _name(reference: str) -> str:
    return reference.partition("@")[0]


def _turns(now: float) -> list[Any]:
    """Conditions on jobs: whose turn it is, and whose if there is none of these."""
    live = Job.mode == "live"
    stat, routine = live & (Job.priority == "stat"), live & (Job.priority == "routine")
    aged = routine & (Job.queued_at <= now - AGING_SECONDS)
    last = Job.select(fn.MAX(Job.started_at)).where(routine).scalar() or 0.0
    since = Job.select().where(stat & (Job.started_at > last)).limit(STAT_IN_A_ROW).count()
    turns = [stat, routine, Job.mode == "shadow"]
    return [aged, *turns] if since >= STAT_IN_A_ROW else turns


def _fairest(waiting: Any, running: Sequence[Job]) -> Job | None:
    """The first job of the source that has the fewest running, and of these waited longest."""
    heads = Job.select(Job.source, fn.MIN(Job.id)).where(waiting).group_by(Job.source).tuples()
    busy = Counter(job.source for job in running)

    def turn(head: tuple[str, int]) -> tuple[int, float, int]:
        source, first = head
        served = Job.select(fn.MAX(Job.started_at)).where(Job.source == source).scalar()
        return busy[source], served or 0.0, first

    first = min(heads, key=turn, default=None)
    return None if first is None else Job.get_by_id(first[1])

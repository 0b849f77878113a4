"""Whose turn it is: priorities, sources, limits, and models that are left in peace."""

from __future__ import annotations

import json
import time

import pytest

from config.errors import StaleStateError
from storage import attempts, audit, dispatch, overview
from storage.breaker import MODELS, OPENS_AFTER
from storage.db import Ledger
from storage.dispatch import AGING_SECONDS, STAT_IN_A_ROW, Limits
from storage.jobs import Priority
from storage.records import Job, ModelBreaker, Series
from tests.storage_rows import a_series, enqueue

A, B = "alpha@1.0.0", "beta@1.0.0"


class Queue:
    """Queues jobs that do not supersede one another, and takes them out again."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.series: Series = a_series(ledger)
        self._names = iter(range(10**6))

    def add(
        self,
        count: int = 1,
        *,
        source: str = "CT1",
        priority: Priority = "routine",
        model: str = A,
        route: str = "route",
    ) -> list[int]:
        added = []
        for _ in range(count):
            name = f"s{next(self._names)}"
            given = {"source": source, "priority": priority, "model": model, "route": route}
            job = enqueue(self.ledger, self.series, subject=name, model_digest=name, **given)
            assert job is not None
            added.append(int(job.id))
        return added

    def take(self, limits: Limits = dispatch.NO_LIMITS) -> Job | None:
        return dispatch.claim(self.ledger, "w", 60, limits)

    def order(self, limits: Limits = dispatch.NO_LIMITS) -> list[int]:
        """The order in which jobs run one after the other."""
        taken = []
        while (job := self.take(limits)) is not None:
            taken.append(int(job.id))
            self.end(job)
        return taken

    def next(self) -> int:
        """The next job, run to its end."""
        job = self.take()
        assert job is not None
        self.end(job)
        return int(job.id)

    def end(self, job: Job) -> None:
        attempts.start_validating(self.ledger, job)
        attempts.finish(self.ledger, job, [], {}, {"run": 1.0})

    def fail(self, job: Job, *, retry: bool = False) -> None:
        attempts.fail(
            self.ledger, job, "no answer", max_attempts=3, retry=retry, jitter=0, blamed=job.model
        )

    def age(self, *numbers: int) -> None:
        """As if they had waited longer than a routine job is to wait."""
        with self.ledger.transaction():
            long_ago = time.time() - AGING_SECONDS - 1
            Job.update(queued_at=long_ago).where(Job.id.in_(numbers)).execute()


@pytest.fixture
def queue(ledger: Ledger) -> Queue:
    return Queue(ledger)


def test_stat_jobs_run_before_routine_ones(queue: Queue) -> None:
    routine = queue.add(3)
    stat = queue.add(2, priority="stat")
    assert queue.order() == [*stat, *routine]


def test_a_person_lets_a_job_run_first_and_takes_it_back(queue: Queue, ledger: Ledger) -> None:
    first, second, third = queue.add(3)
    attempts.prioritize(ledger, Job.get_by_id(third), "stat", "user:x")
    attempts.prioritize(ledger, Job.get_by_id(second), "stat", "user:x")
    attempts.prioritize(ledger, Job.get_by_id(second), "routine", "user:x")
    assert queue.order() == [third, first, second]
    said = [event for event in audit.events() if event["action"] == "job.prioritized"]
    assert [(event["actor"], json.loads(event["detail"])["to"]) for event in said] == [
        ("user:x", "stat"),
        ("user:x", "stat"),
        ("user:x", "routine"),
    ]


def test_only_a_job_that_waits_is_prioritized(queue: Queue, ledger: Ledger) -> None:
    queue.add()
    job = queue.take()
    assert job is not None
    with pytest.raises(StaleStateError, match="no longer queued"):
        attempts.prioritize(ledger, job, "stat", "user:x")
    assert Job.get().priority == "routine"


def test_a_routine_job_that_waited_long_has_a_turn_among_stat_ones(queue: Queue) -> None:
    old, fresh = queue.add(2)
    stat = queue.add(2 * STAT_IN_A_ROW, priority="stat")
    queue.age(old)
    turns = [*stat[:STAT_IN_A_ROW], old, *stat[STAT_IN_A_ROW:], fresh]
    assert queue.order() == turns


def test_however_many_routine_jobs_waited_long_a_stat_one_waits_for_one_at_most(
    queue: Queue,
) -> None:
    old = queue.add(5)
    queue.age(*old)
    before = queue.add(STAT_IN_A_ROW, priority="stat")
    assert [queue.next() for _ in before] == before
    assert queue.next() == old[0]
    late = queue.add(priority="stat")
    assert queue.order() == [*late, *old[1:]]


def test_sources_take_turns_and_each_is_first_in_first_out(queue: Queue) -> None:
    flood = queue.add(4, source="CT1")
    few = queue.add(2, source="MR1")
    assert queue.order() == [flood[0], few[0], flood[1], few[1], *flood[2:]]


def test_a_source_with_fewer_running_jobs_goes_first(queue: Queue) -> None:
    flood = queue.add(3, source="CT1")
    assert [job.id for job in (queue.take(), queue.take()) if job] == flood[:2]
    late = queue.add(source="MR1")
    job = queue.take()
    assert job is not None
    assert [job.id] == late


@pytest.mark.feature("P27")
def test_no_more_jobs_run_at_once_than_the_limit(queue: Queue) -> None:
    queue.add(3)
    two = Limits(jobs=2)
    running = [queue.take(two), queue.take(two)]
    assert all(running)
    assert queue.take(two) is None
    assert running[0] is not None
    queue.end(running[0])
    assert queue.take(two) is not None


@pytest.mark.feature("P27")
def test_a_model_at_its_limit_holds_up_no_other(queue: Queue) -> None:
    newer = queue.add(2, model="alpha@2.0.0")
    older = queue.add(model=A)
    other = queue.add(model=B)
    limits = Limits(models={"alpha": 1})
    first = queue.take(limits)
    assert first is not None
    assert first.id == newer[0]
    second = queue.take(limits)
    assert second is not None
    assert [second.id] == other
    assert queue.take(limits) is None
    queue.end(first)
    assert queue.order(limits) == [newer[1], *older]


def test_jobs_of_a_paused_route_wait_and_others_go_on(queue: Queue) -> None:
    paused = queue.add(route="lung")
    others = queue.add(2, route="bone")
    assert queue.order(Limits(paused=["lung"])) == others
    assert queue.order() == paused


def open_breaker(queue: Queue, model: str = A) -> None:
    queue.add(OPENS_AFTER, model=model)
    for _ in range(OPENS_AFTER):
        job = queue.take()
        assert job is not None
        queue.fail(job)


@pytest.mark.feature("P42")
def test_a_model_that_fails_job_after_job_is_left_in_peace(queue: Queue, ledger: Ledger) -> None:
    open_breaker(queue)
    waiting = queue.add(2)
    others = queue.add(2, model=B)
    assert queue.order() == others
    (shown,) = overview.models().values()
    assert (shown["state"], shown["failures"]) == ("open", OPENS_AFTER)
    assert shown["reason"] == "no answer"
    with ledger.transaction():
        MODELS.try_now(A)
    probe = queue.take()
    assert probe is not None
    assert queue.take() is None  # one is tried, and no more
    queue.end(probe)
    assert queue.order() == waiting[1:]
    assert overview.models()[A]["state"] == "closed"
    moves = [event["action"] for event in audit.events() if event["object"] == f"model_breaker:{A}"]
    assert moves == [f"model_breaker.{state}" for state in ("open", "half-open", "closed")]


@pytest.mark.feature("P42")
def test_a_probe_that_fails_opens_it_again_for_longer(queue: Queue, ledger: Ledger) -> None:
    open_breaker(queue)
    queue.add()
    waits = []
    for failures in (4, 5):
        with ledger.transaction():
            MODELS.try_now(A)
        probe = queue.take()
        assert probe is not None
        with ledger.transaction():
            Job.update(failures=0, not_before=0.0).execute()
        queue.fail(Job.get_by_id(probe.id), retry=True)
        row = ModelBreaker.get()
        assert (row.state, row.failures) == ("open", failures)
        waits.append(row.retry_at - time.time())
        with ledger.transaction():
            Job.update(not_before=0.0).execute()
        assert queue.take() is None
    assert waits[1] == pytest.approx(2 * waits[0], rel=0.05)


def test_a_probe_that_says_nothing_of_the_model_leaves_the_turn_to_the_next(
    queue: Queue, ledger: Ledger
) -> None:
    open_breaker(queue)
    queue.add(2)
    with ledger.transaction():
        MODELS.try_now(A)
    probe = queue.take()
    assert probe is not None
    attempts.fail(ledger, probe, "a gap", max_attempts=3, retry=False, jitter=0)
    assert ModelBreaker.get().state == "half-open"
    assert queue.take() is not None


def test_one_job_counts_once_however_often_it_fails(queue: Queue, ledger: Ledger) -> None:
    queue.add()
    for _ in range(2):
        job = queue.take()
        assert job is not None
        queue.fail(job, retry=True)
        attempts.try_all_now(ledger)
    assert overview.models()[A]["failures"] == 1


def test_a_crash_counts_where_the_job_ran_alone(queue: Queue, ledger: Ledger) -> None:
    queue.add(2)
    assert queue.take()
    assert queue.take()
    attempts.return_orphans(ledger, crashed=True)
    assert not overview.models()
    assert queue.take()
    attempts.return_orphans(ledger, crashed=True)
    assert overview.models()[A]["failures"] == 1


def test_a_suspect_of_a_model_that_is_left_in_peace_holds_up_no_other(
    queue: Queue, ledger: Ledger
) -> None:
    open_breaker(queue)
    (suspect,) = queue.add()
    with ledger.transaction():
        Job.update(crashes=1).where(Job.id == suspect).execute()
    others = queue.add(2, model=B)
    assert queue.order() == others


@pytest.mark.feature("P42")
def test_routes_that_need_a_model_which_is_left_in_peace_wait_for_it(
    queue: Queue, ledger: Ledger
) -> None:
    reads = Limits(beside={"lettered": B})
    queue.add(OPENS_AFTER, route="lettered")
    for _ in range(OPENS_AFTER):
        job = queue.take(reads)
        assert job is not None
        attempts.fail(ledger, job, "no text", max_attempts=1, retry=False, jitter=0, blamed=B)
    assert {name: row["state"] for name, row in overview.models().items()} == {B: "open"}
    waiting, others = queue.add(2, route="lettered"), queue.add(2, route="bone")
    assert queue.order(reads) == others
    with ledger.transaction():
        MODELS.try_now(B)
    probe = queue.take(reads)
    assert probe is not None
    assert overview.models()[B]["state"] == "half-open"
    assert queue.take(reads) is None  # one is tried, and no more
    attempts.start_validating(ledger, probe)
    attempts.finish(ledger, probe, [], {}, {"run": 1.0}, beside=B)
    assert overview.models()[B]["state"] == "closed"
    assert queue.order(reads) == waiting[1:]


def test_a_retry_by_hand_tries_the_model_at_once(queue: Queue, ledger: Ledger) -> None:
    open_breaker(queue)
    (failed, *_) = overview.matching_jobs(state="failed", model="alpha")
    attempts.retry(ledger, failed, "user:x")
    assert queue.order() == [failed.id]


def test_jobs_are_found_by_state_model_and_route(queue: Queue) -> None:
    (one,) = queue.add(model=A, route="lung")
    (two,) = queue.add(model="alpha@2.0.0", route="bone")
    (three,) = queue.add(model="alphabet@1.0.0", route="bone")

    def found(**wanted: str) -> list[int]:
        return [job.id for job in overview.matching_jobs(**wanted)]

    assert found(model="alpha") == [one, two]
    assert found(model=A) == [one]
    assert found(route="bone") == [two, three]
    assert found(state="failed") == []
    assert [row["id"] for row in overview.jobs(2, state="queued")] == [three, two]


@pytest.mark.feature("P29")
def test_every_stage_of_a_job_is_told(queue: Queue, ledger: Ledger) -> None:
    (number,) = queue.add()
    job = queue.take()
    assert job is not None
    queue.fail(job, retry=True)
    attempts.try_all_now(ledger)
    assert queue.order() == [number]
    own = [row for row in overview.stages(Job.get()) if row["object"] == f"job:{number}"]
    assert [(row["stage"], row["reason"]) for row in own] == [
        ("queued", None),
        ("running", None),
        ("queued", "no answer"),
        ("running", None),
        ("validating", None),
        ("ready", None),
    ]

"""The queue: each job once, fenced by its attempt, retried ever later, dead after three crashes."""

from __future__ import annotations

import threading
import time
from itertools import chain

import pytest

from config.errors import StaleStateError, StorageError
from storage import attempts, audit, audit_check, dispatch, jobs, overview
from storage.attempts import BACKOFF, MAX_CRASHES
from storage.db import Ledger
from storage.records import Delivery, Job, Result
from tests.storage_rows import (
    a_series,
    claim_jobs,
    enqueue,
    in_processes,
    new_result,
    ready_job,
    some_jobs,
)


def claimed(ledger: Ledger, owner: str = "w") -> Job:
    job = dispatch.claim(ledger, owner, 60)
    assert job is not None
    return job


def again(job: Job) -> Job:
    found: Job = Job.get_by_id(job.id)
    return found


def test_a_job_is_queued_once_for_the_same_analysis(ledger: Ledger) -> None:
    series = a_series(ledger)
    job = enqueue(ledger, series)
    assert job is not None
    assert (job.state, job.series_instance_uid, job.study_instance_uid) == ("queued", "2.1", "3.1")
    assert enqueue(ledger, series) is None
    assert [row.sop_instance_uid for row in jobs.inputs_of(job)["image"]] == ["2.1.0", "2.1.1"]
    assert Job.select().count() == 1


def test_inputs_come_back_however_many(ledger: Ledger) -> None:
    job = enqueue(ledger, a_series(ledger, images=1100))
    assert job is not None
    assert len(jobs.inputs_of(job)["image"]) == 1100


@pytest.mark.feature("P28")
def test_jobs_are_claimed_first_in_first_out(ledger: Ledger) -> None:
    queued = some_jobs(ledger, 4)
    assert [claimed(ledger).id for _ in queued] == [job.id for job in queued]
    assert dispatch.claim(ledger, "w", 60) is None


def test_a_claim_is_a_lease_with_a_raised_attempt(ledger: Ledger) -> None:
    some_jobs(ledger, 1)
    job = again(claimed(ledger, "me"))
    assert (job.state, job.attempt, job.owner) == ("running", 1, "me")
    assert job.started_at <= time.time() < job.lease_until <= time.time() + 60


@pytest.mark.feature("P27")
def test_threads_that_claim_at_once_get_each_job_once(ledger: Ledger) -> None:
    queued = some_jobs(ledger, 24)
    taken: list[int] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        while (job := dispatch.claim(ledger, threading.current_thread().name, 60)) is not None:
            taken.append(job.id)
        ledger.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [job.id for job in queued]


@pytest.mark.feature("P27")
def test_processes_that_claim_at_once_get_each_job_once(ledger: Ledger) -> None:
    queued = some_jobs(ledger, 40)
    answers = in_processes(claim_jobs, ledger.data_dir, 4)
    assert sorted(chain.from_iterable(answers)) == [job.id for job in queued]
    assert {job.attempt for job in Job.select()} == {1}
    assert audit_check.verify(ledger.data_dir).intact


def test_a_stale_attempt_may_write_nothing(ledger: Ledger) -> None:
    some_jobs(ledger, 1)
    old = claimed(ledger, "old")
    validating = again(old)
    attempts.start_validating(ledger, validating)
    assert attempts.return_orphans(ledger, crashed=False) == 1
    new = claimed(ledger, "new")
    assert new.id == old.id
    for attempt in (old, validating):
        with pytest.raises(StorageError):
            attempts.start_validating(ledger, attempt)
        with pytest.raises(StaleStateError):
            attempts.fail(ledger, attempt, "late", max_attempts=3, retry=True, jitter=0)
        with pytest.raises(StorageError):
            attempts.finish(ledger, attempt, [new_result("x")], {"pacs": ["sr"]}, {})
    assert not Result.select().exists()
    assert not Delivery.select().exists()
    assert (again(new).state, again(new).attempt, again(new).owner) == ("running", 2, "new")
    # Though it is in the same state, it is not the same attempt.
    attempts.start_validating(ledger, new)
    with pytest.raises(StaleStateError):
        attempts.finish(ledger, validating, [new_result("x")], {"pacs": ["sr"]}, {})
    attempts.finish(ledger, new, [new_result("x")], {"pacs": ["sr"]}, {})
    assert again(new).state == "ready"


def test_finishing_stores_results_and_deliveries_with_the_state(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    ready_job(ledger, job, kinds=["sr", "seg"], destinations=["pacs", "desk"])
    assert again(job).state == "ready"
    assert [row.kind for row in jobs.results_of(job)] == ["sr", "seg"]
    assert Delivery.select().count() == 4
    assert overview.shown_state(again(job)) == "delivering"
    Delivery.update(state="accepted").execute()
    assert overview.shown_state(again(job)) == "delivered"
    Delivery.update(state="refused").where(Delivery.destination == "desk").execute()
    assert overview.shown_state(again(job)) == "delivery failed"
    (shown,) = overview.jobs()
    assert (shown["series_instance_uid"], shown["state"]) == ("2.1", "delivery failed")
    assert len(overview.deliveries()) == 4


@pytest.mark.feature("P42")
def test_a_failing_job_comes_back_ever_later_and_then_stays_failed(ledger: Ledger) -> None:
    some_jobs(ledger, 1)
    delays = []
    for _ in range(11):
        job = claimed(ledger)
        before = time.time()
        attempts.fail(ledger, job, "no", max_attempts=12, retry=True, jitter=0.0)
        delays.append(again(job).not_before - before)
        assert dispatch.claim(ledger, "w", 60) is None
        Job.update(not_before=0.0).execute()
    wanted = [min(BACKOFF.longest, BACKOFF.first * 2**n) / 2 for n in range(11)]
    assert delays == pytest.approx(wanted, abs=0.5)
    job = claimed(ledger)
    attempts.fail(ledger, job, "no more", max_attempts=12, retry=True, jitter=0.0)
    row = again(job)
    assert (row.state, row.reason, row.failures, row.owner) == ("failed", "no more", 12, None)
    assert dispatch.claim(ledger, "w", 60) is None


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_jitter_spreads_a_delay_over_its_upper_half(ledger: Ledger, jitter: float) -> None:
    some_jobs(ledger, 1)
    job = claimed(ledger)
    before = time.time()
    attempts.fail(ledger, job, "no", max_attempts=3, retry=True, jitter=jitter)
    assert again(job).not_before - before == pytest.approx(1.0 + jitter, abs=0.5)


def test_what_another_attempt_cannot_help_fails_at_once(ledger: Ledger) -> None:
    some_jobs(ledger, 1)
    job = claimed(ledger)
    attempts.fail(ledger, job, "a gap", max_attempts=3, retry=False, jitter=0.0)
    assert (again(job).state, again(job).failures) == ("failed", 1)


@pytest.mark.feature("P43")
def test_a_failed_job_runs_again_when_told_to(ledger: Ledger) -> None:
    some_jobs(ledger, 1)
    job = claimed(ledger)
    attempts.fail(ledger, job, "no", max_attempts=1, retry=True, jitter=0.0)
    attempts.retry(ledger, job, "admin")
    row = again(job)
    assert (row.state, row.failures, row.crashes, row.not_before) == ("queued", 0, 0, 0.0)
    assert list(audit.events())[-1]["actor"] == "admin"
    assert claimed(ledger).attempt == 2


def test_three_crashes_make_a_dead_letter(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    for crash in range(1, MAX_CRASHES + 1):
        claimed(ledger)
        assert attempts.return_orphans(ledger, crashed=True) == 1
        assert again(job).crashes == crash
    row = again(job)
    assert row.state == "failed"
    assert row.reason == "dead letter: its process died 3 times"
    assert dispatch.claim(ledger, "w", 60) is None
    attempts.retry(ledger, row, "admin")
    assert claimed(ledger).crashes == 0


def test_a_stopped_node_costs_no_attempt_towards_the_dead_letter(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    for _ in range(5):
        claimed(ledger)
        assert attempts.return_orphans(ledger, crashed=False) == 1
    assert (again(job).state, again(job).crashes, again(job).failures) == ("queued", 0, 0)


def test_orphans_of_one_owner_leave_the_jobs_of_others(ledger: Ledger) -> None:
    some_jobs(ledger, 2)
    mine, other = claimed(ledger, "mine"), claimed(ledger, "other")
    assert attempts.return_orphans(ledger, crashed=True, owner="mine") == 1
    assert (again(mine).state, again(other).state) == ("queued", "running")


def test_suspects_run_alone_and_before_the_others(ledger: Ledger) -> None:
    first, second, third, fourth = some_jobs(ledger, 4)
    claimed(ledger, "dies")
    claimed(ledger, "dies")
    healthy = claimed(ledger, "lives")
    assert attempts.return_orphans(ledger, crashed=True, owner="dies") == 2
    # What runs is let to its end; nothing new starts, or suspects would wait for ever.
    assert dispatch.claim(ledger, "w", 60) is None
    assert healthy.id == third.id
    attempts.fail(ledger, healthy, "no", max_attempts=1, retry=False, jitter=0)
    for suspect in (first, second):
        running = claimed(ledger)
        assert running.id == suspect.id
        assert dispatch.claim(ledger, "w", 60) is None
        attempts.start_validating(ledger, running)
        assert dispatch.claim(ledger, "w", 60) is None
        attempts.finish(ledger, running, [], {}, {})
    assert claimed(ledger).id == fourth.id


def test_a_suspect_that_waits_for_its_next_attempt_holds_nobody_up(ledger: Ledger) -> None:
    suspect, other = some_jobs(ledger, 2)
    claimed(ledger)
    attempts.return_orphans(ledger, crashed=True)
    attempts.fail(ledger, claimed(ledger), "no", max_attempts=3, retry=True, jitter=0)
    assert again(suspect).state == "queued"
    assert claimed(ledger).id == other.id


def test_a_lease_that_runs_out_puts_the_job_back(ledger: Ledger) -> None:
    some_jobs(ledger, 2)
    slow, kept = claimed(ledger, "slow"), claimed(ledger, "kept")
    assert attempts.return_expired(ledger) == 0
    Job.update(lease_until=time.time() - 1).execute()
    attempts.extend_leases(ledger, "kept", 60)
    assert attempts.return_expired(ledger) == 1
    assert (again(slow).state, again(slow).crashes) == ("queued", 1)
    assert again(kept).state == "running"
    assert again(kept).lease_until > time.time() + 50


@pytest.mark.parametrize("state", ["queued", "running", "validating"])
def test_a_job_that_is_not_done_can_be_cancelled(ledger: Ledger, state: str) -> None:
    (job,) = some_jobs(ledger, 1)
    if state != "queued":
        job = claimed(ledger)
    if state == "validating":
        attempts.start_validating(ledger, job)
    attempts.cancel(ledger, again(job), "admin")
    assert again(job).state == "cancelled"
    if state != "queued":
        with pytest.raises(StaleStateError):
            attempts.fail(ledger, job, "no", max_attempts=3, retry=True, jitter=0)
    attempts.retry(ledger, again(job), "admin")
    assert again(job).state == "queued"


@pytest.mark.parametrize("state", ["ready", "failed", "superseded"])
def test_a_job_that_is_done_cannot_be_cancelled(ledger: Ledger, state: str) -> None:
    (job,) = some_jobs(ledger, 1)
    Job.update(state=state).execute()
    with pytest.raises(StorageError, match=f"from {state} to cancelled"):
        attempts.cancel(ledger, again(job), "admin")


@pytest.mark.parametrize("state", ["queued", "running", "validating", "failed", "cancelled"])
def test_newer_objects_supersede_what_was_not_done(ledger: Ledger, state: str) -> None:
    series = a_series(ledger)
    old = enqueue(ledger, series)
    assert old is not None
    Job.update(state=state).execute()
    new = enqueue(ledger, series, settings={"other": ["other"]})
    assert new is not None
    assert (again(old).state, new.state) == ("superseded", "queued")
    with pytest.raises(StorageError):
        attempts.fail(ledger, old, "late", max_attempts=3, retry=True, jitter=0)


def test_another_route_or_subject_supersedes_nothing(ledger: Ledger) -> None:
    series = a_series(ledger)
    first = enqueue(ledger, series)
    enqueue(ledger, series, route="other")
    enqueue(ledger, series, subject="1.1", settings={"other": ["one image"]})
    assert first is not None
    assert again(first).state == "queued"


def test_a_bundle_of_which_nothing_went_is_withdrawn_and_others_go_whole(ledger: Ledger) -> None:
    series = a_series(ledger)
    old = enqueue(ledger, series)
    assert old is not None
    ready_job(ledger, old, destinations=["untouched", "down", "begun", "tried", "sending"])
    first = Delivery.select().order_by(Delivery.id).where

    def one(destination: str) -> Delivery:
        row: Delivery = first(Delivery.destination == destination).first()
        return row

    for name, values in {
        "begun": {"state": "accepted", "attempt": 1},
        "down": {"attempt": 3},  # no association was ever accepted
        "tried": {"attempt": 1, "begun": True},  # perhaps it arrived, and only the answer was lost
        "sending": {"state": "sending", "attempt": 1},
    }.items():
        Delivery.update(**values).where(Delivery.id == one(name).id).execute()
    enqueue(ledger, series, settings={"other": ["newer"]})
    assert again(old).state == "superseded"
    states = {
        name: [row.state for row in first(Delivery.destination == name)]
        for name in ("untouched", "down", "begun", "tried", "sending")
    }
    assert states == {
        "untouched": ["withdrawn", "withdrawn"],
        "down": ["withdrawn", "withdrawn"],
        "begun": ["accepted", "waiting"],
        "tried": ["waiting", "waiting"],
        "sending": ["sending", "waiting"],
    }

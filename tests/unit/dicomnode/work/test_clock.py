"""What a clock that is set does not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.series.assembly import Complete, Evidence, completeness
from dicomnode.work.clock import ClockWatch, Silence
from storage import attempts, audit, dispatch, outbox, studies
from storage.db import Ledger, open_ledger
from storage.records import Delivery, Job, Study
from tests.storage_rows import a_series, ready_job, some_jobs

NOON = 1.7e9
HOUR = 3600.0


class Clocks:
    """A wall clock that may be set and a steady one."""

    def __init__(self) -> None:
        self.now, self.up = NOON, 1000.0

    def wall(self) -> float:
        return self.now

    def steady(self) -> float:
        return self.up

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.up += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("step", [-HOUR, 0.0, HOUR])
def test_a_series_is_complete_after_its_quiet_seconds_whatever_the_clock_does(
    clocks: Clocks, step: float
) -> None:
    silence = Silence(clocks.wall, clocks.steady)

    def verdict() -> bool:
        began = silence.began("2.1", NOON)
        evidence = Evidence(received=5, last_object=began, open_associations=0)
        return isinstance(completeness(evidence, clocks.wall(), 10, 900), Complete)

    assert not verdict()
    clocks.pass_(4)
    clocks.now += step
    assert not verdict()
    clocks.pass_(5)
    assert not verdict()
    clocks.pass_(1.5)
    assert verdict()


def test_a_moment_that_lies_ahead_counts_from_now(clocks: Clocks) -> None:
    silence = Silence(clocks.wall, clocks.steady)
    assert silence.began("2.1", NOON + HOUR) == NOON
    clocks.pass_(11)
    assert silence.began("2.1", NOON + HOUR) == pytest.approx(NOON)


def test_a_new_object_begins_a_new_silence(clocks: Clocks) -> None:
    silence = Silence(clocks.wall, clocks.steady)
    silence.began("2.1", NOON)
    clocks.pass_(8)
    assert silence.began("2.1", NOON + 8) == pytest.approx(NOON + 8)
    silence.keep([])
    assert silence.began("2.1", NOON) == pytest.approx(NOON)


@pytest.mark.parametrize(("step", "noticed"), [(-HOUR, HOUR), (-1.0, 0.0), (0.0, 0.0), (HOUR, 0.0)])
def test_only_a_step_back_is_noticed_and_once(clocks: Clocks, step: float, noticed: float) -> None:
    watch = ClockWatch(clocks.wall, clocks.steady)
    clocks.pass_(100)
    clocks.now += step
    assert watch.seconds_back() == pytest.approx(noticed)
    clocks.pass_(100)
    assert watch.seconds_back() == 0.0


@pytest.mark.feature("P42")
def test_what_waits_for_its_next_attempt_goes_on_after_a_step_back(
    ledger: Ledger, clocks: Clocks
) -> None:
    done, waiting = some_jobs(ledger, 2)
    ready_job(ledger, done, kinds=["sr"])
    far = {"not_before": NOON * 2}
    Job.update(**far).where(Job.id == waiting.id).execute()
    Delivery.update(**far).execute()
    assert dispatch.claim(ledger, "w", 60) is None
    assert outbox.destinations_due() == []
    watch = ClockWatch(clocks.wall, clocks.steady)
    watch.look(ledger)
    assert dispatch.claim(ledger, "w", 60) is None
    clocks.now -= HOUR
    watch.look(ledger)
    assert outbox.destinations_due() == ["pacs"]
    claimed = dispatch.claim(ledger, "w", 60)
    assert claimed is not None
    assert claimed.id == waiting.id
    (event,) = [event for event in audit.events() if event["action"] == "clock.set_back"]
    assert event["detail"] == '{"seconds":3600}'


def test_a_study_noted_before_the_clock_was_set_back_is_settled(ledger: Ledger) -> None:
    series = a_series(ledger)
    with ledger.transaction() as change:
        change.move(series, "complete")
        change.move(series, "skipped")
    Study.update(last_object_at=NOON * 2).execute()
    assert studies.settle(ledger, 60) == 1


def test_leases_of_a_time_ahead_end_with_their_process(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    assert dispatch.claim(ledger, "w", 60) is not None
    Job.update(lease_until=NOON * 2).execute()
    attempts.extend_leases(ledger, "w", 60)
    assert Job.get_by_id(job.id).lease_until < NOON * 2
    Job.update(lease_until=NOON * 2).execute()
    assert attempts.return_orphans(ledger, crashed=True) == 1

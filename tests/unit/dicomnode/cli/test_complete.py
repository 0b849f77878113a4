"""Series that are taken as they are, and those that no model answered, by commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from storage import attempts, audit, dispatch
from storage.db import Ledger, open_ledger
from storage.records import Job, Series
from tests.storage_rows import a_series, enqueue
from tests.unit.dicomnode.cli.conftest import Done, Run

At = Callable[..., Done]
NOON = datetime(2026, 3, 1, 12).timestamp()  # local, as a person types it


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path / "var")
    yield opened
    opened.close()


def claimed(ledger: Ledger) -> Job:
    job = dispatch.claim(ledger, "w", 60)
    assert job is not None
    return job


@pytest.fixture
def at(medai: Run, tmp_path: Path, ledger: Ledger) -> At:
    """`complete` on a data folder with five series, an hour between them, at noon the third.

    The first and the third are skipped, the fourth failed, the others are answered or wait for it.
    """
    path = tmp_path / "medai_node.toml"
    path.write_text("")
    rows = [a_series(ledger, f"2.{number}") for number in range(5)]
    with ledger.transaction() as change:
        for number, row in enumerate(rows):
            change.move(row, "complete")
            change.move(row, "skipped" if number in (0, 2) else "routed")
            moment = NOON + 3600 * (number - 2)
            Series.update(last_object_at=moment).where(Series.series_instance_uid == row).execute()
    for number in (3, 1, 4):
        assert enqueue(ledger, rows[number], subject=f"s{number}", model_digest=f"s{number}")
    attempts.fail(ledger, claimed(ledger), "no answer", max_attempts=1, retry=False, jitter=0)
    claimed(ledger)
    assert [job.state for job in Job.select().order_by(Job.id)] == ["failed", "running", "queued"]
    return lambda *arguments: medai("complete", *arguments, "--config", path)


def reopened() -> list[str]:
    query = Series.select().where(Series.state == "reopened").order_by(Series.series_instance_uid)
    return [row.series_instance_uid for row in query]


@pytest.mark.feature("P43")
def test_all_that_no_model_answered_are_counted_and_then_asked_for_again(at: At) -> None:
    counted = at("--skipped")
    assert counted.out == "3 series have no answer of a model; --yes lets them be judged again.\n"
    assert reopened() == []
    done = at("--skipped", "--yes")
    assert done.out == "3 series have no answer of a model and will be judged and routed again.\n"
    assert reopened() == ["2.0", "2.2", "2.3"]
    asked = [event for event in audit.events() if event["action"] == "series.asked_again"]
    assert len(asked) == 3
    assert all(event["actor"].startswith("user:") for event in asked)
    assert at("--skipped", "--yes").out.startswith("0 series have")


@pytest.mark.parametrize(
    ("since", "found"),
    [
        ("2026-03-01", ["2.0", "2.2", "2.3"]),
        ("2026-03-01T12:00", ["2.2", "2.3"]),
        ("2026-03-01T12:00:01", ["2.3"]),
        ("2026-03-02", []),
    ],
)
def test_only_those_since_a_moment_of_local_time(at: At, since: str, found: list[str]) -> None:
    at("--skipped", "--since", since, "--yes")
    assert reopened() == found


@pytest.mark.parametrize(
    "wrong", [(), ("2.0", "--skipped"), ("2.0", "--yes"), ("2.0", "--since", "2026-03-01")]
)
def test_one_series_or_all_and_nothing_between(at: At, wrong: tuple[str, ...]) -> None:
    done = at(*wrong)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert reopened() == []

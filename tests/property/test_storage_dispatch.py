"""Whatever comes in whatever order: each source's jobs of one priority start as they came."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import attempts, dispatch
from storage.db import Ledger, open_ledger
from storage.dispatch import Limits
from storage.jobs import Priority
from storage.records import Job, Series
from tests.storage_rows import a_series, enqueue

COMERS = st.lists(
    st.tuples(st.sampled_from(("CT1", "MR1", "US1")), st.sampled_from(("stat", "routine"))),
    min_size=1,
    max_size=6,
)


_names = itertools.count()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all examples: each leaves its jobs done, and turns of sources that were had."""
    opened = open_ledger(tmp_path_factory.mktemp("dispatch"))
    opened.database.execute_sql("PRAGMA synchronous = OFF")  # nothing here outlives the test
    a_series(opened)
    yield opened
    opened.close()


@pytest.mark.feature("P27", "P28")
@settings(max_examples=100, deadline=None)
@given(comers=COMERS, at_once=st.integers(1, 3))
def test_jobs_of_one_source_and_priority_start_first_in_first_out(
    ledger: Ledger, comers: list[tuple[str, Priority]], at_once: int
) -> None:
    for source, priority in comers:
        name = f"s{next(_names)}"
        given = {"subject": name, "model_digest": name, "source": source, "priority": priority}
        assert enqueue(ledger, Series.get(), **given) is not None
    started: list[Job] = []
    running: list[Job] = []
    limits = Limits(jobs=at_once)
    while len(started) < len(comers) or running:
        while (job := dispatch.claim(ledger, "w", 60, limits)) is not None:
            started.append(job)
            running.append(job)
        assert len(running) <= at_once
        first = running.pop(0)
        attempts.start_validating(ledger, first)
        attempts.finish(ledger, first, [], {}, {"run": 1.0})
    priorities = [job.priority for job in started]
    assert priorities == sorted(priorities, reverse=True)
    kinds = sorted(started, key=lambda job: (job.source, job.priority))
    for _, group in itertools.groupby(kinds, key=lambda job: (job.source, job.priority)):
        numbers = [job.id for job in group]
        assert numbers == sorted(numbers)

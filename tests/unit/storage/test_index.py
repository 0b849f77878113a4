"""What was received: rows, coverage in the audit chain, late objects, quiet studies."""

from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import chain

import pytest

from storage import audit, audit_check, index, overview, studies
from storage.db import Ledger
from storage.index import Kept, members_digest
from storage.records import Association, Instance
from storage.series import (
    calling_ae_of,
    current_instances,
    open_associations_of,
    open_series,
    unindexed,
)
from tests.storage_rows import (
    arrival,
    associate,
    digest_of,
    in_processes,
    record_all,
)


def test_an_object_is_new_then_the_same_then_a_revision(ledger: Ledger) -> None:
    association = associate(ledger)
    kept = index.record_arrivals(
        ledger,
        [
            arrival(association, "1.1", content="a"),
            arrival(association, "1.1", content="a"),
            arrival(association, "1.1", content="b"),
            arrival(association, "1.2", content="c"),
        ],
    )
    assert kept == [Kept.NEW, Kept.SAME, Kept.REVISION, Kept.NEW]
    assert index.record_arrivals(ledger, [arrival(association, "1.1", content="b")]) == [Kept.SAME]
    rows = Instance.select(Instance.sop_instance_uid, Instance.revision).tuples()
    assert sorted(rows) == [("1.1", 0), ("1.1", 1), ("1.2", 0)]
    assert index.record_arrivals(ledger, []) == []


def test_a_batch_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    association = associate(ledger)
    first = arrival(association, "1.1", key="one")
    twice = arrival(association, "1.2", key="one")
    with pytest.raises(Exception, match="object_key"):
        index.record_arrivals(ledger, [first, twice])
    assert not Instance.select().exists()


@pytest.mark.feature("P04")
def test_four_threads_with_the_same_instance_give_one_row(ledger: Ledger) -> None:
    association = associate(ledger)
    start = threading.Barrier(4)
    kept: list[Kept] = []

    def send(number: int) -> None:
        start.wait()
        for _ in range(10):
            same = arrival(association, "1.1", key=f"{number}-{len(kept)}")
            kept.extend(index.record_arrivals(ledger, [same]))
        ledger.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.value for answer in kept) == ["new"] + ["same"] * 39
    assert Instance.select().count() == 1


@pytest.mark.feature("P04")
def test_processes_with_the_same_instances_give_one_row_each(ledger: Ledger) -> None:
    answers = in_processes(record_all, ledger.data_dir, 4, 25)
    assert sorted(chain.from_iterable(answers)) == ["new"] * 25 + ["same"] * 75
    assert Instance.select().count() == 25
    assert not Instance.select().where(Instance.covered_by.is_null()).exists()
    assert audit_check.verify(ledger.data_dir).intact


@pytest.mark.feature("P26")
def test_the_end_of_an_association_covers_what_it_brought(ledger: Ledger) -> None:
    association, other = associate(ledger), associate(ledger)
    arrivals = [arrival(association, f"1.{n}", series=f"2.{n % 2}") for n in range(5)]
    index.record_arrivals(ledger, arrivals)
    index.record_arrivals(ledger, [arrival(other, "1.9", series="2.0")])
    index.close_association(ledger, association, "aborted")
    events = list(audit.events())
    assert [(event["action"], event["object"]) for event in events] == [
        ("instances.received", "series:2.0"),
        ("instances.received", "series:2.1"),
    ]
    assert json.loads(events[0]["detail"]) == {
        "association": association,
        "ended": "aborted",
        "count": 3,
        "digest": members_digest([(f"1.{n}", digest_of(f"1.{n}")) for n in (4, 0, 2)]),
    }
    covered = dict(Instance.select(Instance.sop_instance_uid, Instance.covered_by).tuples())
    assert covered == {"1.0": 1, "1.1": 2, "1.2": 1, "1.3": 2, "1.4": 1, "1.9": None}
    assert Association.get_by_id(association).outcome == "aborted"
    closed_at = Association.get_by_id(association).closed_at
    index.close_association(ledger, association, "released")
    again = Association.get_by_id(association)
    assert (again.outcome, again.closed_at) == ("aborted", closed_at)
    assert len(list(audit.events())) == 2


def test_a_digest_of_members_needs_no_order_and_takes_any_text() -> None:
    assert members_digest([("1", "a"), ("2", "b")]) == members_digest([("2", "b"), ("1", "a")])
    assert members_digest([("1", "a")]) != members_digest([("1", "b")])
    assert len(members_digest([("1.é", "a")])) == 64


def test_start_up_closes_and_covers_what_a_crash_left(ledger: Ledger) -> None:
    mine, lost, late = associate(ledger, "r1"), associate(ledger, "r2"), associate(ledger, "r2")
    for number, association in enumerate((mine, lost)):
        index.record_arrivals(ledger, [arrival(association, f"1.{number}")])
    index.close_association(ledger, late, "released")
    index.record_arrivals(ledger, [arrival(late, "1.5")])  # came just after the end was noted
    assert index.close_lost_associations(ledger, "r2") == 1
    outcomes = [Association.get_by_id(row).outcome for row in (mine, lost, late)]
    assert outcomes == [None, "lost", "released"]
    uncovered = Instance.select(Instance.association).where(Instance.covered_by.is_null()).tuples()
    assert list(uncovered) == [(mine,)]
    assert overview.open_associations() == 1
    assert index.close_lost_associations(ledger) == 1
    assert not Instance.select().where(Instance.covered_by.is_null()).exists()
    ended = [json.loads(event["detail"])["ended"] for event in audit.events()]
    assert ended == ["lost", "released", "lost"]
    assert index.close_lost_associations(ledger) == 0


def test_known_keys_finds_instances_and_results_among_many(ledger: Ledger) -> None:
    association = associate(ledger)
    index.record_arrivals(
        ledger, [arrival(association, f"1.{n}", key=f"k{n}") for n in range(0, 1200, 2)]
    )
    assert index.known_keys([f"k{n}" for n in range(1200)]) == {f"k{n}" for n in range(0, 1200, 2)}
    assert index.known_keys([]) == set()


QUERIES = {
    "open_associations_of": lambda: open_associations_of("2.1"),
    "calling_ae_of": lambda: calling_ae_of("2.1"),
    "unindexed": unindexed,
    "current_instances": lambda: current_instances("2.1"),
    "open_series": open_series,
    "known_keys": lambda: index.known_keys(["a", "b"]),
    "open_associations": overview.open_associations,
}


@pytest.mark.parametrize("name", QUERIES)
def test_what_runs_all_the_time_reads_no_whole_table(
    ledger: Ledger, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_no_scan(ledger, QUERIES[name], monkeypatch)


def test_counts_by_state_are_right_and_read_no_row(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = associate(ledger)
    arrivals = [arrival(association, f"1.{number}", content=str(number)) for number in range(7)]
    index.record_arrivals(ledger, arrivals)
    states = ["stored", "stored", "indexed", "indexed", "indexed", "quarantined", "superseded"]
    for row, state in zip(Instance.select(), states, strict=True):
        Instance.update(state=state).where(Instance.id == row.id).execute()
    assert overview.counts_by_state()["instance"] == Counter(states)
    plans = plans_of(ledger, overview.counts_by_state, monkeypatch)
    for plan in (plan for plan in plans if "SCAN instance" in plan):
        assert "USING COVERING INDEX" in plan
        assert "instance_series_instance_uid_state" not in plan


def test_settling_reads_no_whole_table(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_no_scan(ledger, lambda: studies.settle(ledger, 0), monkeypatch)


def assert_no_scan(ledger: Ledger, ask: object, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = ("instance_stored", "instance_uncovered", "association_open")
    for plan in plans_of(ledger, ask, monkeypatch):
        assert not plan.startswith("SCAN") or plan.endswith(partial) or "CONSTANT" in plan, plan


def plans_of(ledger: Ledger, ask: object, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How SQLite goes about what is asked."""
    plans: list[str] = []
    run = ledger.database.execute_sql

    def explained(sql: str, params: object = None) -> object:
        if sql.startswith("SELECT"):
            plans.extend(row[3] for row in run("EXPLAIN QUERY PLAN " + sql, params).fetchall())
        return run(sql, params)

    monkeypatch.setattr(ledger.database, "execute_sql", explained)
    assert callable(ask)
    ask()
    assert plans
    return plans

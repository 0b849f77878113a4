"""The outbox: in order to each destination, put back ever later, none lost and none twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain

import pytest

from config.errors import StaleStateError, StorageError
from storage import audit, outbox, overview
from storage.db import Ledger
from storage.jobs import results_of
from storage.outbox import Patience
from storage.records import Delivery, Destination
from tests.storage_rows import (
    claim_deliveries,
    in_processes,
    new_result,
    ready_job,
    some_jobs,
)

KINDS = ["a", "b", "c", "d", "e"]
MINUTE = Patience(60, 600)


@pytest.fixture
def waiting(ledger: Ledger) -> list[Delivery]:
    (job,) = some_jobs(ledger, 1)
    return ready_job(ledger, job, kinds=KINDS, destinations=["pacs", "desk"])


def to(name: str) -> list[Delivery]:
    return list(Delivery.select().where(Delivery.destination == name).order_by(Delivery.id))


def ids(rows: Sequence[Delivery]) -> list[int]:
    return [row.id for row in rows]


@pytest.mark.feature("P36")
def test_each_destination_gets_its_objects_in_order(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    assert outbox.destinations_due() == ["desk", "pacs"]
    wanted = ids(to("pacs"))
    assert ids(outbox.claim(ledger, "pacs", 2)) == wanted[:2]
    assert ids(outbox.claim(ledger, "pacs", 9)) == wanted[2:]
    assert outbox.claim(ledger, "pacs", 9) == []
    assert [row.result.kind for row in outbox.claim(ledger, "desk", 9)] == KINDS


@pytest.mark.feature("P36")
def test_what_was_put_back_goes_before_what_follows_it(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    rows = outbox.claim(ledger, "pacs", 2)
    outbox.accepted(ledger, rows[0], 0)
    outbox.put_back(ledger, rows[1:], "offline", MINUTE, jitter=0)
    assert outbox.claim(ledger, "pacs", 9) == []
    assert len(outbox.claim(ledger, "desk", 9)) == 5
    Delivery.update(not_before=0.0).execute()
    assert ids(outbox.claim(ledger, "pacs", 9)) == ids(to("pacs"))[1:]


@pytest.mark.feature("P42")
def test_an_object_that_the_destination_fails_does_not_hold_up_the_others(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    first, *others = outbox.claim(ledger, "pacs", 2)
    outbox.put_back(ledger, [first], "0x0110", MINUTE, jitter=0, status=0x0110)
    outbox.put_back(ledger, others, "offline", Patience(0, 0), jitter=0)
    assert ids(outbox.claim(ledger, "pacs", 9)) == ids(to("pacs"))[1:]
    Delivery.update(not_before=0.0).execute()
    assert ids(outbox.claim(ledger, "pacs", 9)) == [first.id]


@pytest.mark.feature("P42")
def test_a_destination_is_due_while_something_is_left_under_way(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    for row in outbox.claim(ledger, "pacs", 9)[1:]:
        outbox.accepted(ledger, row, 0)
    assert outbox.destinations_due() == ["desk", "pacs"]
    assert outbox.return_orphans(ledger, "pacs") == 1
    outbox.accepted(ledger, *outbox.claim(ledger, "pacs", 9), 0)
    assert outbox.destinations_due() == ["desk"]


@pytest.mark.feature("P42")
@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_delays_grow_to_the_longest(ledger: Ledger, waiting: list[Delivery], jitter: float) -> None:
    delays = []
    for _ in range(8):
        rows = outbox.claim(ledger, "pacs", 1)
        before = time.time()
        outbox.put_back(ledger, rows, "offline", Patience(5, 100), jitter=jitter)
        delays.append(to("pacs")[0].not_before - before)
        Delivery.update(not_before=0.0).execute()
    wanted = [min(100, 5 * 2**n) * (0.5 + jitter / 2) for n in range(8)]
    assert delays == pytest.approx(wanted, abs=0.5)
    Delivery.update(attempt=5000).execute()
    rows = outbox.claim(ledger, "pacs", 1)
    outbox.put_back(ledger, rows, "offline", Patience(5, 100), jitter=0)
    assert to("pacs")[0].not_before < time.time() + 51


@pytest.mark.feature("P36")
def test_processes_that_claim_at_once_get_each_delivery_once(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    answers = in_processes(claim_deliveries, ledger.data_dir, 3)
    assert sorted(chain.from_iterable(answers)) == ids(to("pacs"))
    for answer in answers:
        assert answer == sorted(answer)


def test_accepted_and_refused_end_a_delivery_with_their_status(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    one, two, *_ = outbox.claim(ledger, "pacs", 9)
    outbox.accepted(ledger, one, 0x0111)
    outbox.refused(ledger, two, "0x0122: SOP class not supported", 0x0122)
    found = to("pacs")
    assert (found[0].state, found[0].status) == ("accepted", 0x0111)
    assert (found[1].state, found[1].status) == ("refused", 0x0122)
    assert found[0].finished_at is not None
    assert found[1].reason == "0x0122: SOP class not supported"
    events = list(audit.events())[-2:]
    assert [(event["action"], event["outcome"]) for event in events] == [
        ("delivery.accepted", "success"),
        ("delivery.refused", "failure"),
    ]
    with pytest.raises(StorageError):
        outbox.accepted(ledger, one, 0)
    outbox.retry(ledger, two, "admin")
    assert to("pacs")[1].state == "waiting"
    assert ids(outbox.claim(ledger, "pacs", 9)) == [two.id]


def test_orphans_go_out_again_in_their_order_and_the_old_attempt_is_stale(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    old = outbox.claim(ledger, "pacs", 3)
    others = outbox.claim(ledger, "desk", 1)
    assert outbox.return_orphans(ledger, "pacs") == 3
    assert to("desk")[0].state == "sending"
    new = outbox.claim(ledger, "pacs", 9)
    assert ids(new) == ids(to("pacs"))
    assert [row.attempt for row in new] == [2, 2, 2, 1, 1]
    with pytest.raises(StaleStateError):
        outbox.accepted(ledger, old[0], 0)
    with pytest.raises(StaleStateError):
        outbox.put_back(ledger, old, "late", Patience(1, 1), jitter=0)
    assert {row.state for row in to("pacs")} == {"sending"}
    outbox.accepted(ledger, others[0], 0)
    assert outbox.return_orphans(ledger) == 5
    assert outbox.return_orphans(ledger) == 0


@pytest.mark.feature("P36")
def test_a_result_goes_to_a_destination_once(ledger: Ledger, waiting: list[Delivery]) -> None:
    with pytest.raises(StorageError, match="UNIQUE"), ledger.transaction() as change:
        outbox.add_deliveries(change, [waiting[0].result], {"pacs": KINDS})
    with pytest.raises(StorageError, match="UNIQUE"), ledger.transaction() as change:
        outbox.add_results(change, waiting[0].result.job, [new_result("x"), new_result("x")])
    assert Delivery.select().count() == 10


def test_a_destination_gets_only_the_kinds_it_wants(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    rows = ready_job(ledger, job, kinds=["sr", "seg"], destinations=[])
    assert rows == []
    with ledger.transaction() as change:
        outbox.add_deliveries(change, results_of(job), {"pacs": ["seg"], "desk": []})
    assert [(row.destination, row.result.kind) for row in Delivery.select()] == [("pacs", "seg")]
    assert outbox.destinations_due() == ["pacs"]


def fail(ledger: Ledger, patience: Patience = MINUTE) -> list[Delivery]:
    rows = outbox.claim(ledger, "pacs", 9)
    outbox.destination_failed(ledger, "pacs", rows, "offline", patience, jitter=0)
    return rows


def in_an_hour(ledger: Ledger) -> None:
    with ledger.transaction():
        Delivery.update(not_before=0.0).execute()
        Destination.update(retry_at=0.0).execute()


@pytest.mark.feature("P42")
def test_a_destination_that_fails_is_left_in_peace_then_tried_with_one_object(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    assert len(fail(ledger)) == 5
    in_an_hour(ledger)
    assert len(fail(ledger)) == 5
    assert overview.destinations()["pacs"]["state"] == "closed"
    in_an_hour(ledger)
    assert len(fail(ledger)) == 5
    assert overview.destinations()["pacs"]["state"] == "open"
    with ledger.transaction():
        Delivery.update(not_before=0.0).execute()
    assert outbox.claim(ledger, "pacs", 9) == []
    assert outbox.destinations_due() == ["desk"]
    in_an_hour(ledger)
    assert outbox.destinations_due() == ["desk", "pacs"]
    (probe,) = fail(ledger)
    assert overview.destinations()["pacs"]["state"] == "open"
    in_an_hour(ledger)
    (again,) = outbox.claim(ledger, "pacs", 9)
    assert (again.id, overview.destinations()["pacs"]["state"]) == (probe.id, "half-open")
    outbox.accepted(ledger, again, 0)
    outbox.destination_answered(ledger, "pacs")
    assert overview.destinations()["pacs"]["state"] == "closed"
    assert ids(outbox.claim(ledger, "pacs", 9)) == ids(to("pacs"))[1:]
    actions = [event["action"] for event in audit.events() if "destination." in event["action"]]
    assert actions == [
        "destination.open",
        "destination.half-open",
        "destination.open",
        "destination.half-open",
        "destination.closed",
    ]


@pytest.mark.feature("P42")
@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_the_peace_of_a_destination_grows_to_the_longest(
    ledger: Ledger, waiting: list[Delivery], jitter: float
) -> None:
    delays = []
    for _ in range(8):
        rows = outbox.claim(ledger, "pacs", 9)
        before = time.time()
        outbox.destination_failed(ledger, "pacs", rows, "offline", Patience(5, 100), jitter=jitter)
        delays.append(overview.destinations()["pacs"]["retry_at"] - before)
        in_an_hour(ledger)
    assert delays == pytest.approx(
        [min(100, 5 * 2**n) * (0.5 + jitter / 2) for n in range(8)], abs=0.5
    )


@pytest.mark.feature("P42")
def test_what_waited_too_long_is_given_up_and_goes_out_after_a_retry_by_hand(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    patience = Patience(60, 600, give_up_days=2)
    first = to("pacs")[0]
    Delivery.update(since=time.time() - 2 * 86400).where(Delivery.id == first.id).execute()
    fail(ledger, patience)
    assert [row.state for row in to("pacs")] == ["dead"] + ["waiting"] * 4
    (reason,) = {row.reason for row in to("pacs") if row.state == "dead"}
    assert reason == "given up after 1 attempts: offline"
    outbox.retry(ledger, to("pacs")[0], "admin")
    in_an_hour(ledger)
    assert fail(ledger, patience)[0].id == first.id
    assert to("pacs")[0].state == "waiting"


@pytest.mark.feature("P42")
def test_what_the_destination_failed_too_often_is_given_up(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    patience = Patience(0, 0, give_up_failures=2)
    for _ in range(2):
        (row,) = outbox.claim(ledger, "pacs", 1)
        outbox.put_back(ledger, [row], "0x0110", patience, status=0x0110, jitter=0)
    found = to("pacs")[0]
    assert (found.state, found.status, found.attempt) == ("dead", 0x0110, 2)


def test_a_retry_by_hand_tries_an_open_destination_at_once(
    ledger: Ledger, waiting: list[Delivery]
) -> None:
    outbox.refused(ledger, outbox.claim(ledger, "pacs", 1)[0], "no", 0x0122)
    for _ in range(3):
        fail(ledger)
        with ledger.transaction():
            Delivery.update(not_before=0.0).execute()
    assert outbox.claim(ledger, "pacs", 9) == []
    outbox.retry(ledger, to("pacs")[0], "admin")
    assert ids(outbox.claim(ledger, "pacs", 9)) == [to("pacs")[0].id]

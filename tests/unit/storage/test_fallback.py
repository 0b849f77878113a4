"""Another form of a result goes out where its own is not taken, once and only while it is sent."""

from __future__ import annotations

import json

import pytest

from config.errors import StaleStateError
from storage import audit, fallback, outbox, overview
from storage.db import Ledger
from storage.jobs import results_of
from storage.records import Delivery
from tests.storage_rows import new_result, ready_job, some_jobs


def kinds() -> list[str]:
    """Of the deliveries, in their order."""
    return [row.result.kind for row in Delivery.select().order_by(Delivery.id)]


def test_another_form_goes_out_in_place_of_what_is_not_taken(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    (row,) = ready_job(ledger, job, kinds=["sr"])
    with ledger.transaction() as change:
        simpler, simplest = outbox.add_results(
            change, job, [new_result("b", "sr-basic"), new_result("c", "sr-comprehensive")]
        )
    chain = ("sr", "sr-comprehensive", "sr-basic")
    (row,) = outbox.claim(ledger, "pacs", 9)
    assert fallback.stand_ins(row, chain) == [simplest, simpler]
    assert fallback.stand_ins(row, ("pdf",)) == []
    assert fallback.send_instead(ledger, row, simplest, "not accepted")
    outbox.accepted(ledger, row, 0)
    (told,) = overview.deliveries()
    assert (told["wanted"], told["kind"]) == ("sr", "sr-comprehensive")
    assert told["fell_back"] == "sr: not accepted"
    (event,) = [each for each in audit.events() if each["action"] == "delivery.fell_back"]
    detail = json.loads(event["detail"])
    assert (detail["from"], detail["to"]) == ("sr", "sr-comprehensive")
    assert (detail["destination"], detail["reason"]) == ("pacs", "not accepted")


def test_no_result_is_sent_twice_because_another_fell_back_to_it(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    ready_job(ledger, job, kinds=["labelmap", "seg"])
    labelmap, seg = outbox.claim(ledger, "pacs", 9)
    assert not fallback.send_instead(ledger, labelmap, seg.result, "not accepted")
    assert kinds() == ["labelmap", "seg"]


def test_a_fall_back_of_an_attempt_that_is_over_changes_nothing(ledger: Ledger) -> None:
    (job,) = some_jobs(ledger, 1)
    ready_job(ledger, job, kinds=["sr", "sr-basic"], destinations=[])
    with ledger.transaction() as change:
        outbox.add_deliveries(change, results_of(job), {"pacs": ["sr"]})
    (old,) = outbox.claim(ledger, "pacs", 9)
    outbox.return_orphans(ledger)
    outbox.claim(ledger, "pacs", 9)
    with pytest.raises(StaleStateError):
        fallback.send_instead(ledger, old, results_of(job)[1], "late")
    assert kinds() == ["sr"]


def test_what_a_destination_took_is_remembered_until_it_says_otherwise(ledger: Ledger) -> None:
    assert fallback.accepted_kinds("pacs") == frozenset()
    fallback.note_kinds(ledger, "pacs", {"sr": True, "seg": False})
    fallback.note_kinds(ledger, "desk", {"pdf": True})
    assert fallback.accepted_kinds("pacs") == {"sr"}
    fallback.note_kinds(ledger, "pacs", {"sr": False, "seg": True})
    assert fallback.accepted_kinds("pacs") == {"seg"}

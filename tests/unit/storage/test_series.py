"""Series and studies of what was received: late objects, open associations, quiet studies."""

from __future__ import annotations

import time

import pytest

from storage import audit, index, studies
from storage.db import Ledger
from storage.records import Instance, Series, Study
from storage.series import (
    Indexed,
    calling_ae_of,
    current_instances,
    index_instances,
    open_associations_of,
    open_series,
    unindexed,
)
from tests.storage_rows import a_series, arrival, associate, index_all


def test_indexing_makes_series_and_studies_with_their_last_objects(ledger: Ledger) -> None:
    association = associate(ledger)
    for number in range(3):
        index.record_arrivals(ledger, [arrival(association, f"1.{number}")])
    index.record_arrivals(ledger, [arrival(association, "1.9", series="2.9")])
    rows = unindexed()
    assert [row.sop_instance_uid for row in rows] == ["1.0", "1.1", "1.2", "1.9"]
    assert {series.get_id() for series in index_all(ledger)} == {"2.1", "2.9"}
    assert unindexed() == []
    series = Series.get_by_id("2.1")
    assert (series.instances, series.state, series.study_instance_uid) == (3, "receiving", "3.1")
    assert (series.first_object_at, series.last_object_at) == (
        rows[0].received_at,
        rows[2].received_at,
    )
    assert Study.get_by_id("3.1").last_object_at == rows[3].received_at
    assert [row.sop_instance_uid for row in current_instances("2.1")] == ["1.0", "1.1", "1.2"]
    assert [series.get_id() for series in open_series()] == ["2.1", "2.9"]


def test_indexing_the_same_rows_twice_counts_them_once(ledger: Ledger) -> None:
    association = associate(ledger)
    index.record_arrivals(ledger, [arrival(association, "1.1")])
    read = [Indexed(instance=row, modality="CT", single_image=False) for row in unindexed()]
    for _ in range(2):
        with ledger.transaction() as change:
            index_instances(change, read)
    assert Series.get_by_id("2.1").instances == 1


def test_the_last_object_of_a_batch_counts_for_its_study(ledger: Ledger) -> None:
    association = associate(ledger)
    index.record_arrivals(ledger, [arrival(association, "1.1"), arrival(association, "1.2")])
    Instance.update(received_at=100.0).where(Instance.sop_instance_uid == "1.1").execute()
    Instance.update(received_at=900.0).where(Instance.sop_instance_uid == "1.2").execute()
    index_all(ledger)
    assert Study.get().last_object_at == Series.get().last_object_at == 900.0
    assert Series.get().first_object_at == 100.0


@pytest.mark.parametrize("answered", ["complete", "routed", "skipped"])
def test_a_late_object_reopens_its_series_and_study(ledger: Ledger, answered: str) -> None:
    series = a_series(ledger)
    with ledger.transaction() as change:
        change.move(series, "complete", reason="quiet", forced=True)
        if answered != "complete":
            change.move(series, answered)
    assert studies.settle(ledger, 0) == (0 if answered == "complete" else 1)
    association = associate(ledger)
    index.record_arrivals(ledger, [arrival(association, "1.late")])
    (touched,) = index_all(ledger)
    assert touched.state == "reopened"
    row = Series.get()
    assert (row.state, row.reason, row.forced, row.instances) == (
        "reopened",
        "a late object came",
        False,
        3,
    )
    assert Study.get().state == ("open" if answered == "complete" else "reopened")
    actions = [event["action"] for event in audit.events()]
    assert "series.reopened" in actions
    assert ("study.reopened" in actions) == (answered != "complete")


def test_a_series_is_waited_for_while_an_association_that_carried_it_is_open(
    ledger: Ledger,
) -> None:
    first, second = associate(ledger, calling_ae="CT1"), associate(ledger, calling_ae="CT2")
    index.record_arrivals(ledger, [arrival(first, "1.1"), arrival(second, "1.2")])
    associate(ledger)  # carries nothing
    index_all(ledger)
    assert open_associations_of("2.1") == 2
    assert calling_ae_of("2.1") == "CT2"
    index.close_association(ledger, first, "released")
    assert open_associations_of("2.1") == 1
    index.close_association(ledger, second, "aborted")
    assert open_associations_of("2.1") == 0
    assert open_associations_of("2.unknown") == 0
    assert calling_ae_of("2.unknown") is None


def test_a_study_settles_when_all_its_series_are_answered_and_it_is_quiet(ledger: Ledger) -> None:
    one, two = a_series(ledger, "2.1"), a_series(ledger, "2.2")
    with ledger.transaction() as change:
        change.move(one, "complete")
        change.move(one, "routed")
        change.move(two, "complete")
    assert studies.settle(ledger, 0) == 0
    with ledger.transaction() as change:
        change.move(two, "skipped")
    assert studies.settle(ledger, 3600) == 0
    Study.update(last_object_at=time.time() - 3601).execute()
    assert studies.settle(ledger, 3600) == 1
    assert (Study.get().state, Study.get().reason) == ("settled", "quiet for 3600 s")
    assert studies.settle(ledger, 3600) == 0

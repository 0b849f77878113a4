"""A series is complete by what its modality lists, or its source counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from pydicom.dataset import Dataset

from config.peers import PeerSettings
from config.schema import Settings
from dicomnode.net.scu import Peer
from dicomnode.work.counting import SourceCounter
from storage import overview, procedures, source_counts
from storage.announced_records import SourceCount
from storage.records import AuditEvent
from storage.series import open_series
from storage.source_counts import MAX_QUERIES, Due, Said
from tests import factories
from tests.sources import counts, source
from tests.unit.dicomnode.work.conftest import Node, only_series, only_study

SLOW = {"quiet_seconds": 600, "give_up_seconds": 86400, "study_quiet_seconds": 3600}


@pytest.fixture
def slow(node: Node) -> Node:
    """Nothing is complete by silence."""
    node.configure(series=SLOW)
    return node


def ct(slices: int = 12, **other: int) -> list[Dataset]:
    return factories.ct_series(slices, **other)


def performed(node: Node, state: str, images: list[Dataset], uid: str = "1.7") -> None:
    """A modality tells of a step that made these, and how it ended."""
    made: dict[str, list[str]] = {}
    for image in images:
        made.setdefault(image.SeriesInstanceUID, []).append(image.SOPInstanceUID)
    with node.ledger.transaction() as change:
        procedures.create(change, uid, "CT1", {})
    with node.ledger.transaction() as change:
        step = procedures.find(uid)
        assert step is not None
        procedures.update(change, step, "CT1", None if state == "in-progress" else state, made)


def counted(node: Node, images: list[Dataset], instances: int, of_series: int) -> None:
    """Its source says so many of the study, and of the series."""
    study, series = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
    due = Due(study, "CT1", only_study().last_object_at, 0)
    source_counts.note(node.ledger, due, "ARCHIVE", Said(instances, {series: of_series}), 2.0)


def verdict() -> dict[str, str]:
    found: dict[str, str] = json.loads(only_series().completeness)
    return found


@pytest.mark.feature("P06", "F29")
def test_all_that_a_completed_step_lists_is_the_series(slow: Node) -> None:
    images = ct()
    association = slow.open()  # stays open
    slow.store_on(association, images[:11])
    performed(slow, "completed", images)
    assert slow.step() == 0
    slow.store_on(association, images[11:])
    assert slow.step() == 1
    assert verdict() == {"reason": "count", "evidence": "12 came, as MPPS announced"}
    (study,) = overview.studies()
    assert study["series"][0]["complete"] == verdict()
    slow.release(association)


def test_what_is_missing_of_a_completed_step_is_told(
    node: Node, later: Callable[[float], None]
) -> None:
    node.configure(series=SLOW)
    images = ct(14)
    node.receive(images[:12])
    performed(node, "completed", images)
    assert node.step() == 0
    (study,) = overview.studies()
    assert study["series"][0]["announced"] == [
        {"source": "MPPS", "instances": 14, "here": 12},
    ]
    later(601)
    assert node.step() == 1
    assert verdict()["reason"] == "quiet"
    assert verdict()["evidence"].endswith("; MPPS announced 14, 2 not here")


@pytest.mark.parametrize("state", ["in-progress", "discontinued"])
def test_a_step_that_is_not_completed_is_no_evidence(slow: Node, state: str) -> None:
    images = ct()
    slow.receive(images)
    performed(slow, state, images)
    assert slow.step() == 0


def test_a_step_that_leaves_out_what_is_here_does_not_list_the_series(slow: Node) -> None:
    images = ct()
    slow.receive(images)
    performed(slow, "completed", images[:10])
    assert slow.step() == 0


def test_two_steps_list_a_series_together_once_both_are_over(slow: Node) -> None:
    images = ct()
    slow.receive(images)
    performed(slow, "completed", images[:6])
    performed(slow, "in-progress", images[6:], "1.8")
    assert slow.step() == 0
    with slow.ledger.transaction() as change:
        step = procedures.find("1.8")
        assert step is not None
        procedures.update(change, step, "CT1", "completed", None)
    assert slow.step() == 1
    assert verdict()["evidence"] == "12 came, as MPPS announced"


def test_a_rejected_image_that_a_step_lists_is_missing(slow: Node) -> None:
    images = ct()
    slow.receive(images[:11])
    performed(slow, "completed", images[1:])
    assert slow.step() == 0  # the first is here and not listed, the last is listed and not here


def test_old_steps_are_forgotten(slow: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    performed(slow, "completed", ct())
    monkeypatch.setattr(procedures, "KEPT_SECONDS", -1.0)
    performed(slow, "completed", ct(seed=1), "1.8")
    assert procedures.find("1.7") is None
    assert procedures.find("1.8") is not None
    assert AuditEvent.select().where(AuditEvent.action == "procedure_step.forgotten").count() == 1


def test_the_count_of_a_source_completes_series_and_study(slow: Node) -> None:
    images = ct()
    association = slow.open()
    slow.store_on(association, images)
    assert slow.step() == 0
    counted(slow, images, 12, 12)
    assert slow.step() == 1
    assert verdict()["evidence"] == "12 came, as C-FIND (0020,1209) announced"
    assert only_study().state == "settled"
    assert only_study().reason == "as many came as C-FIND (0020,1208) announced"
    slow.release(association)


@pytest.mark.parametrize("count", [11, 13])
def test_a_count_that_does_not_agree_waits(slow: Node, count: int) -> None:
    images = ct()
    slow.receive(images)
    slow.step()
    counted(slow, images, count, count)
    assert slow.step() == 0
    assert only_series().state == "receiving"


def test_a_gap_speaks_against_what_a_source_has_now(slow: Node) -> None:
    """It may be receiving them itself; a modality that has ended is believed."""
    whole = ct()
    images = [*whole[:5], *whole[6:]]
    slow.receive(images)
    slow.step()
    counted(slow, images, 11, 11)
    assert slow.step() == 0
    performed(slow, "completed", images)
    assert slow.step() == 0  # complete, and then refused for its gap
    assert verdict()["evidence"] == "11 came, as MPPS announced"


def test_a_late_object_opens_what_was_counted(slow: Node) -> None:
    images = ct(13)
    slow.receive(images[:12])
    slow.step()
    counted(slow, images, 12, 12)
    assert slow.step() == 1
    slow.receive(images[12:])
    assert slow.step() == 0
    assert only_series().state == "reopened"
    counted(slow, images, 13, 13)
    assert slow.step() == 1


def due_after(node: Node, seconds: float) -> list[Due]:
    return source_counts.due(time.time() + seconds, 2.0)


def test_queries_are_few_and_further_and_further_apart(slow: Node) -> None:
    slow.receive(ct(13)[:12])
    slow.step()
    assert due_after(slow, 0) == []  # it does not rest
    waited, moments = 2.0, []
    while waited < 1000:
        for due in due_after(slow, waited):
            assert due.asked == len(moments)
            moments.append(waited)
            source_counts.note(slow.ledger, due, "ARCHIVE", Said(reason="no answer"), 2.0)
            not_before = SourceCount.get().not_before + waited  # as if it were asked then
            SourceCount.update(not_before=not_before).execute()
        waited += 1
    assert len(moments) == MAX_QUERIES
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8 * 2
    slow.receive(ct(13)[12:])
    slow.step()
    assert [due.asked for due in due_after(slow, 1000)] == [0]


def test_a_source_that_agrees_is_not_asked_again(slow: Node) -> None:
    images = ct()
    slow.receive(images)
    slow.step()
    counted(slow, images, 12, 12)
    assert due_after(slow, 1000) == []


def test_what_a_silent_source_said_before_stays(slow: Node) -> None:
    images = ct(13)
    slow.receive(images[:12])
    slow.step()
    counted(slow, images, 13, 13)
    (due,) = due_after(slow, 100)
    source_counts.note(slow.ledger, due, "ARCHIVE", Said(reason="it is gone"), 2.0)
    slow.receive(images[12:])
    assert slow.step() == 1
    assert only_study().state == "settled"


def test_counts_of_series_that_are_not_here_are_not_kept(slow: Node) -> None:
    slow.receive(ct())
    slow.step()
    due = Due(only_study().study_instance_uid, "CT1", 1.0, 0)
    series = {f"1.9.{number}": 5 for number in range(500)}
    source_counts.note(slow.ledger, due, "ARCHIVE", Said(5, series), 2.0)
    assert SourceCount.get().by_series == "{}"


def configured(node: Node, peer: Peer) -> Settings:
    query = {"ae_title": peer.ae_title, "host": peer.host, "port": peer.port}
    asked = PeerSettings(ae_title="CT1", hosts=("127.0.0.1",), query=query)  # type: ignore[arg-type]
    other = PeerSettings(ae_title="*", hosts=("127.0.0.1",))
    node.configure(series=SLOW, peers=[asked, other])
    return Settings(peers=(asked, other))


def test_the_source_of_a_study_that_rests_is_asked(node: Node) -> None:
    images, others = ct(), ct(seed=1)
    study, series = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
    with source(counts(study, 12, {series: 12})) as peer:
        settings = configured(node, peer)
        node.receive(others, calling_ae="OTHER")
        node.receive(images)
        assert node.step() == 0
        counter = SourceCounter(settings, node.ledger, threading.Event(), rest_seconds=0.0)
        counter.ask_due()
        counter.join()
        assert node.step() == 1
        counter.ask_due()
        counter.join()
    (event,) = AuditEvent.select().where(AuditEvent.action == "source.counted")
    assert event.object == f"study:{study}"
    assert json.loads(event.detail) == {"source": "ARCHIVE", "instances": 12, "series": 1}
    assert open_series()[0].series_instance_uid == others[0].SeriesInstanceUID


def test_a_source_that_does_not_answer_costs_nothing_but_time(node: Node) -> None:
    with source(counts("1", 1, {})) as peer:
        settings = configured(node, peer)
    node.receive(ct())
    node.step()
    counter = SourceCounter(settings, node.ledger, threading.Event(), rest_seconds=0.0)
    counter.ask_due()
    counter.join()
    assert "cannot be reached" in SourceCount.get().reason
    assert only_series().state == "receiving"

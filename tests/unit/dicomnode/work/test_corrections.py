"""Results that no longer hold: replaced, withdrawn, or never sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.registry import Registry
from config.schema import RouteSettings, Settings
from dicomnode.net.standin import StandInPacs
from dicomnode.results.withdrawal import rejected_by
from dicomnode.work import corrections
from dicomnode.work.delivery import Courier
from dicomnode.work.worker import Worker
from storage import audit, fallback, jobs, outbox
from storage.records import Delivery, Instance, Job, Rejection, Result, Series
from tests import factories
from tests.unit.dicomnode.work.conftest import AT_ONCE, Node, job_states

ROUTE = RouteSettings(
    name="CT",
    when={"Modality": "CT", "slices": {"min": 10}},
    model="ct-tissue",
    send_to=("pacs",),
)


class Way:
    """Received objects, their jobs, and a PACS that gets what is delivered; all in one process."""

    def __init__(self, folder: Path, registry: Registry, pacs: StandInPacs, withdraw: str) -> None:
        place = {
            "name": "pacs",
            "ae_title": pacs.ae_title,
            "host": "127.0.0.1",
            "port": pacs.port,
            "withdraw": withdraw,
        }
        options: dict[str, Any] = {"routes": (ROUTE,), "destinations": [place]}
        self.node = Node(folder, registry, **options)
        self.settings = Settings(**AT_ONCE | options)
        self.worker = Worker(self.settings, folder)
        self.node.ledger.close()
        self.node.ledger = self.worker.ledger
        self.node.configure(**options)
        self.pacs = pacs
        # It is known to take these, so that nothing is made to stand in for them.
        fallback.note_kinds(self.worker.ledger, "pacs", {"seg": True, "sr": True})

    def run(self) -> None:
        self.node.step()
        while self.worker.runner.run_one():
            pass

    def withdraw(self) -> int:
        return corrections.withdraw_superseded(self.worker.ledger, self.worker.store, self.settings)

    def deliver(self) -> list[Dataset]:
        """What the PACS got by that."""
        before = set(self.pacs.files)
        courier = Courier(self.settings, "pacs", self.worker.ledger, self.worker.store)
        courier.deliver(lambda: False)
        return [dcmread(path) for uid, path in self.pacs.files.items() if uid not in before]

    def close(self) -> None:
        self.worker.close()
        self.node.close()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StandInPacs]:
    with StandInPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture(params=["iocm"])
def way(
    request: pytest.FixtureRequest, tmp_path: Path, registry: Registry, pacs: StandInPacs
) -> Iterator[Way]:
    made = Way(tmp_path / "node", registry, pacs, request.param)
    yield made
    made.close()


def ct(slices: int = 12) -> list[Dataset]:
    return factories.ct_series(slices, rows=32, columns=32)


def modalities(objects: Sequence[Dataset]) -> list[str]:
    return [each.Modality for each in objects]


def test_a_late_slice_after_the_result_went_out_replaces_and_withdraws_it(way: Way) -> None:
    whole = ct(14)
    way.node.receive(whole[:12])
    way.run()
    first = way.deliver()
    assert modalities(first) == ["SEG", "SR"]
    way.node.receive(whole[12:])
    way.node.step()
    assert way.withdraw() == 0  # what takes its place is not there yet
    way.run()
    assert way.withdraw() == 1
    segmentation, report, note = way.deliver()
    assert modalities([segmentation, report, note]) == ["SEG", "SR", "KO"]
    (study,) = report.PredecessorDocumentsSequence
    before = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert before.ReferencedSOPInstanceUID == first[1].SOPInstanceUID
    assert rejected_by(note) == (
        "113001",
        {(whole[0].StudyInstanceUID, each.SOPInstanceUID) for each in first},
    )
    assert note.PatientID == whole[0].PatientID
    assert job_states() == ["superseded", "ready"]
    assert way.withdraw() == 0
    assert "results.withdrawn" in {event["action"] for event in audit.events()}


def test_a_late_slice_before_the_result_goes_out_leaves_one_result(way: Way) -> None:
    whole = ct(14)
    way.node.receive(whole[:12])
    way.run()
    way.node.receive(whole[12:])
    way.run()
    assert way.withdraw() == 0
    objects = way.deliver()
    assert modalities(objects) == ["SEG", "SR"]
    assert "PredecessorDocumentsSequence" not in objects[1]


def test_a_late_slice_while_the_result_goes_out_lets_the_bundle_go_whole(way: Way) -> None:
    whole = ct(14)
    way.node.receive(whole[:12])
    way.run()
    (begun,) = outbox.claim(way.worker.ledger, "pacs", 1)
    outbox.note_begun(way.worker.ledger, [begun])
    way.node.receive(whole[12:])
    way.run()
    assert way.withdraw() == 1
    assert modalities(way.deliver()) == ["SEG", "SR", "SEG", "SR", "KO"]


def test_a_corrected_name_issues_the_results_anew(way: Way) -> None:
    images = ct()
    way.node.receive(images)
    way.run()
    way.deliver()
    for image in images:
        image.PatientName = "CORRECTED^SYNTHETIC"
    way.node.receive(images)
    way.run()
    way.withdraw()
    again = way.deliver()
    assert modalities(again) == ["SEG", "SR", "KO"]
    assert {str(each.PatientName) for each in again[:2]} == {"CORRECTED^SYNTHETIC"}


@pytest.mark.parametrize("way", ["none"], indirect=True)
def test_who_does_not_take_notes_gets_the_replacement_alone(way: Way) -> None:
    whole = ct(14)
    way.node.receive(whole[:12])
    way.run()
    way.deliver()
    way.node.receive(whole[12:])
    way.run()
    assert way.withdraw() == 0
    assert modalities(way.deliver()) == ["SEG", "SR"]
    assert not Job.select().where(Job.withdrawal.is_null(False)).exists()


@pytest.mark.parametrize("code", ["113001", "113037", "113038"])
def test_a_rejected_series_runs_no_more_and_nothing_of_it_goes_out(way: Way, code: str) -> None:
    images = ct()
    way.node.receive(images)
    way.node.step()
    assert job_states() == ["queued"]
    way.node.receive([factories.rejection_note(images, code)])
    way.run()
    assert job_states() == ["superseded"]
    rejected = Instance.get(Instance.state == "rejected")
    assert rejected.reason.startswith("a rejection note: ")
    assert Series.get(Series.modality == "CT").reason == "every object of it was rejected"
    assert way.deliver() == []
    states = {row.state for row in Instance.select()}
    assert states == {"rejected", "indexed"}


def test_results_of_rejected_images_are_withdrawn_under_the_same_title(way: Way) -> None:
    images = ct()
    way.node.receive(images)
    way.run()
    sent = way.deliver()
    way.node.receive([factories.rejection_note(images, "113037")])
    way.run()
    assert way.withdraw() == 1
    (note,) = way.deliver()
    code, named = rejected_by(note) or ("", frozenset())
    assert (code, len(named)) == ("113037", len(sent))


def test_what_is_left_after_a_rejection_is_analysed_anew(way: Way) -> None:
    images = ct(14)
    way.node.receive(images)
    way.run()
    way.deliver()
    way.node.receive([factories.rejection_note(images[12:])])
    way.run()
    assert way.withdraw() == 1
    assert modalities(way.deliver()) == ["SEG", "SR", "KO"]
    assert job_states() == ["superseded", "ready"]
    series = Series.get(Series.modality == "CT")
    assert (series.state, series.instances) == ("routed", 12)


def test_a_note_that_comes_first_keeps_the_image_out(way: Way) -> None:
    images = ct(13)
    way.node.receive([factories.rejection_note(images[12:])])
    way.node.step()
    way.node.receive(images)
    way.node.step()
    (late,) = Instance.select().where(Instance.state == "rejected")
    assert late.sop_instance_uid == images[12].SOPInstanceUID
    (job,) = Job.select()
    assert len(jobs.input_ids_of(job)) == 12


def test_a_note_on_another_study_rejects_nothing(way: Way) -> None:
    images = ct()
    way.node.receive(images)
    way.node.step()
    note = factories.rejection_note(images)
    note.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "2.25.7"
    way.node.receive([note])
    way.node.step()
    assert job_states() == ["queued"]
    assert not Instance.select().where(Instance.state == "rejected").exists()


def test_a_time_of_keeping_that_passed_takes_nothing_back(way: Way) -> None:
    images = ct()
    way.node.receive(images)
    way.node.step()
    way.node.receive([factories.rejection_note(images, "113039")])
    way.node.step()
    assert job_states() == ["queued"]
    assert not Rejection.select().exists()
    (event,) = [each for each in audit.events() if each["action"] == "rejection.noted"]
    assert json.loads(event["detail"])["named"] == 12


def test_the_note_of_this_node_that_comes_back_rejects_nothing(way: Way) -> None:
    whole = ct(14)
    way.node.receive(whole[:12])
    way.run()
    way.deliver()
    way.node.receive(whole[12:])
    way.run()
    way.withdraw()
    *_, note = way.deliver()
    way.node.receive([note])
    way.node.step()
    assert not Rejection.select().exists()
    kinds = {row.result.kind for row in Delivery.select()}
    assert kinds == {"seg", "sr", "withdrawal"}
    assert Result.select().where(Result.kind == "withdrawal").count() == 1

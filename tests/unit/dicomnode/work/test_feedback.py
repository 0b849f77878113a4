"""What radiologists say of results, as documents that come back by C-STORE say it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from ai.registry import Registry
from config.schema import RouteSettings, Settings
from dicomnode.results import codes
from dicomnode.results.content import named, walk
from dicomnode.results.verdicts import assessment_of
from dicomnode.results.withdrawal import build_withdrawal
from dicomnode.results.write import to_bytes
from dicomnode.work.feedback import verdict_codes
from dicomnode.work.worker import Worker
from storage import feedback
from storage.records import AuditEvent, Instance, Job, Result
from storage.watch_records import Feedback
from tests import factories
from tests.assessments import AGREE, DISAGREE, assessment, evidence, group, said
from tests.unit.dicomnode.work.conftest import AT_ONCE, Node

ROUTE = RouteSettings(name="CT", when={"Modality": "CT"}, model="ct-tissue")
CODES = verdict_codes(Settings().watch)


class Desk:
    """A node in this process with the results of one CT series."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.node = Node(folder, registry, routes=(ROUTE,))
        self.worker = Worker(Settings(**AT_ONCE | {"routes": (ROUTE,)}), folder)
        self.node.ledger.close()
        self.node.ledger = self.worker.ledger
        self.node.configure(routes=(ROUTE,))
        self.images = factories.ct_series(12, rows=32, columns=32)
        self.node.receive(self.images)
        self.node.step()
        assert self.worker.runner.run_one()
        (self.job,) = Job.select()

    def result(self, kind: str = "sr") -> Dataset:
        row = Result.get((Result.job == self.job) & (Result.kind == kind))
        return dcmread(self.worker.store.path(row.object_key))

    def hear(self, document: Dataset) -> list[tuple[str, str, str]]:
        """What is noted when it comes: verdict, finding, source."""
        before = Feedback.select().count()
        self.node.receive([document])
        self.node.step()
        rows = feedback.of_job(self.job.id)[before:]
        return [(row["verdict"], row["finding"], row["source"]) for row in rows]

    def close(self) -> None:
        self.worker.close()
        self.node.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"), registry)
    yield made
    made.close()


def tracking_uids(report: Dataset) -> dict[str, str]:
    """Tracking UIDs of the findings of a report, by name."""
    found = {}
    for each in walk(report):
        for uid in named(each, codes.TRACKING_UID):
            (name,) = named(each, codes.TRACKING_IDENTIFIER)
            found[str(name.TextValue)] = str(uid.UID)
    return found


@pytest.mark.feature("P46")
def test_an_assessment_of_findings_comes_back_and_is_counted(desk: Desk) -> None:
    report = desk.result()
    bone, lung = list(tracking_uids(report).items())[:2]
    document = assessment([report], group(bone[1], AGREE), group(lung[1], DISAGREE))
    assert desk.hear(document) == [
        *(("accept", bone[0], "assessment"), ("reject", lung[0], "assessment"))
    ]
    found = feedback.acceptance(desk.job.model)
    assert found.findings[bone[0]]["accept"] == found.findings[lung[0]]["reject"] == 1
    (event,) = AuditEvent.select().where(AuditEvent.action == "feedback.accept")
    assert event.object == f"job:{desk.job.id}"
    assert event.actor.startswith("association:")


def test_an_assessment_of_the_whole_answer_may_name_any_of_its_objects(desk: Desk) -> None:
    document = assessment([desk.result("seg")], said(DISAGREE))
    assert desk.hear(document) == [("reject", "", "assessment")]


def test_the_same_document_sent_again_says_nothing_new(desk: Desk) -> None:
    document = assessment([desk.result()], said(AGREE))
    assert len(desk.hear(document)) == 1
    document.ReferringPhysicianName = "Changed"
    assert desk.hear(document) == []


@pytest.mark.parametrize(
    "content",
    [
        [],
        [said(("R-00339", "SRT"))],
        [said(AGREE), said(DISAGREE)],
        [group("1.2.3.4", AGREE)],
    ],
    ids=["none", "unknown code", "both at once", "unknown finding"],
)
def test_what_leaves_it_open_is_not_guessed_at(desk: Desk, content: list[Dataset]) -> None:
    assert desk.hear(assessment([desk.result()], *content)) == []


def test_an_assessment_in_another_study_or_of_other_objects_is_not_heard(desk: Desk) -> None:
    elsewhere = assessment([desk.result()], said(AGREE))
    elsewhere.StudyInstanceUID = generate_uid()
    assert desk.hear(elsewhere) == []
    assert desk.hear(assessment([desk.images[0]], said(AGREE))) == []


@pytest.mark.feature("P46")
def test_a_verified_report_accepts_ours_where_it_says_the_same(desk: Desk) -> None:
    report = desk.result()
    verified = deepcopy(report)
    verified.SOPInstanceUID = verified.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    verified.SeriesInstanceUID = generate_uid()
    verified.VerificationFlag = "VERIFIED"
    verified.PredecessorDocumentsSequence = [evidence(report)]
    verified.CurrentRequestedProcedureEvidenceSequence.append(evidence(report))
    other = deepcopy(verified)
    assert desk.hear(verified) == [("accept", "", "verification")]
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    finding = next(item for item in walk(other) if named(item, codes.TRACKING_UID))
    number = next(item for item in walk(finding) if item.get("ValueType") == "NUM")
    number.MeasuredValueSequence[0].NumericValue = "1.5"
    number.MeasuredValueSequence[0].FloatingPointValue = 1.5
    assert desk.hear(other) == [("correct", "", "verification")]


def test_our_own_report_sent_back_says_nothing(desk: Desk) -> None:
    back = desk.result()
    back.SOPInstanceUID = back.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    back.PredecessorDocumentsSequence = [evidence(desk.result())]
    assert desk.hear(back) == []


@pytest.mark.feature("P46")
@pytest.mark.parametrize(
    ("title", "heard"), [("113001", [("reject", "", "rejection note")]), ("113039", [])]
)
def test_a_rejection_note_on_results_rejects_them(
    desk: Desk, title: str, heard: list[tuple[str, str, str]]
) -> None:
    note = factories.rejection_note([desk.result(), desk.result("seg")], title)
    assert desk.hear(note) == heard


def test_the_note_by_which_this_node_withdraws_results_says_nothing_of_them(desk: Desk) -> None:
    moment = datetime.now(UTC).astimezone()
    note = build_withdrawal([desk.result()], desk.job.identity, "113001", moment)
    assert desk.hear(dcmread(BytesIO(to_bytes(note)))) == []


def test_a_document_of_hostile_values_is_kept_and_says_nothing(desk: Desk) -> None:
    report = desk.result()
    deep = said(AGREE)
    for _ in range(200):
        outer = Dataset()
        outer.RelationshipType, outer.ValueType = "CONTAINS", "CONTAINER"
        outer.ContentSequence = [deep]
        deep = outer
    many = [said(AGREE) for _ in range(1500)]
    for content in [deep], many:
        assert desk.hear(assessment([report], *content)) == []
    assert not Instance.select().where(Instance.state == "quarantined").exists()


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"))


@given(st.lists(st.tuples(TEXT, TEXT), max_size=8), st.booleans())
@settings(max_examples=100, deadline=None)
def test_for_any_codes_a_document_says_what_the_settings_say_and_no_more(
    pairs: list[tuple[str, str]], agrees: bool
) -> None:
    document = factories.structured_report(seed=1)
    pairs = [pair for pair in pairs if pair not in CODES]
    listed = [*pairs, *([AGREE] if agrees else [])]
    document.ContentSequence = [said(pair) for pair in listed]
    found = assessment_of(document, CODES)
    assert (found is not None) == agrees
    assert found is None or [word.verdict for word in found.words] == ["accept"]

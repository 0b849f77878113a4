"""Modality Performed Procedure Steps (PS3.4 F.7): what may be said, and what is answered."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from config.errors import StorageError
from storage import procedures
from tests.contract.conftest import Node, StartNode
from tests.contract.wire import STORE, Wire, command, pdu, pdv
from tests.raw import CT, EXPLICIT, ct

MPPS = "1.2.840.10008.3.1.2.3.3"
NAME = "TESTER^SECRET"


@pytest.fixture
def node(start: StartNode) -> Node:
    peer = {"ae_title": "CT1", "hosts": ["127.0.0.1"], "may": ["store", "mpps"]}
    other = {"ae_title": "*", "hosts": ["127.0.0.1"]}
    return start(peers=[peer, other])


@contextmanager
def modality(node: Node, ae_title: str = "CT1", syntax: str = EXPLICIT) -> Iterator[Association]:
    ae = AE(ae_title)
    ae.add_requested_context(MPPS, syntax)
    ae.add_requested_context(CT, EXPLICIT)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="MEDAI")
    assert assoc.is_established
    yield assoc
    if assoc.is_established:
        assoc.release()


def item(**values: Any) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        found.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    return found


def step(status: str = "IN PROGRESS", **more: Any) -> Dataset:
    """As a modality begins one: Table F.7.2-1."""
    return item(
        ScheduledStepAttributesSequence=[item(StudyInstanceUID="1.2.3", AccessionNumber="A1")],
        PatientName=NAME,
        PatientID="SECRET",
        PerformedProcedureStepID="1",
        PerformedStationAETitle="CT1",
        PerformedProcedureStepStartDate="20260101",
        PerformedProcedureStepStartTime="120000",
        PerformedProcedureStepStatus=status,
        Modality="CT",
        PerformedSeriesSequence=[],
        **more,
    )


def made(*uids: str, series: str = "1.2.3.1", status: str = "COMPLETED") -> Dataset:
    """As it ends one that made these objects."""
    images = [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid) for uid in uids]
    return item(
        PerformedProcedureStepStatus=status,
        PerformedSeriesSequence=[
            item(SeriesInstanceUID=series, OperatorsName=NAME, ReferencedImageSequence=images)
        ],
    )


def create(
    assoc: Association, dataset: Dataset, uid: str = "1.7", sop_class: str = MPPS
) -> Dataset:
    answer: Dataset = assoc.send_n_create(dataset, sop_class, uid)[0]
    return answer


def update(assoc: Association, dataset: Dataset, uid: str = "1.7") -> Dataset:
    answer: Dataset = assoc.send_n_set(dataset, MPPS, uid)[0]
    return answer


@pytest.mark.feature("F29")
@pytest.mark.parametrize("syntax", [EXPLICIT, ImplicitVRLittleEndian])
def test_a_step_is_begun_and_completed_with_what_it_made(node: Node, syntax: str) -> None:
    with modality(node, syntax=syntax) as assoc:
        assert create(assoc, step()).Status == 0x0000
        assert procedures.find("1.7").state == "in-progress"  # type: ignore[union-attr]
        assert update(assoc, made("1.2.3.4", "1.2.3.5")).Status == 0x0000
        assert procedures.listed("1.2.3.1") == procedures.Listed(2, 0)
    (begun,) = node.events("procedure_step.in-progress")
    assert begun["series"] == 0
    (ended,) = node.events("procedure_step.completed")
    assert (ended["object"], ended["from"]) == ("procedure_step:1.7", "in-progress")
    assert (ended["series"], ended["objects"]) == (1, 2)
    assert node.outcomes() == ["released"]


def elements(*pairs: tuple[int, str]) -> bytes:
    """Implicit little endian."""
    found = b""
    for tag, value in pairs:
        raw = value.encode() + bytes(len(value) % 2)
        found += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw
    return found


def test_steps_and_objects_come_over_one_association(node: Node) -> None:
    """Byte for byte, PS3.7 10.3.5 and 10.3.3; the short path leaves it to pynetdicom half-way."""
    begun = elements((0x00080060, "CT"), (0x00400252, "IN PROGRESS "))
    ended = elements((0x00400252, "DISCONTINUED"))
    contexts = [STORE, (5, MPPS, (ImplicitVRLittleEndian,))]
    with Wire.associate(node.port, contexts, calling="CT1") as wire:
        assert wire.store(ct()).status == 0
        for status in (0x0000, 0x0111):
            asked = command(sop_class=MPPS, field=0x0140, message_id=7, data_set=1, instance="1.7")
            wire.sock.sendall(pdu(4, pdv(5, 3, asked)))
            wire.data(begun, 5)
            answer = wire.response()
            assert (answer.field, answer.message_id, answer.status) == (0x8140, 7, status)
            assert answer.instance == "1.7"
        asked = command(
            requested_class=MPPS, field=0x0120, message_id=8, data_set=1, requested_instance="1.7"
        )
        wire.sock.sendall(pdu(4, pdv(5, 3, asked)))
        wire.data(ended, 5)
        answer = wire.response()
        assert (answer.field, answer.message_id, answer.status) == (0x8120, 8, 0x0000)
        assert wire.store(ct(sop_instance="1.2.3.9"), "1.2.3.9").status == 0
        wire.release()
    assert len(node.stored()) == 2
    assert node.events("procedure_step.discontinued")
    assert node.outcomes() == ["released"]


def test_no_patient_is_kept(node: Node) -> None:
    with modality(node) as assoc:
        create(assoc, step())
        update(assoc, made("1.2.3.4"))
    node.stop()
    node.ledger.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = b"".join(path.read_bytes() for path in node.data_dir.rglob("*") if path.is_file())
    assert b"1.2.3.4" in kept
    assert b"SECRET" not in kept


NOT_TO_BEGIN_WITH = (
    (step("COMPLETED"), "1.7", 0x0106, "PerformedProcedureStepStatus is not IN PROGRESS"),
    (step("DONE"), "1.7", 0x0106, "PerformedProcedureStepStatus is none of the defined terms"),
    (step(""), "1.7", 0x0121, "PerformedProcedureStepStatus has no value"),
    (item(Modality="CT"), "1.7", 0x0120, "PerformedProcedureStepStatus is missing"),
    (step(), "1.8", 0x0111, "There is a step of this UID already"),
    (made("x", status="IN PROGRESS"), "1.7", 0x0106, "ReferencedSOPInstanceUID is not a UID"),
    (made("1.2", series="", status="IN PROGRESS"), "1.7", 0x0121, "SeriesInstanceUID has no value"),
)


def test_what_a_step_may_not_begin_with(node: Node) -> None:
    with modality(node) as assoc:
        create(assoc, step(), "1.8")
        for dataset, uid, status, comment in NOT_TO_BEGIN_WITH:
            answer = create(assoc, dataset, uid)
            assert (answer.Status, answer.ErrorComment) == (status, comment)
            assert procedures.find("1.7") is None
        assert create(assoc, step()).Status == 0x0000  # the association goes on
    # One of each kind is on record.
    refused = [event["status"] for event in node.events("procedure_step.refused")]
    assert refused == ["0x0106", "0x0121", "0x0120", "0x0111"]


def test_what_a_step_may_not_become(node: Node) -> None:
    with modality(node) as assoc:
        assert update(assoc, made("1.2.3.4")).Status == 0x0112
        create(assoc, step())
        # Table F.7.2-1: there is a series in the final state.
        assert update(assoc, item(PerformedProcedureStepStatus="COMPLETED")).Status == 0x0121
        assert update(assoc, made("1.2.3.4")).Status == 0x0000
        answer = update(assoc, made("1.2.3.5"))
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert procedures.listed("1.2.3.1") == procedures.Listed(1, 0)


def test_a_step_that_goes_on_is_no_evidence_nor_one_that_was_discontinued(node: Node) -> None:
    with modality(node) as assoc:
        create(assoc, step())
        assert update(assoc, made("1.2.3.4", status="IN PROGRESS")).Status == 0
        assert procedures.listed("1.2.3.1") is None
        assert update(assoc, made("1.2.3.4", status="DISCONTINUED")).Status == 0
        assert procedures.listed("1.2.3.1") is None
        create(assoc, step(), "1.8")
        update(assoc, made("1.2.3.4", "1.2.3.5"), "1.8")
        assert procedures.listed("1.2.3.1") == procedures.Listed(2, 0)


def test_what_was_told_outlives_the_receiver(node: Node, start: StartNode) -> None:
    with modality(node) as assoc:
        create(assoc, step())
    node.stop()
    peer = {"ae_title": "CT1", "hosts": ["127.0.0.1"], "may": ["mpps"]}
    with modality(start(peers=[peer])) as assoc:
        assert create(assoc, step()).Status == 0x0111
        assert update(assoc, made("1.2.3.4")).Status == 0x0000
    assert procedures.listed("1.2.3.1") is not None


def test_a_peer_that_may_not_is_offered_no_context(node: Node) -> None:
    with modality(node, "OTHER") as assoc:
        assert [context.abstract_syntax for context in assoc.accepted_contexts] == [CT]
    with modality(node, syntax=DeflatedExplicitVRLittleEndian) as assoc:
        assert [context.abstract_syntax for context in assoc.accepted_contexts] == [CT]


def test_another_service_or_class_is_not_served(node: Node) -> None:
    with modality(node) as assoc:
        answer, _ = assoc.send_n_get([0x00400252], MPPS, "1.7")
        assert answer.Status == 0x0211
        answer, _ = assoc.send_n_create(step(), "1.2.840.10008.3.1.2.3.5", "1.7", meta_uid=MPPS)
        assert answer.Status == 0x0118
        answer, _ = assoc.send_n_create(step(), MPPS, None)
        assert answer.Status == 0x0117


def test_what_the_node_cannot_keep_is_to_be_sent_again(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = {"ae_title": "CT1", "hosts": ["127.0.0.1"], "may": ["mpps"]}
    full = start(peers=[peer], storage={"min_free": 1 << 60}, journal=False)
    with modality(full) as assoc:
        assert create(assoc, step()).Status == 0x0213
    full.stop()
    node = start(peers=[peer])
    with modality(node) as assoc:

        def failing(*_: object) -> None:
            raise StorageError("the database is not usable now")

        monkeypatch.setattr(procedures, "create", failing)
        assert create(assoc, step()).Status == 0x0110
        monkeypatch.undo()
        assert create(assoc, step()).Status == 0x0000


def test_a_broken_data_set_and_a_node_that_stops_are_answered(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with modality(node) as assoc:
        # A number in place of the sequence of series.
        broken = bytes.fromhex("40004003") + b"UL" + bytes.fromhex("040001000000")
        monkeypatch.setattr("pynetdicom.association.encode", lambda *_: broken)
        assert create(assoc, step()).Status == 0x0110
        monkeypatch.undo()
        node.receiver.intake.draining = True
        assert create(assoc, step()).Status == 0x0213
        node.receiver.intake.draining = False
        assert create(assoc, step()).Status == 0x0000

"""The tables of statuses and contexts, and the messages of the short path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import AllTransferSyntaxes

from dicomnode.net import contexts, dimse, procedure, status
from dicomnode.net.dimse import Command, read_command, response
from tests.contract.wire import command, echo_rq, parse_command, store_rq
from tests.raw import CT, DEFLATED, EXPLICIT


def test_every_refusal_has_a_comment_that_fits_its_element() -> None:
    for answers in (status.ANSWERS, procedure.ANSWERS):
        for answer in answers:
            assert bool(answer.comment) == (answer.status != 0)
            assert len(answer.comment) <= status.MAX_COMMENT
            assert answer.clause.startswith("PS3.")
        assert len({answer.reason for answer in answers}) == len(answers)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_a_comment_of_any_text_is_one_ascii_line_value(text: str) -> None:
    comment = status.MALFORMED.because(text).comment
    assert len(comment) <= 64
    assert comment.isascii()
    assert "\\" not in comment


@pytest.mark.parametrize(
    ("text", "comment"),
    [
        ("the data set ends (at byte 37)", "the data set ends (at byte 37)"),
        ("a" * 50 + " (at byte 1234567)", "a" * 50),
        ("of " * 19 + "1234567890", ("of " * 19).strip()),
        ("of " * 20 + "1234", "of " * 20 + "1234"),
        ("a" * 70, "a" * 64),
    ],
)
def test_a_comment_is_never_cut_within_a_number(text: str, comment: str) -> None:
    assert status.MALFORMED.because(text).comment == comment


@pytest.mark.feature("P36")
@pytest.mark.parametrize(
    ("code", "accepted"),
    [(0, True), (0xB000, True), (0xB007, True), (0x0111, True), (0xA700, False), (0xC000, False)],
)
def test_what_a_peer_accepted(code: int, accepted: bool) -> None:
    assert status.accepted_by_peer(code) is accepted


def test_every_storage_class_and_transfer_syntax_is_accepted() -> None:
    assert "1.2.840.10008.5.1.4.1.1.66.7" in contexts.storage_classes()  # Label Map Segmentation
    assert len(contexts.storage_classes()) >= 170
    assert {str(uid) for uid in AllTransferSyntaxes} <= contexts.transfer_syntaxes()


def test_what_is_asked_for_fits_associations() -> None:
    pairs = [(f"1.2.{number}", EXPLICIT) for number in range(300)]
    lists = contexts.requests([*pairs, *pairs])
    assert [len(asked) for asked in lists] == [128, 128, 44]


def test_a_contexts_transfer_syntaxes_keep_the_requestors_order() -> None:
    (asked,) = contexts.requests([(CT, DEFLATED)])
    asked[0].transfer_syntax = [DEFLATED, "1.9.9", EXPLICIT]
    (offered,) = contexts.supported(asked, (), ())
    assert offered.transfer_syntax == [DEFLATED, EXPLICIT]


def test_commands_of_the_short_path_are_read() -> None:
    assert read_command(store_rq(CT, "1.2.3", 9)) == Command(1, 9, CT, "1.2.3")
    assert read_command(echo_rq(4)) == Command(0x30, 4, contexts.VERIFICATION, "")


@pytest.mark.parametrize(
    "unusual",
    [
        b"",
        store_rq(CT, "1.2.3")[:-1],
        store_rq(CT, "1" * 65),
        store_rq(CT, ""),
        store_rq("", "1.2.3"),
        command(sop_class=CT, field=1, message_id=1, data_set=0x0101, instance="1.2"),
        command(sop_class=CT, field=0x0020, message_id=1, data_set=1),
        command(sop_class=CT, field=0x8001, message_id=1, data_set=0x0101, instance="1.2"),
        command(sop_class=CT, field=1, data_set=1, instance="1.2"),
        b"\x08\x00\x05\x00\x00\x00\x00\x00",
    ],
)
def test_other_commands_are_left_to_pynetdicom(unusual: bytes) -> None:
    assert read_command(unusual) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_commands(data: bytes) -> None:
    found = read_command(data)
    assert found is None or found.field in (dimse.C_STORE_RQ, dimse.C_ECHO_RQ)


def test_a_response_carries_what_the_standard_asks_for() -> None:
    answer = response(Command(1, 515, CT, "1.2.3"), 7, status.OUT_OF_SPACE)
    assert answer[:2] == b"\x04\x00"
    assert answer[10:12] == b"\x07\x03"
    values = parse_command(answer[12:])
    assert values[0x0100] == b"\x01\x80"
    assert values[0x0120] == b"\x03\x02"
    assert values[0x0800] == b"\x01\x01"
    assert values[0x0900] == b"\x00\xa7"
    assert values[0x1000] == b"1.2.3\x00"
    assert all(len(value) % 2 == 0 for value in values.values())

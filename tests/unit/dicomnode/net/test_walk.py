"""The walk over raw bytes: what it lets through, what it refuses, and what it says."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import MalformedError
from dicomnode.net import walk
from dicomnode.net.pixels import pixel_length_fault
from dicomnode.net.walk import DatasetWalk, WalkedHeader, is_uid
from tests.raw import BIG, CT, DEFLATED, EXPLICIT, IMPLICIT, JPEG, RLE, SYNTAXES, Coding, ct, parts


def walked(data: bytes, syntax: str = EXPLICIT, step: int | None = None) -> WalkedHeader:
    walk = DatasetWalk(syntax)
    for at in range(0, len(data), step or len(data) or 1):
        walk.feed(memoryview(data)[at : at + (step or len(data))])
    return walk.finish()


def refused(data: bytes, syntax: str = EXPLICIT) -> str:
    with pytest.raises(MalformedError) as caught:
        walked(data, syntax)
    return str(caught.value)


def changed(syntax: str = EXPLICIT, **replaced: bytes) -> bytes:
    coding = Coding(syntax)
    return coding.finish(b"".join((parts(coding) | replaced).values()))


@pytest.mark.feature("P01")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("step", [None, 1, 7])
def test_a_well_formed_data_set_is_walked_to_its_end(syntax: str, step: int | None) -> None:
    data = ct(syntax)
    assert walked(data, syntax, step) == WalkedHeader(
        sop_class_uid=CT,
        sop_instance_uid="1.2.3.4",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        modality="CT",
        size=len(data),
    )


@pytest.mark.feature("P01", "P02")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_data_set_cut_off_anywhere_is_refused(syntax: str) -> None:
    data = ct(syntax)
    # A cut between two elements after the last one that must be there leaves a whole data set,
    # and so does the cut before the byte that pads a deflated one.
    coding = Coding(syntax)
    pieces = list(parts(coding).values())
    whole = {len(b"".join(pieces[:count])) for count in range(11, len(pieces))}
    if syntax == DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        inflate.decompress(data)
        whole = {len(data) - len(inflate.unused_data)}
    for length in range(len(data)):
        if length in whole:
            assert walked(data[:length], syntax).size == length
        else:
            assert refused(data[:length], syntax)


@pytest.mark.feature("P01")
@settings(max_examples=100, deadline=None)
@given(syntax=st.sampled_from(SYNTAXES), cuts=st.lists(st.integers(0, 700), max_size=6))
def test_how_the_bytes_are_cut_up_does_not_matter(syntax: str, cuts: list[int]) -> None:
    data = ct(syntax)
    walk = DatasetWalk(syntax)
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        walk.feed(data[at:cut])
        at = cut
    assert walk.finish() == walked(data, syntax)


@pytest.mark.feature("P01", "P02")
@settings(max_examples=200, deadline=None)
@given(
    syntax=st.sampled_from(SYNTAXES),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    tail=st.binary(max_size=12),
)
def test_damaged_bytes_are_walked_or_refused_alike_in_any_pieces(
    syntax: str, flips: list[tuple[int, int]], tail: bytes
) -> None:
    data = bytearray(ct(syntax) + tail)
    for at, value in flips:
        data[at % len(data)] = value
    answers: list[WalkedHeader | str] = []
    for step in (None, 5):
        try:
            answers.append(walked(bytes(data), syntax, step))
        except MalformedError:
            answers.append("refused")
    assert answers[0] == answers[1]


@pytest.mark.parametrize("missing", ["sop_class", "sop_instance", "study", "series"])
def test_a_missing_uid_is_named(missing: str) -> None:
    assert "UID" in refused(changed(**{missing: b""}))


@pytest.mark.parametrize("value", ["", "1..2", ".1", "1.2.", "../../etc", "1.2\x00.3", "1" * 65])
def test_what_is_not_a_uid_is_refused(value: str) -> None:
    study = Coding().element(0x0020000D, "UI", value)
    assert "Study Instance UID (0020,000D) is not a UID" in refused(changed(study=study))
    assert not is_uid(value)


def test_uids_inside_sequences_are_not_the_objects_own() -> None:
    assert walked(ct()).sop_instance_uid == "1.2.3.4"


def test_two_study_uids_contradict() -> None:
    coding = Coding()
    twice = coding.element(0x0020000D, "UI", "1.2.3") + coding.element(0x0020000D, "UI", "1.2.4")
    assert "appears twice" in refused(changed(study=twice))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize(("length", "fine"), [(48, True), (46, False), (50, False), (0, False)])
def test_native_pixels_have_the_length_that_is_asked_for(
    syntax: str, length: int, fine: bool
) -> None:
    data = changed(syntax, pixels=Coding(syntax).pixels(length))
    if fine:
        walked(data, syntax)
    else:
        assert f"pixel data has {length} bytes" in refused(data, syntax)


@pytest.mark.parametrize(
    ("asked", "length"),
    [
        ({"rows": 3, "columns": 3, "samples": 1, "bits": 8}, 9),
        ({"rows": 3, "columns": 3, "samples": 1, "bits": 8}, 10),
        ({"rows": 3, "columns": 3, "samples": 1, "bits": 1, "frames": "3"}, 4),
        ({"rows": 4, "columns": 4, "samples": 3, "bits": 8}, 48),
        ({"rows": 4, "columns": 4, "samples": 3, "bits": 8, "photometric": "YBR_FULL_422"}, 32),
        ({"rows": 2, "columns": 2, "samples": None, "bits": 32, "frames": "2"}, 32),
    ],
)
def test_the_length_of_pixels_follows_the_attributes(
    asked: dict[str, int | str | None], length: int
) -> None:
    facts: dict[str, int | str | None] = {"frames": "", "photometric": "MONOCHROME2"} | asked
    assert pixel_length_fault(length, **facts) is None  # type: ignore[arg-type]
    assert pixel_length_fault(length + 2, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["rows", "columns", "bits"])
def test_pixels_without_the_attributes_they_need(missing: str) -> None:
    assert "without Rows" in refused(changed(**{missing: b""}))


def test_attributes_after_the_pixels_count_too() -> None:
    elements = parts(Coding())
    rows = elements.pop("rows")
    walked(b"".join(elements.values()) + rows)


def test_the_length_of_the_pixels_fits_the_transfer_syntax() -> None:
    packed = Coding(JPEG).pixels(48)
    assert "no length" in refused(changed(pixels=packed))
    plain = Coding(EXPLICIT).element(0x7FE00010, "OW", bytes(48))
    assert "not compressed" in refused(changed(RLE, pixels=plain), RLE)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, JPEG])
def test_what_devices_do_and_readers_bear_is_let_through(syntax: str) -> None:
    coding = Coding(syntax)
    elements = parts(coding)
    odd = coding.element(0x00104000, "LT", "odd", pad=False)
    late = coding.element(0x00080050, "SH", "LATE")
    trailing = coding.element(0xFFFCFFFC, "OB", bytes(20))
    walked(b"".join([odd, *elements.values(), late, trailing]), syntax)


def test_a_vr_of_a_later_edition_has_the_long_form() -> None:
    later = struct.pack("<HH2sHI", 0x0008, 0x0050, b"ZZ", 0, 4) + b"\xff" * 4
    walked(changed(charset=later))


def test_a_sequence_of_unknown_vr_is_implicit_inside() -> None:
    implicit = Coding(IMPLICIT)
    item = implicit.open_item(implicit.element(0x00080050, "SH", "X"))
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    unknown = Coding().head(0x00091002, "UN", 0xFFFFFFFF) + item + end
    walked(changed(private=unknown))


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("no value representation", Coding(IMPLICIT).element(0x00080005, "CS", "ISO_IR 100")),
        ("no item is open", struct.pack("<HHI", 0xFFFE, 0xE00D, 0)),
        ("no item is open", struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)),
        ("item should begin", Coding().open_sequence(0x00081140, b"\x08\x00\x05\x00CS\x00\x00")),
        ("of VR OB has no length", Coding().head(0x00091002, "OB", 0xFFFFFFFF)),
        (
            "delimiter has a length",
            Coding().head(0x00081140, "SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 2),
        ),
    ],
)
def test_a_broken_element_is_named_with_its_place(fault: str, wrong: bytes) -> None:
    said = refused(changed(charset=wrong))
    assert fault in said
    assert "at byte" in said


def test_the_place_is_that_of_the_element_at_fault() -> None:
    elements = parts(Coding())
    before = b"".join(list(elements.values())[:8])
    elements["name"] = b"\x10\x00\x10\x00??\x00\x00"
    walk = DatasetWalk(EXPLICIT)
    with pytest.raises(MalformedError) as caught:
        walk.feed(b"".join(elements.values()))
    assert caught.value.offset == len(before)


def test_nesting_has_an_end() -> None:
    coding = Coding()
    content = b""
    for _ in range(walk.MAX_DEPTH):
        content = coding.open_sequence(0x00081140, coding.open_item(content))
    assert "nested deeper" in refused(changed(sequence=content))


@pytest.mark.feature("P02")
def test_a_deflated_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_INFLATED", 1 << 22)
    coding = Coding(DEFLATED)
    bomb = coding.finish(coding.element(0x00091001, "OB", bytes(1 << 24)))
    assert len(bomb) < 1 << 16
    assert "inflates to more than" in refused(bomb, DEFLATED)


def test_deflated_bytes_end_with_one_byte_of_padding_at_most() -> None:
    data = ct(DEFLATED)
    said = {refused(data + b"\x00\x00", DEFLATED), refused(data + b"PK", DEFLATED)}
    assert all("follow the deflated data set" in text for text in said)
    assert "damaged" in refused(b"\xff" * 40, DEFLATED)


def test_an_empty_data_set_has_no_uids() -> None:
    assert "missing" in refused(b"")


@pytest.mark.feature("P01")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("tag", [0x00000000, 0x00020010])
def test_a_data_set_begins_with_no_command_and_no_file_meta_information(
    syntax: str, tag: int
) -> None:
    coding = Coding(syntax)
    foreign = coding.element(tag, "UI", IMPLICIT)
    data = coding.finish(foreign + b"".join(parts(coding).values()))
    assert "group 0000 or 0002" in refused(data, syntax)
    # Read little endian, as file meta information is, it would be group 0002.
    assert "group 0000 or 0002" in refused(
        Coding(BIG).element(0x02001000, "UI", "1") + ct(BIG), BIG
    )

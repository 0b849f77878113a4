"""Files of results: deflated at rest, sent in the smallest syntax that was accepted."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from config.errors import MalformedError
from dicomnode.results.saliency import build_saliency
from dicomnode.results.write import SENDABLE, as_accepted, deflated, to_bytes
from storage.part10 import data_set_offset
from tests.unit.dicomnode.results.cases import cr_case, ct_case, with_saliency, written


def parts(case):
    return case.answer, case.volume, case.sources, case.provenance


DEFLATED, EXPLICIT, IMPLICIT = SENDABLE
CASES = {"ct": ct_case(shape=(4, 40, 52)), "cr": cr_case()}
FILES = {
    f"{name} {kind}": data for name, case in CASES.items() for kind, data in written(case).items()
}
SMALL = {
    "segmentation": written(ct_case(shape=(2, 4, 8)))["seg"],
    "heat map": to_bytes(build_saliency(*parts(with_saliency(cr_case())))),
}


def content_of(part10):
    # PS3.5 A.1: in Implicit VR pixel data of any depth counts as OW.
    return dcmread(BytesIO(part10)).to_json().replace('"vr": "OW"', '"vr": "OB"')


def syntax_of(part10):
    return dcmread(BytesIO(part10)).file_meta.TransferSyntaxUID


@pytest.mark.parametrize("name", FILES)
def test_a_deflated_file_holds_the_very_same_data_set(name):
    plain = FILES[name]
    packed = deflated(plain)
    assert syntax_of(packed) == DeflatedExplicitVRLittleEndian
    assert len(packed) % 2 == 0
    assert len(packed) < 0.6 * len(plain)
    assert dcmread(BytesIO(packed)) == dcmread(BytesIO(plain))
    assert as_accepted(packed, [ExplicitVRLittleEndian]) == plain
    assert deflated(plain) == packed


@pytest.mark.feature("P03")
@given(
    st.sampled_from(sorted(SMALL)),
    st.sets(st.sampled_from([*SENDABLE, JPEGBaseline8Bit])),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_what_is_sent_is_the_same_object_in_the_best_accepted_syntax(name, accepted, at_rest):
    plain = SMALL[name]
    stored = deflated(plain) if at_rest else plain
    usable = [syntax for syntax in SENDABLE if syntax in accepted]
    if not usable:
        with pytest.raises(ValueError, match="none of the accepted"):
            as_accepted(stored, accepted)
        return
    sent = as_accepted(stored, accepted)
    assert syntax_of(sent) == usable[0]
    assert content_of(sent) == content_of(plain)
    if usable[0] != ImplicitVRLittleEndian:
        assert as_accepted(sent, [ExplicitVRLittleEndian]) == plain


def test_a_file_in_a_syntax_of_its_own_is_sent_in_that_alone():
    compressed = dcmread(BytesIO(FILES["ct seg"]))
    compressed.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    compressed.PixelData = encapsulate([b"any bytes"])
    buffer = BytesIO()
    compressed.save_as(buffer)
    assert as_accepted(buffer.getvalue(), [JPEGBaseline8Bit, EXPLICIT]) == buffer.getvalue()
    with pytest.raises(ValueError, match="in that transfer syntax alone"):
        as_accepted(buffer.getvalue(), [EXPLICIT])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:131],
        lambda data: data[:150],
        lambda data: data[:-40],
        lambda data: data[: data_set_offset(data)] + b"\xff" + data[data_set_offset(data) + 1 :],
        lambda data: data.replace(b"DICM", b"DICN", 1),
    ],
)
def test_a_damaged_file_is_not_sent(damage):
    with pytest.raises(MalformedError):
        as_accepted(damage(deflated(FILES["ct seg"])), [EXPLICIT])


def test_only_what_is_not_yet_compressed_is_deflated():
    with pytest.raises(MalformedError, match="not in Explicit"):
        deflated(deflated(FILES["ct sr"]))

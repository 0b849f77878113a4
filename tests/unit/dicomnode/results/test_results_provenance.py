"""UIDs, words and bytes of results."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.document import new_result
from dicomnode.results.provenance import made_here, plain
from dicomnode.results.uids import result_uid
from dicomnode.results.write import to_bytes
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.unit.dicomnode.results.cases import bundle, ct_case, provenance, written


@pytest.mark.feature("P24")
@given(st.text(), st.text(), st.text(), st.text())
@settings(max_examples=100, deadline=None)
def test_uids_follow_identity_and_role_alone(one, role, other, other_role):
    uid = result_uid(one, role)
    assert uid == result_uid(one, role)
    assert len(uid) <= 44
    made = uuid.UUID(int=int(uid.removeprefix("2.25.")))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    if (one, role) != (other, other_role) and "\0" not in one + other:
        assert uid != result_uid(other, other_role)


@given(st.text(max_size=200), st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_own_words_fit_every_character_set_and_stay_within_their_limit(text, limit):
    said = plain(text, limit)
    assert said.isascii()
    assert len(said) <= limit
    assert "\\" not in said
    assert said.isprintable()


def test_a_time_without_zone_is_refused():
    with pytest.raises(ValueError, match="zone"):
        provenance(created=datetime(2026, 1, 1))


def test_the_zone_of_the_source_counts_for_the_result():
    case = ct_case()
    result = new_result(case.sources, case.provenance, "1.2", "sr", "x")
    assert result.TimezoneOffsetFromUTC == "+0200"
    assert (result.ContentDate, result.ContentTime) == ("20260102", "050405.000600")
    for source in case.sources:
        del source.TimezoneOffsetFromUTC
    result = new_result(case.sources, case.provenance, "1.2", "sr", "x")
    assert (result.TimezoneOffsetFromUTC, result.ContentTime) == ("+0000", "030405.000600")


@pytest.mark.parametrize("offset", ["+9900", "UTC", "-0060"])
def test_a_zone_that_cannot_be_is_not_taken_over(offset):
    case = ct_case()
    for source in case.sources:
        source.TimezoneOffsetFromUTC = offset
    assert new_result(case.sources, case.provenance, "1.2", "sr", "x").TimezoneOffsetFromUTC == (
        "+0000"
    )


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_sources_that_do_not_belong_together_are_refused(keyword):
    case = ct_case()
    setattr(case.sources[1], keyword, "1.2.3")
    with pytest.raises(ValueError, match=keyword):
        bundle(case)


@pytest.mark.feature("P24")
def test_the_same_analysis_gives_the_same_bytes():
    assert written(ct_case()) == written(ct_case())


@pytest.mark.feature("P24")
def test_another_job_shares_no_uid_of_its_own():
    def own(identity: str) -> set[str]:
        objects = bundle(replace(ct_case(), provenance=provenance(identity=identity))).values()
        return {uid for each in objects for uid in (each.SOPInstanceUID, each.SeriesInstanceUID)}

    assert len(own("a")) == 4
    assert not own("a") & own("b")


def test_a_changed_model_is_another_device():
    facts = provenance().model
    changed = provenance(model=replace(facts, digest="cd" * 32))
    assert provenance().device_uid != changed.device_uid


def test_own_objects_are_told_by_their_contributing_equipment():
    objects = bundle(ct_case())
    assert all(made_here(dataset) for dataset in objects.values())
    assert not any(made_here(source) for source in ct_case().sources)
    del objects["sr"].ContributingEquipmentSequence
    assert not made_here(objects["sr"])
    odd = Dataset()
    odd.add_new(0x0018A001, "LO", "not a sequence")
    assert not made_here(odd)


def test_files_carry_this_implementation_and_leave_the_data_set_alone(tmp_path):
    dataset = bundle(ct_case())["sr"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(to_bytes(dataset))
    read = dcmread(path)
    assert read.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert read.file_meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert to_bytes(read) == path.read_bytes()
    assert not hasattr(dataset, "file_meta")


def test_a_number_is_written_as_the_file_it_is_added_to_has_its_pixels(tmp_path):
    dataset = bundle(ct_case())["seg"]
    dataset.PixelRepresentation = 1  # whose values may be negative
    path = tmp_path / "seg.dcm"
    path.write_bytes(to_bytes(dataset))
    read = dcmread(path)
    read.SmallestImagePixelValue = -5
    path.write_bytes(to_bytes(read))
    assert dcmread(path).SmallestImagePixelValue == -5


def test_every_code_has_value_scheme_and_meaning_within_their_limits():
    table = [each for each in vars(codes).values() if isinstance(each, codes.Code)]
    table += [*codes.MODALITIES.values(), *codes.PROCEDURES.values()]
    assert len(table) > 40
    for code in table:
        assert 0 < len(code.value) <= 16
        assert 0 < len(code.scheme_designator) <= 16
        assert 0 < len(code.meaning) <= 64

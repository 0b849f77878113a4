"""The key object selection: which images it names, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom import dcmread

from ai.types import Answer
from dicomnode.frames import frame_headers
from dicomnode.results.keyobjects import build_key_objects
from dicomnode.results.provenance import WARNING
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def selection_of(case):
    written = to_bytes(build_key_objects(case.answer, case.sources, case.provenance))
    return dcmread(BytesIO(written))


def images(selection):
    return [
        item.ReferencedSOPSequence[0]
        for item in selection.ContentSequence
        if item.ValueType == "IMAGE"
    ]


@given(hnp.arrays(np.uint8, (4, 10, 13), elements=st.integers(0, 2)))
@settings(max_examples=100, deadline=None)
def test_every_segment_is_seen_on_an_image_it_names(labels):
    case = ct_case()
    case = replace(case, answer=replace(case.answer, labels=labels))
    if not labels.any():
        with pytest.raises(ValueError, match="no finding has a place"):
            selection_of(case)
        return
    selection = selection_of(case)
    uids = [image.ReferencedSOPInstanceUID for image in images(selection)]
    shown = [index for index, each in enumerate(case.sources) if each.SOPInstanceUID in uids]
    assert set(np.unique(labels[shown])) | {0} == set(np.unique(labels)) | {0}
    evidence = [
        image.ReferencedSOPInstanceUID
        for study in selection.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    ]
    assert sorted(evidence) == sorted(uids)


def test_it_is_titled_of_interest_and_warns():
    selection = selection_of(cr_case())
    title = selection.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113000", "DCM")
    assert selection.Modality == "KO"
    (text,) = (
        item.TextValue
        for item in selection.ContentSequence
        if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS"
    )
    assert text == f"{WARNING} Model ct-tissue 1.0.0 found: opacity."


def test_the_request_of_the_source_is_referred_to():
    (item,) = selection_of(ct_case()).ReferencedRequestSequence
    assert (item.RequestedProcedureID, item.AccessionNumber) == ("RP1", "A-77")


def test_a_frame_is_named_with_its_number():
    case = cr_case()
    case.sources[0].NumberOfFrames = 2
    selection = selection_of(replace(case, sources=frame_headers(case.sources[0])[1:]))
    assert [image.ReferencedFrameNumber for image in images(selection)] == [2]


def test_without_a_located_finding_there_is_nothing_to_select():
    with pytest.raises(ValueError, match="no finding has a place"):
        selection_of(replace(ct_case(), answer=Answer(())))

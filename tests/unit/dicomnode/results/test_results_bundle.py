"""Which objects a bundle gets, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicomnode.results.bundle import FORMS, Predecessor, Sources, asked_of, build_bundle, chain
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def sources(case) -> Sources:
    return Sources(case.answer, case.volume, case.sources, case.provenance)


def test_a_report_comes_after_the_segmentation_it_refers_to():
    made = build_bundle({"sr", "seg"}, sources(ct_case()))
    assert list(made) == ["seg", "sr"]
    evidence = made["sr"].CurrentRequestedProcedureEvidenceSequence[0]
    named = [
        entry.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for entry in series.ReferencedSOPSequence
    ]
    assert made["seg"].SOPInstanceUID in named


def test_what_cannot_be_made_and_what_nothing_is_known_of_is_left_out():
    assert "seg" not in build_bundle({"sr", "seg", "hologram"}, sources(cr_case()))


def test_a_report_names_the_report_before_it_and_no_image():
    before = [
        Predecessor(kind, "2.25.1", f"2.25.2{number}", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.3")
        for number, kind in enumerate(("seg", "sr"))
    ]
    made = build_bundle({"sr", "seg"}, replace(sources(ct_case()), predecessors=tuple(before)))
    (study,) = made["sr"].PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == "2.25.1"
    assert series.SeriesInstanceUID == "2.25.21"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.3"
    assert "PredecessorDocumentsSequence" not in made["seg"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sr", ("sr", "sr-comprehensive", "sr-basic")),
        ("labelmap", ("labelmap", "seg", "overlay")),
        ("fractional", ("fractional", "seg", "overlay")),
        ("pdf", ("pdf",)),
    ],
)
def test_chains_of_kinds(kind, expected):
    assert chain(kind) == expected


def test_a_model_whose_segments_overlap_is_asked_for_no_label_map():
    asked = ("sr", "labelmap", "seg", "fractional")
    assert asked_of(asked, overlap=True) == ("sr", "seg", "fractional")
    assert asked_of(asked, overlap=False) == asked
    assert asked_of(("labelmap",), overlap=True) == ("seg",)


def test_every_form_stands_under_its_own_name():
    assert all(form.kind == kind for kind, form in FORMS.items())

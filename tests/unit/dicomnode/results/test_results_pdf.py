"""The printed report: what its pages say, that they warn, and that they never change."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from ai.types import Answer, Confidence
from dicomnode.results.pages_check import words_on_pages
from dicomnode.results.pdf import build_encapsulated_pdf, build_pdf
from dicomnode.results.provenance import WARNING
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def pages_of(case):
    return build_pdf(case.answer, case.volume, case.sources, case.provenance)


@pytest.mark.feature("P19", "P20", "P21", "P23")
@given(
    st.lists(st.floats(0, 1) | st.none(), max_size=3),
    st.text("aä山Яא\\^= <b>&", max_size=40),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_pages_say_what_was_found_how_sure_it_is_and_warn_each_time(sure, name):
    case = cr_case()
    first = case.answer.findings[0]
    findings = tuple(
        replace(
            first,
            name=f"f{number}",
            confidence=Confidence(value, "model" if value is not None else "none: measurement"),
        )
        for number, value in enumerate(sure)
    )
    case.sources[0].add_new("PatientName", "UT", name)
    words, pages = words_on_pages(pages_of(replace(case, answer=Answer(findings))))
    assert words.count(WARNING) == pages >= 1
    model = case.provenance.model
    for said in (f"{model.name} {model.version}", model.digest, "CR, 1 image"):
        assert said in words
    for number, value in enumerate(sure):
        assert f"{number + 1}. f{number}: Lesion" in words
        assert ("none: measurement" if value is None else f"{100 * value:.1f} %") in words
    assert words.count("slice 1, rows 5 to 16, columns 4 to 21") == len(sure)
    assert words.count("195.5 {pixels}") == len(sure)


def test_the_pages_are_the_same_bytes_each_time():
    assert pages_of(ct_case()) == pages_of(ct_case())


@pytest.mark.parametrize(
    ("name", "shown", "changed"),
    [
        ("Prüfling^Å", None, False),
        ("Yamada^Tarou=山田^太郎", "Yamada Tarou = ShanTian TaiLang", True),
        ("Иванов^Пётр", "Ivanov Petr", True),
        ("<b>x^&amp;", "<b>x &amp;", False),
    ],
)
def test_names_are_shown_or_said_in_latin_letters_and_that_is_told(name, shown, changed):
    case = ct_case()
    case.sources[0].SpecificCharacterSet = "ISO_IR 192"
    case.sources[0].PatientName = name
    words, _ = words_on_pages(pages_of(case))
    assert shown is None or shown.replace(" ", "") in words.replace(" ", "")
    assert ("written in Latin letters" in words) == changed


def test_an_entry_longer_than_a_page_is_cut_and_does_not_stop_the_report():
    case = ct_case()
    case.sources[0].add_new("StudyDescription", "UT", "long " * 10000)
    words, pages = words_on_pages(pages_of(case))
    assert words.count(WARNING) == pages <= 4


def test_what_has_no_place_says_why():
    words, _ = words_on_pages(pages_of(ct_case()))
    assert "none: its segment is empty" in words
    words, _ = words_on_pages(pages_of(cr_case()))
    assert "the images as a whole" in words
    words, _ = words_on_pages(pages_of(replace(ct_case(), answer=Answer(()))))
    assert "excludes nothing" in words


def test_the_object_around_the_pages_names_them_unverified_and_its_sources():
    case = ct_case()
    written = to_bytes(
        build_encapsulated_pdf(case.answer, case.volume, case.sources, case.provenance)
    )
    found = dcmread(BytesIO(written))
    assert found.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert found.VerificationFlag == "UNVERIFIED"
    assert found.BurnedInAnnotation == "YES"
    assert found.Modality == "DOC"
    document = found.EncapsulatedDocument[: found.EncapsulatedDocumentLength]
    assert document == pages_of(case)
    assert [each.ReferencedSOPInstanceUID for each in found.SourceInstanceSequence] == [
        source.SOPInstanceUID for source in case.sources
    ]

"""The report as JSON and as FHIR: the same findings, in the formats' own terms."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft6Validator

from ai.types import Answer, Code, Confidence, Evaluation, Finding, Measurement, Region
from config.errors import MalformedError
from dicomnode.results.assessment import extent_of, severity_of, summarize
from dicomnode.results.fhir import build_fhir
from dicomnode.results.json_report import build_json_report, findings_of
from dicomnode.results.provenance import WARNING
from tests.unit.dicomnode.results.cases import cr_case, ct_case

shown = st.text('aZ9é山"<&', min_size=1, max_size=6)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
codes = st.sampled_from(
    [
        Code("52988006", "SCT", "Lesion"),
        Code("111050", "DCM", "Image quality assessment"),
        Code("RID3874", "RADLEX", "Nodule"),
        Code("mL", "UCUM", "mL"),
        Code("X1", "99OWN", "Eigenes – ©"),
    ]
)
confidences = st.one_of(
    st.builds(Confidence, st.floats(0, 1), st.just("model")),
    st.sampled_from([Confidence(None, f"none: {why}") for why in ("rule-based", "measurement")]),
)
regions = st.builds(
    Region,
    slice_index=st.integers(0, 3),
    points=st.lists(
        st.tuples(st.floats(0, 12, width=32), st.floats(0, 9, width=32)), min_size=3, max_size=6
    ).map(np.array),
)
findings = st.lists(
    st.builds(
        Finding,
        name=shown,
        category=codes,
        type=codes,
        description=shown,
        confidence=confidences,
        region=st.none() | regions,
        measurements=st.lists(
            st.builds(Measurement, codes, numbers, codes, st.none() | codes), max_size=2
        ).map(tuple),
        evaluations=st.lists(st.builds(Evaluation, codes, codes, confidences), max_size=2).map(
            tuple
        ),
        site=st.none() | codes,
        laterality=st.none() | codes,
        severity=st.floats(0, 1),
        needs_review=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda finding: finding.name,
)


SCHEMA = Path(__file__).parents[3] / "schemas" / "fhir-r4.json"
R4 = Draft6Validator(json.loads(SCHEMA.read_text()))


def plainly(finding):
    region = None if finding.region is None else finding.region.points.tolist()
    return asdict(replace(finding, region=None)) | {"points": region}


def exported(case):
    parts = (case.answer, case.sources, case.provenance)
    return json.loads(build_fhir(*parts, {})), build_json_report(*parts)


@pytest.mark.feature("P19", "P20", "P21", "P23")
@given(findings)
@settings(max_examples=100, deadline=None)
def test_the_json_report_parses_back_to_the_same_findings(found):
    case = replace(ct_case(), answer=Answer(tuple(found)))
    report = build_json_report(case.answer, case.sources, case.provenance)
    back = findings_of(report)
    assert [plainly(each) for each in back] == [plainly(each) for each in found]
    said = json.loads(report)
    assert said["warning"] == WARNING
    assert said["verification"] == "UNVERIFIED"
    assert said["modality"] == "CT"
    model = case.provenance.model
    assert (said["model"]["name"], said["model"]["version"], said["model"]["digest"]) == (
        model.name,
        model.version,
        model.digest,
    )


@pytest.mark.feature("P19", "P20", "P21", "P23")
@given(findings)
@settings(max_examples=100, deadline=None)
def test_the_fhir_bundle_is_valid_and_holds_every_finding(found):
    case = replace(ct_case(), answer=Answer(tuple(found)))
    bundle, _ = exported(case)
    Bundle.model_validate(bundle)
    assert list(R4.iter_errors(bundle)) == []
    resources = [entry["resource"] for entry in bundle["entry"]]
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(known) == len(resources)
    assert set(references(bundle)) <= known
    observations = [each for each in resources if each["resourceType"] == "Observation"]
    assert [each["valueCodeableConcept"]["text"] for each in observations] == [
        finding.name for finding in found
    ]
    for observation, finding in zip(observations, found, strict=True):
        assert observation["status"] == "preliminary"
        assert {"text": WARNING} in observation["note"]
        assert_confidence(observation, finding.confidence)
        quantities = [each for each in observation["component"] if "valueQuantity" in each]
        sure = finding.confidence.value is not None
        assert len(quantities) == len(finding.measurements) + sure
    report = next(each for each in resources if each["resourceType"] == "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert WARNING in report["conclusion"]
    device = next(each for each in resources if each["resourceType"] == "Device")
    versions = [each["value"] for each in device["version"]]
    assert {case.provenance.model.version, case.provenance.model.digest} <= set(versions)


def assert_confidence(observation, confidence):
    (component,) = (
        each
        for each in observation["component"]
        if each["code"].get("coding", [{}])[0].get("code") == "111012"
    )
    if confidence.value is None:
        assert component["dataAbsentReason"]["text"] == confidence.basis
    else:
        assert component["valueQuantity"]["value"] == pytest.approx(100 * confidence.value)


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("reference"), str):
            yield node["reference"]
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from references(each)


@pytest.mark.feature("P22")
@given(findings, findings)
@settings(max_examples=100, deadline=None)
def test_two_reports_of_one_model_have_the_same_structure(one, other):
    def structure(found):
        case = replace(ct_case(), answer=Answer(tuple(found)))
        bundle, report = exported(case)
        said = json.loads(report)
        kinds = {each["resource"]["resourceType"] for each in bundle["entry"]} - {"Observation"}
        return kinds, list(said), [list(each) for each in said["findings"][:1]] or None

    first, second = structure(one), structure(other)
    assert first[:2] == second[:2]
    if one and other:
        assert first[2] == second[2]


def test_codes_carry_their_systems_and_units_are_ucum():
    bundle, _ = exported(ct_case())
    fat = next(
        entry["resource"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Observation"
    )
    assert fat["valueCodeableConcept"]["coding"] == [
        {"system": "http://snomed.info/sct", "code": "55603005", "display": "Adipose tissue"}
    ]
    (volume,) = (each for each in fat["component"] if "valueQuantity" in each)
    assert volume["valueQuantity"]["system"] == "http://unitsofmeasure.org"
    assert volume["valueQuantity"]["code"] == "mL"


def test_the_study_lists_each_object_once_and_what_was_made_of_it():
    case = ct_case()
    made = build_fhir(
        case.answer, case.sources, case.provenance, {"x": replace_uids(case.sources[0])}
    )
    study = next(
        entry["resource"]
        for entry in json.loads(made)["entry"]
        if entry["resource"]["resourceType"] == "ImagingStudy"
    )
    assert study["numberOfSeries"] == 2
    assert study["numberOfInstances"] == 5
    assert study["identifier"][0]["value"] == f"urn:oid:{case.sources[0].StudyInstanceUID}"
    assert study["started"] == "2026-01-01"


def replace_uids(source):
    other = deepcopy(source)
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.3", "1.2.3.4"
    return other


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("Prüfling^Å", [{"family": "Prüfling", "given": ["Å"]}]),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            [
                {"family": "Yamada", "given": ["Tarou"]},
                {"family": "山田", "given": ["太郎"]},
                {"family": "やまだ", "given": ["たろう"]},
            ],
        ),
        ("A^B^C^Dr^Jr", [{"family": "A", "given": ["B", "C"], "prefix": ["Dr"], "suffix": ["Jr"]}]),
        ("^^^", None),
        ("", None),
        ("\ud800x", [{"family": "x"}]),
    ],
)
def test_names_of_patients_survive(written, names):
    case = ct_case()
    for source in case.sources:
        source.add_new("PatientName", "LO", written)
    bundle, report = exported(case)
    patient = next(
        entry["resource"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Patient"
    )
    assert patient.get("name") == names
    assert len(json.loads(report)["patient"]["names"]) == len(names or [])


@pytest.mark.parametrize(("born", "said"), [("19600229", "1960-02-29"), ("19610229", None)])
def test_a_date_that_is_none_is_left_out(born, said):
    case = ct_case()
    case.sources[0].PatientBirthDate = born
    bundle, _ = exported(case)
    patient = next(
        entry["resource"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Patient"
    )
    assert patient.get("birthDate") == said


@pytest.mark.parametrize(
    "report", [b"", b"{}", b"[]", b'{"format": "medai-report/9", "findings": []}', b"\xff" * 9]
)
def test_what_is_no_report_is_refused(report):
    with pytest.raises(MalformedError):
        findings_of(report)


def test_the_overall_severity_is_that_of_the_gravest_finding():
    case = cr_case()
    grave = tuple(replace(each, severity=0.9) for each in case.answer.findings[1:])
    answer = replace(case.answer, findings=case.answer.findings[:1] + grave)
    summary = summarize(answer, case.provenance)
    assert summary.severity == "high"
    assert [severity_of(each) for each in answer.findings] == ["medium", "high"]
    assert "2 findings, 1 of them located" in summary.overall
    assert summary.recommendations[0].startswith("Look at opacity")
    assert "excludes nothing" in summarize(Answer(()), case.provenance).recommendations[0]


def test_extents_are_those_of_the_phantom():
    case = ct_case()
    extents = [extent_of(case.answer, each) for each in case.answer.findings]
    assert str(extents[0]) == "slices 1 to 3, rows 2 to 5, columns 2 to 8"
    assert str(extents[1]) == "slice 4, rows 6 to 9, column 12"
    assert extents[2] is None
    film = cr_case().answer
    assert str(extent_of(film, film.findings[0])) == "slice 1, rows 5 to 16, columns 4 to 21"


def test_the_schema_refuses_what_r4_does_not_have():
    bundle, _ = exported(ct_case())
    assert list(R4.iter_errors(bundle)) == []
    bundle["entry"][0]["resource"]["invented"] = "x"
    assert list(R4.iter_errors(bundle)) != []

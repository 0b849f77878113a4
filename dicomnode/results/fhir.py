"""Findings as a FHIR R4 (4.0.1) Bundle: report, observations, study and device.

The bundle is whole in itself: its resources refer to each other by ``urn:uuid`` names that derive
from the job, so the same job gives the same bytes. Everything is ``preliminary``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as ConceptCode

from ai.types import Answer, Code, Confidence, Evaluation, Finding, Measurement
from dicomnode.results import codes
from dicomnode.results.assessment import extent_of, severity_of, summarize
from dicomnode.results.provenance import WARNING, Provenance
from dicomnode.results.subject import date_of, patient_names, stated

Resource = dict[str, Any]
_Coded = Code | ConceptCode

# HL7 Terminology: coding scheme designators of PS3.16 Table 8-1 and their FHIR code systems.
_SYSTEMS: Final = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://www.radlex.org",
    "UMLS": "http://www.nlm.nih.gov/research/umls",
    "NCIt": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
}
_GENDERS: Final = {"M": "male", "F": "female", "O": "other"}
_DICOM_UID: Final = "urn:dicom:uid"
_URI: Final = "urn:ietf:rfc:3986"
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"


def build_fhir(
    answer: Answer,
    sources: Sequence[Dataset],
    provenance: Provenance,
    built: Mapping[str, Dataset],
) -> bytes:
    """A Bundle of type ``collection`` as UTF-8 JSON.

    Args:
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.
        built: The DICOM objects of the same bundle, listed with the study.
    """
    names = _Names(provenance)
    source = sources[0]
    observations = [
        (names.of(f"observation/{finding.name}"), _observation(answer, finding, provenance, names))
        for finding in answer.findings
    ]
    resources = [
        (
            names.report,
            _report(answer, source, provenance, names, [url for url, _ in observations]),
        ),
        *observations,
        (names.patient, _patient(source)),
        (names.study, _study((*sources, *provenance.others), built, names)),
        (names.device, _device(provenance)),
    ]
    bundle = {
        "resourceType": "Bundle",
        "identifier": {"system": _DICOM_UID, "value": _oid(provenance.uid("fhir/instance"))},
        "type": "collection",
        "timestamp": _instant(provenance),
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in resources],
    }
    text = json.dumps(bundle, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode() + b"\n"


class _Names:
    """The ``urn:uuid`` names of the resources of one bundle."""

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self.report, self.patient = self.of("report"), self.of("patient")
        self.study, self.device = self.of("study"), self.of("device")

    def of(self, role: str) -> str:
        number = int(self._provenance.uid(f"fhir/{role}").removeprefix("2.25."))
        return uuid.UUID(int=number).urn


def _report(
    answer: Answer,
    source: Dataset,
    provenance: Provenance,
    names: _Names,
    observations: Sequence[str],
) -> Resource:
    summary = summarize(answer, provenance)
    procedure = codes.PROCEDURES.get(stated(source, "Modality"), codes.IMAGING_PROCEDURE)
    sentences = [summary.overall, *summary.recommendations, WARNING]
    return {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": _DICOM_UID, "value": _oid(provenance.uid("fhir/report"))}],
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{_TERMINOLOGY}/v2-0074", "code": "RAD"}]}],
        "code": _concept(procedure),
        "subject": {"reference": names.patient},
        **_when(source),
        "issued": _instant(provenance),
        **({"result": [{"reference": each} for each in observations]} if observations else {}),
        "imagingStudy": [{"reference": names.study}],
        "conclusion": " ".join(sentences),
    }


def _observation(
    answer: Answer, finding: Finding, provenance: Provenance, names: _Names
) -> Resource:
    side = [] if finding.laterality is None else _concept(finding.laterality)["coding"]
    site = {} if finding.site is None else {"bodySite": _concept(finding.site)}
    if side and site:
        site["bodySite"]["coding"] += side
    return {
        "resourceType": "Observation",
        "identifier": [
            {"system": _DICOM_UID, "value": _oid(provenance.uid(f"tracking/{finding.name}"))}
        ],
        "status": "preliminary",
        "category": [
            {"coding": [{"system": f"{_TERMINOLOGY}/observation-category", "code": "imaging"}]}
        ],
        "code": _concept(codes.FINDING),
        "subject": {"reference": names.patient},
        "issued": _instant(provenance),
        "valueCodeableConcept": {**_concept(finding.type), "text": finding.name},
        "note": [{"text": finding.description}, {"text": WARNING}],
        **site,
        "device": {"reference": names.device},
        "derivedFrom": [{"reference": names.study}],
        "component": list(_components(answer, finding)),
    }


def _components(answer: Answer, finding: Finding) -> Iterator[Resource]:
    yield {
        "code": _concept(codes.FINDING_CATEGORY),
        "valueCodeableConcept": _concept(finding.category),
    }
    yield _certainty(finding.confidence)
    yield {"code": {"text": "Severity"}, "valueString": severity_of(finding)}
    if finding.needs_review:
        yield {"code": {"text": "Needs review"}, "valueBoolean": True}
    extent = extent_of(answer, finding)
    if extent is not None:
        yield {"code": _concept(codes.IMAGE_REGION), "valueString": str(extent)}
    yield from (_measurement(each) for each in finding.measurements)
    yield from (_evaluation(each) for each in finding.evaluations)


def _certainty(confidence: Confidence) -> Resource:
    component: Resource = {"code": _concept(codes.CERTAINTY_OF_FINDING)}
    if confidence.value is None:
        reason = {"system": f"{_TERMINOLOGY}/data-absent-reason", "code": "not-applicable"}
        return component | {"dataAbsentReason": {"coding": [reason], "text": confidence.basis}}
    return component | {"valueQuantity": _quantity(100 * confidence.value, codes.PERCENT)}


def _measurement(measurement: Measurement) -> Resource:
    concept = _concept(measurement.name)
    if measurement.derivation is not None:
        concept["text"] = f"{measurement.name.meaning}, {measurement.derivation.meaning}"
    return {"code": concept, "valueQuantity": _quantity(measurement.value, measurement.unit)}


def _evaluation(evaluation: Evaluation) -> Resource:
    sure = evaluation.confidence
    said = sure.basis if sure.value is None else f"confidence {100 * sure.value:.1f} %"
    return {
        "code": _concept(evaluation.name),
        "valueCodeableConcept": {
            **_concept(evaluation.value),
            "text": f"{evaluation.value.meaning} ({said})",
        },
    }


def _quantity(value: float, unit: _Coded) -> Resource:
    code, system, meaning = _parts(unit)
    known = {"system": _SYSTEMS[system], "code": code} if system in _SYSTEMS else {}
    # A decimal of JSON; the numbers of a model carry no more than this.
    return {"value": float(f"{value:.10g}"), "unit": meaning, **known}


def _concept(code: _Coded) -> Resource:
    value, scheme, meaning = _parts(code)
    known = {"system": _SYSTEMS[scheme]} if scheme in _SYSTEMS else {}
    return {"coding": [{**known, "code": value, "display": meaning}]}


def _parts(code: _Coded) -> tuple[str, str, str]:
    scheme = code.scheme if isinstance(code, Code) else code.scheme_designator
    return code.value, scheme, code.meaning


def _patient(source: Dataset) -> Resource:
    resource: Resource = {"resourceType": "Patient"}
    if number := stated(source, "PatientID"):
        resource["identifier"] = [{"value": number}]
        if issuer := stated(source, "IssuerOfPatientID"):
            resource["identifier"][0]["assigner"] = {"display": issuer}
    if names := [_human_name(group) for group in patient_names(source)]:
        resource["name"] = names
    resource["gender"] = _GENDERS.get(stated(source, "PatientSex"), "unknown")
    if born := date_of(source, "PatientBirthDate"):
        resource["birthDate"] = born
    return resource


def _human_name(group: str) -> Resource:
    # PS3.5 6.2.1.1: family, given, middle, prefix, suffix.
    family, given, middle, prefix, suffix = ([*map(str.strip, group.split("^")), *[""] * 5])[:5]
    parts = {
        "family": family,
        "given": [each for each in (given, middle) if each],
        "prefix": [prefix] if prefix else [],
        "suffix": [suffix] if suffix else [],
    }
    return {key: value for key, value in parts.items() if value}


def _study(sources: Sequence[Dataset], built: Mapping[str, Dataset], names: _Names) -> Resource:
    source = sources[0]
    series: dict[str, dict[str, Dataset]] = {}
    of_study = (each for each in sources if each.StudyInstanceUID == source.StudyInstanceUID)
    for each in (*of_study, *built.values()):
        members = series.setdefault(stated(each, "SeriesInstanceUID"), {})
        members.setdefault(stated(each, "SOPInstanceUID"), each)
    resource: Resource = {
        "resourceType": "ImagingStudy",
        "identifier": [
            {"system": _DICOM_UID, "value": _oid(stated(source, "StudyInstanceUID"))},
            *_accession(source),
        ],
        "status": "available",
        "subject": {"reference": names.patient},
        "numberOfSeries": len(series),
        "numberOfInstances": sum(map(len, series.values())),
        "series": [_series(uid, list(members.values())) for uid, members in series.items()],
    }
    if started := date_of(source, "StudyDate"):
        resource["started"] = started
    if description := stated(source, "StudyDescription"):
        resource["description"] = description
    return resource


def _accession(source: Dataset) -> list[Resource]:
    number = stated(source, "AccessionNumber")
    kind = {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "ACSN"}]}
    return [{"type": kind, "value": number}] if number else []


def _series(uid: str, members: Sequence[Dataset]) -> Resource:
    return {
        "uid": uid,
        "modality": {"system": _SYSTEMS["DCM"], "code": stated(members[0], "Modality") or "OT"},
        "numberOfInstances": len(members),
        "instance": [
            {
                "uid": stated(each, "SOPInstanceUID"),
                "sopClass": {"system": _URI, "code": _oid(stated(each, "SOPClassUID"))},
            }
            for each in members
        ],
    }


def _device(provenance: Provenance) -> Resource:
    model = provenance.model
    return {
        "resourceType": "Device",
        "identifier": [{"system": _DICOM_UID, "value": _oid(provenance.device_uid)}],
        "status": "active",
        "manufacturer": model.vendor,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [
            {"type": {"text": "version of the model"}, "value": model.version},
            {"type": {"text": "SHA-256 of the model"}, "value": model.digest},
            {"type": {"text": "version of the node"}, "value": provenance.software_version},
        ],
        "note": [{"text": model.description}, {"text": f"Intended use: {model.intended_use}"}],
    }


def _when(source: Dataset) -> Resource:
    day = date_of(source, "StudyDate")
    return {"effectiveDateTime": day} if day else {}


def _instant(provenance: Provenance) -> str:
    return provenance.created.isoformat(timespec="milliseconds")


def _oid(uid: str) -> str:
    return f"urn:oid:{uid}"

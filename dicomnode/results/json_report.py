"""The node's own report: everything a model said, as JSON that parses back to the same findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from ai.types import Answer, Code, Confidence, Evaluation, Finding, Measurement, Region
from config.errors import MalformedError
from dicomnode.frames import frame_number
from dicomnode.results.assessment import extent_of, severity_of, summarize
from dicomnode.results.provenance import WARNING, Provenance
from dicomnode.results.subject import date_of, patient_names, stated

FORMAT: Final = "medai-report/1"
"""Name and version of the format; raised when a reader of the old one could misread the new."""


def build_json_report(answer: Answer, sources: Sequence[Dataset], provenance: Provenance) -> bytes:
    """A report as UTF-8 JSON, the same bytes for the same input.

    Args:
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.
    """
    source, summary = sources[0], summarize(answer, provenance)
    content = {
        "format": FORMAT,
        "warning": WARNING,
        "verification": "UNVERIFIED",
        "uid": provenance.uid("json/instance"),
        "created": provenance.created.isoformat(),
        "patient": {
            "id": stated(source, "PatientID"),
            "names": list(patient_names(source)),
            "birth_date": date_of(source, "PatientBirthDate"),
            "sex": stated(source, "PatientSex"),
        },
        "study": {
            "uid": stated(source, "StudyInstanceUID"),
            "date": date_of(source, "StudyDate"),
            "description": stated(source, "StudyDescription"),
            "accession_number": stated(source, "AccessionNumber"),
        },
        "modality": stated(source, "Modality"),
        "images": [
            {
                "series_uid": stated(each, "SeriesInstanceUID"),
                "sop_class_uid": stated(each, "SOPClassUID"),
                "sop_instance_uid": stated(each, "SOPInstanceUID"),
                "frame": frame_number(each),
            }
            for each in sources
        ],
        "model": asdict(provenance.model) | {"device_uid": provenance.device_uid},
        "node": {
            "uid": provenance.node_uid,
            "ae_title": provenance.ae_title,
            "version": provenance.software_version,
        },
        "provider": answer.provider,
        "findings": [_finding(answer, finding) for finding in answer.findings],
        "severity": summary.severity,
        "overall": summary.overall,
        "recommendations": list(summary.recommendations),
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=_plain, indent=1)
    return text.encode() + b"\n"


def _finding(answer: Answer, finding: Finding) -> dict[str, Any]:
    extent = extent_of(answer, finding)
    return asdict(finding) | {
        "severity_said": severity_of(finding),
        "extent": None if extent is None else asdict(extent),
    }


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON")


def findings_of(report: bytes) -> tuple[Finding, ...]:
    """The findings of a report as the model gave them.

    Args:
        report: What `build_json_report` wrote.

    Raises:
        MalformedError: It is no report of this format.
    """
    try:
        content = json.loads(report)
        if content["format"] != FORMAT:
            raise MalformedError(f"the report is not of the format {FORMAT}")
        return tuple(_parsed(entry) for entry in content["findings"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise MalformedError("the report cannot be read as one of this node") from error


def _parsed(entry: dict[str, Any]) -> Finding:
    values = {key: entry[key] for key in Finding.__dataclass_fields__}
    for key, parse in _PARSERS.items():
        if values[key] is not None:
            values[key] = parse(values[key])
    return Finding(**values)


def _code(entry: dict[str, Any]) -> Code:
    return Code(**entry)


def _region(entry: dict[str, Any]) -> Region:
    return Region(int(entry["slice_index"]), np.array(entry["points"], np.float64))


def _measurement(entry: dict[str, Any]) -> Measurement:
    derivation = entry["derivation"]
    return Measurement(
        _code(entry["name"]),
        entry["value"],
        _code(entry["unit"]),
        None if derivation is None else _code(derivation),
    )


def _evaluation(entry: dict[str, Any]) -> Evaluation:
    return Evaluation(
        _code(entry["name"]), _code(entry["value"]), Confidence(**entry["confidence"])
    )


_PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    "category": _code,
    "type": _code,
    "site": _code,
    "laterality": _code,
    "confidence": lambda entry: Confidence(**entry),
    "region": _region,
    "measurements": lambda entries: tuple(_measurement(each) for each in entries),
    "evaluations": lambda entries: tuple(_evaluation(each) for each in entries),
}

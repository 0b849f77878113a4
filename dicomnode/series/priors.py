"""Whose study it is, when it was, and which others are earlier ones of the same patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.series.headers import text
from dicomnode.series.unit import UnitExplanation

_DATE = re.compile(r"[0-9]{8}")
_TIME = re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2})?)?")

Entries = Sequence[UnitExplanation]


def patient_of(header: Dataset) -> tuple[str, str] | None:
    """Patient ID and its issuer (PS3.3 C.7.1.1); None where there is no ID or it is unreadable."""
    try:
        patient_id = text(header, "PatientID")
        return (patient_id, text(header, "IssuerOfPatientID")) if patient_id else None
    except MalformedError:
        return None


def moment_of(header: Dataset) -> str:
    """Study Date and Time as ``YYYYMMDDHHMMSS``, empty where the date is none."""
    try:
        date, time = text(header, "StudyDate"), text(header, "StudyTime")
    except MalformedError:
        return ""
    found = _TIME.match(time)
    return date + (found[0] if found else "").ljust(6, "0") if _DATE.fullmatch(date) else ""


def contradiction(current: Dataset, earlier: Dataset) -> str | None:
    """What says that two studies are of different persons, or None."""
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"):
        try:
            said = {text(header, keyword) for header in (current, earlier)} - {""}
        except MalformedError:
            said = set()
        if len(said) > 1:
            return f"its patient has another {keyword}"
    return None


def earlier_among(studies: Mapping[str, Entries], study_instance_uid: str) -> Iterable[Entries]:
    """The earlier studies of the same patient, the newest first.

    Args:
        studies: Every unit of each study, by Study Instance UID.
        study_instance_uid: One of them.
    """
    first = studies[study_instance_uid][0].unit.headers[0]
    patient, moment = patient_of(first), moment_of(first)
    if patient is None or not moment:
        return []
    found = []
    for uid, entries in studies.items():
        header = entries[0].unit.headers[0]
        if uid != study_instance_uid and patient_of(header) == patient:
            found.append((moment_of(header), uid, entries))
    before = [each for each in found if each[0] and each[0] < moment]
    return [entries for _, _, entries in sorted(before, key=lambda each: each[:2], reverse=True)]

"""Reports of others on results of the node, as they come back; all of it invented."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydicom.dataset import Dataset

from tests import factories

# PS3.16 CID 3217: agreement and disagreement with prior findings.
AGREE, DISAGREE = ("122775", "DCM"), ("122776", "DCM")


def code(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "said"
    return item


def said(verdict: tuple[str, str]) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "CODE"
    item.ConceptNameCodeSequence = [code("121071", "DCM")]
    item.ConceptCodeSequence = [code(*verdict)]
    return item


def group(tracking_uid: str, *verdicts: tuple[str, str]) -> Dataset:
    made, uid = Dataset(), Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", "CONTAINER"
    made.ConceptNameCodeSequence = [code("125007", "DCM")]
    uid.RelationshipType, uid.ValueType, uid.UID = "HAS OBS CONTEXT", "UIDREF", tracking_uid
    uid.ConceptNameCodeSequence = [code("112040", "DCM")]
    made.ContentSequence = [uid, *map(said, verdicts)]
    return made


def evidence(*objects: Dataset) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = objects[0].StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for each in objects:
        series, entry = Dataset(), Dataset()
        series.SeriesInstanceUID = each.SeriesInstanceUID
        entry.ReferencedSOPClassUID = each.SOPClassUID
        entry.ReferencedSOPInstanceUID = each.SOPInstanceUID
        series.ReferencedSOPSequence = [entry]
        study.ReferencedSeriesSequence.append(series)
    return study


_SEEDS = itertools.count(5)


def assessment(about: Sequence[Dataset], *content: Dataset) -> Dataset:
    """A report of somebody else on our results."""
    made = factories.structured_report(seed=next(_SEEDS))
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(made, keyword, getattr(about[0], keyword))
    made.CurrentRequestedProcedureEvidenceSequence = [evidence(*about)]
    made.ContentSequence = [*made.ContentSequence, *content]
    return made

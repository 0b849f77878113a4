"""The rejection note that withdraws results, and what a received one says (IHE RAD, IOCM).

A key object selection document (PS3.3 A.35.4, PS3.16 TID 2010) whose title says that what it lists
is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicomnode.results.content import code_of, items_of
from dicomnode.results.document import INHERITED, TYPE_2, reference, referenced_series
from dicomnode.results.provenance import WARNING, code_item, plain
from dicomnode.results.uids import result_uid


@dataclass(frozen=True)
class Rejection:
    """What the title of a rejection note means for the node.

    Attributes:
        meaning: Code meaning, PS3.16 CID 7010.
        takes_back: What it names is wrong, so that nothing may be made of it; not so where a
            time of keeping has passed.
    """

    meaning: str
    takes_back: bool


REJECTIONS: Final[Mapping[str, Rejection]] = {
    "113001": Rejection("Rejected for Quality Reasons", True),
    "113037": Rejection("Rejected for Patient Safety Reasons", True),
    "113038": Rejection("Incorrect Modality Worklist Entry", True),
    "113039": Rejection("Data Retention Policy Expired", False),
}

_EQUIPMENT: Final = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "ContributingEquipmentSequence",
)
_SERIES_NUMBER: Final = 9090  # beside those of the results


def build_withdrawal(
    results: Sequence[Dataset], identity: str, code: str, moment: datetime
) -> Dataset:
    """The note that withdraws the bundle of one job.

    Args:
        results: Headers of what was sent of it, one or more.
        identity: The job's; the note's UIDs derive from it.
        code: The title, a key of `REJECTIONS`.
        moment: When it is withdrawn, with its zone.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.
    """
    first = results[0]
    note = Dataset()
    for keyword in ("SpecificCharacterSet", *INHERITED, *_EQUIPMENT):
        if keyword in first:
            note[keyword] = deepcopy(first[keyword])
        elif keyword in TYPE_2:
            setattr(note, keyword, "")
    note.SOPClassUID = KeyObjectSelectionDocumentStorage
    note.SOPInstanceUID = result_uid(identity, "withdrawal/instance")
    note.Modality = "KO"
    note.SeriesInstanceUID = result_uid(identity, "withdrawal/series")
    note.SeriesNumber = _SERIES_NUMBER
    note.SeriesDescription = "Withdrawn results"
    note.InstanceNumber = 1
    note.TimezoneOffsetFromUTC = moment.strftime("%z")
    note.ContentDate = moment.strftime("%Y%m%d")
    note.ContentTime = moment.strftime("%H%M%S")
    note.ReferencedPerformedProcedureStepSequence = []
    study = Dataset()
    study.StudyInstanceUID = first.StudyInstanceUID
    study.ReferencedSeriesSequence = referenced_series(results, "ReferencedSOPSequence")
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "2010"
    note.ContentTemplateSequence = [template]
    note.ValueType = "CONTAINER"
    note.ContinuityOfContent = "SEPARATE"
    note.ConceptNameCodeSequence = [code_item(Code(code, "DCM", REJECTIONS[code].meaning))]
    note.ContentSequence = [_description(), *map(_named, results)]
    return note


def _description() -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [code_item(Code("113012", "DCM", "Key Object Description"))]
    item.TextValue = plain(
        "These results are withdrawn: the images they were made of were corrected, completed or "
        f"rejected. Newer results, where there are any, stand in their place. {WARNING}"
    )
    return item


def _named(result: Dataset) -> Dataset:
    # TID 2010 rows 8 to 10 give what is referred to no concept name.
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "IMAGE" if "Rows" in result else "COMPOSITE"
    item.ReferencedSOPSequence = [reference(result)]
    return item


def rejected_by(header: Dataset) -> tuple[str, frozenset[tuple[str, str]]] | None:
    """What a received object rejects.

    Args:
        header: Of any object, as a peer sent it.

    Returns:
        The title's code and (study, SOP instance) UIDs; None where it is no rejection note.
    """
    if str(header.get("SOPClassUID", "")) != KeyObjectSelectionDocumentStorage:
        return None
    title = code_of(header, "ConceptNameCodeSequence")
    if title is None or title[1] != "DCM" or title[0] not in REJECTIONS:
        return None
    named = frozenset(
        (str(study.get("StudyInstanceUID", "")), str(entry.get("ReferencedSOPInstanceUID", "")))
        for study in items_of(header, "CurrentRequestedProcedureEvidenceSequence")
        for series in items_of(study, "ReferencedSeriesSequence")
        for entry in items_of(series, "ReferencedSOPSequence")
    )
    return title[0], named

"""What every result has: patient and study of the source, own series, equipment and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.frames import frame_number
from dicomnode.lossy import is_lossy, lossy_method
from dicomnode.results.provenance import Provenance, add_equipment, plain

# PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.2.2 Patient Study, C.7.1.3 and C.7.2.3
# Clinical Trial: what a result takes over from its source as it stands.
TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
INHERITED: Final = (
    *TYPE_2,
    "StudyInstanceUID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "TypeOfPatientID",
    "PatientBirthTime",
    "QualityControlSubject",
    "EthnicGroup",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)

LOSS: Final = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
"""What images say of a loss beside the flag (PS3.3 C.7.6.1.1.5.1 and .2)."""

_WIDEST_ZONE: Final = 14 * 60  # minutes, PS3.3 C.12.1.1.8


@dataclass(frozen=True)
class Series:
    """The series that a kind of result gets: one series a kind.

    Attributes:
        modality: Modality (PS3.3 C.7.3.1.1.1).
        offset: Its series number, counted from where those of the results start.
        in_space: Its frames lie in the sources' frame of reference.
    """

    modality: str
    offset: int
    in_space: bool = False


SERIES: Final = {
    "seg": Series("SEG", 0, in_space=True),
    "sr": Series("SR", 1),
    "labelmap": Series("SEG", 2, in_space=True),
    "fractional": Series("SEG", 3, in_space=True),
    "saliency": Series("OT", 4, in_space=True),
    "sr-comprehensive": Series("SR", 5),
    "sr-basic": Series("SR", 6),
    "overlay": Series("OT", 7),
    "gsps": Series("PR", 8),
    "ko": Series("KO", 9),
    "pdf": Series("DOC", 10),
}


def new_result(
    sources: Sequence[Dataset],
    provenance: Provenance,
    sop_class_uid: str,
    kind: str,
    description: str,
) -> Dataset:
    """A result with everything but its own content.

    Args:
        sources: Header data sets of the source images; the first one names patient and study.
        provenance: The job, node and model.
        sop_class_uid: SOP class of the result.
        kind: One of `SERIES`; decides modality, series number and the roles of its UIDs.
        description: Series description, own words.

    Returns:
        Patient, study, series, equipment, SOP common and content date and time.

    Raises:
        ValueError: There is no source, or sources of several patients or studies.
    """
    check_sources(sources)
    source = sources[0]
    result = Dataset()
    for keyword in ("SpecificCharacterSet", *INHERITED):
        if keyword in source:
            result[keyword] = deepcopy(source[keyword])
        elif keyword in TYPE_2:
            setattr(result, keyword, "")
    moment = _local_time(source, provenance.created)
    series = SERIES[kind]
    result.SOPClassUID = sop_class_uid
    result.SOPInstanceUID = provenance.uid(f"{kind}/instance")
    result.SeriesInstanceUID = provenance.uid(f"{kind}/series")
    result.SeriesNumber = provenance.series_number_base + series.offset
    result.InstanceNumber = 1
    result.Modality = series.modality
    result.SeriesDescription = plain(description, 64)
    result.TimezoneOffsetFromUTC = moment.strftime("%z")
    for event in ("InstanceCreation", "Series", "Content"):
        setattr(result, f"{event}Date", moment.strftime("%Y%m%d"))
        setattr(result, f"{event}Time", moment.strftime("%H%M%S.%f"))
    if series.in_space and source.get("FrameOfReferenceUID"):
        result.FrameOfReferenceUID = source.FrameOfReferenceUID
        result.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
    add_equipment(result, provenance)
    return result


def check_sources(sources: Sequence[Dataset]) -> None:
    """Refuse sources that a single result cannot have.

    Raises:
        ValueError: There is no source, or they are of several patients or studies.
    """
    if not sources:
        raise ValueError("a result needs at least one source image")
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(source.get(keyword) or "") for source in sources}) > 1:
            raise ValueError(f"the sources differ in {keyword}")


def _local_time(source: Dataset, created: datetime) -> datetime:
    # PS3.3 C.12.1.1.8: one offset counts for all times of an object, those of the study too.
    offset = str(source.get("TimezoneOffsetFromUTC") or "")
    match = re.fullmatch(r"([+-])(\d{2})([0-5]\d)", offset)
    if match is None:
        return created
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > _WIDEST_ZONE:
        return created
    zone = timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))
    return created.astimezone(zone)


def referenced_series(instances: Sequence[Dataset], keyword: str) -> list[Dataset]:
    """Items of a Referenced Series Sequence (PS3.3 Table 10-4 and C.12-8).

    Args:
        instances: The objects referred to; several frames of one instance name it once.
        keyword: Sequence of instances inside an item, ``ReferencedInstanceSequence`` or
            ``ReferencedSOPSequence``.
    """
    series: dict[str, dict[str, Dataset]] = {}
    for each in instances:
        series.setdefault(str(each.SeriesInstanceUID), {})[str(each.SOPInstanceUID)] = each
    items = []
    for series_uid, members in series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        setattr(item, keyword, [reference(member) for member in members.values()])
        items.append(item)
    return items


def reference(instance: Dataset) -> Dataset:
    """A reference to one SOP instance (PS3.3 Table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = instance.SOPClassUID
    item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
    return item


def image_reference(source: Dataset) -> Dataset:
    """A reference to a source image, or to its frame (PS3.3 Table 10-3)."""
    item = reference(source)
    number = frame_number(source)
    if number is not None:
        item.ReferencedFrameNumber = number
    return item


def add_body_part(result: Dataset, source: Dataset) -> None:
    """Write body part and side as the source says them (PS3.3 C.7.3.1, Laterality is type 2C)."""
    if source.get("BodyPartExamined"):
        result.BodyPartExamined = source.BodyPartExamined
    if source.get("Laterality") or "BodyPartExamined" not in result:
        result.Laterality = source.get("Laterality") or ""


def image_references(sources: Sequence[Dataset]) -> list[Dataset]:
    """One reference an instance, with all its frames among the sources (PS3.3 Table 10-3)."""
    items: dict[str, Dataset] = {}
    for source in sources:
        item = items.setdefault(str(source.SOPInstanceUID), reference(source))
        number = frame_number(source)
        if number is not None:
            item.ReferencedFrameNumber = [*_frames_named(item), number]
    return list(items.values())


def _frames_named(item: Dataset) -> list[int]:
    """The frames that a reference names; none where it is to the whole instance."""
    value = item.get("ReferencedFrameNumber")
    return [] if value is None else [int(each) for each in np.atleast_1d(value)]


def add_request(result: Dataset, source: Dataset) -> None:
    """Name the requests that the source images fulfil (PS3.3 C.17.2, C.17.6.2).

    All of a request is of type 2 but its study.
    """
    items = []
    for request in source.get("RequestAttributesSequence") or ():
        item = Dataset()
        item.StudyInstanceUID = source.StudyInstanceUID
        item.ReferencedStudySequence = []
        item.AccessionNumber = request.get("AccessionNumber") or source.get("AccessionNumber") or ""
        for keyword in (
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "RequestedProcedureID",
            "RequestedProcedureDescription",
        ):
            setattr(item, keyword, request.get(keyword) or "")
        item.RequestedProcedureCodeSequence = list(
            request.get("RequestedProcedureCodeSequence") or ()
        )
        items.append(item)
    if items:
        result.ReferencedRequestSequence = items


def add_lossy_compression(result: Dataset, inputs: Sequence[Dataset]) -> None:
    """Write what was ever lost of the pixels that an image is made of (PS3.3 C.7.6.1.1.5).

    Ratio and method are those that a source states (C.8.20.2: required if present in the source
    images); a method that none states is that of its transfer syntax.

    Args:
        result: Changed in place.
        inputs: Headers of all images that it is derived from.
    """
    lossy = [each for each in inputs if is_lossy(each)]
    result.LossyImageCompression = "01" if lossy else "00"
    for keyword in LOSS:
        stated = next((each for each in lossy if each.get(keyword)), None)
        if stated is not None:
            setattr(result, keyword, stated[keyword].value)
    method = next(filter(None, map(lossy_method, lossy)), None)
    if method is not None and "LossyImageCompressionMethod" not in result:
        result.LossyImageCompressionMethod = method

"""Structured report of an answer: Comprehensive 3D SR, TID 1500 (PS3.3 A.35.13, PS3.16).

One measurement group a finding: TID 1411 for a segment of a volume, TID 1410 for a segment or a
polygon on one image, TID 1501 for what is said of the images as a whole. The content items are
highdicom's; the document around them is assembled here, so that its times and UIDs are the job's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import highdicom.sr as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from ai.types import Answer, Confidence, Evaluation, Finding, Measurement, Region, Volume
from dicomnode.results import codes
from dicomnode.results.document import new_result, reference, referenced_series
from dicomnode.results.provenance import (
    WARNING,
    Provenance,
    algorithm_template,
    code_item,
    plain,
)

_CONTAINS: Final = hd.RelationshipTypeValues.CONTAINS
_ACQUISITION: Final = hd.RelationshipTypeValues.HAS_ACQ_CONTEXT
_PROPERTY: Final = hd.RelationshipTypeValues.HAS_PROPERTIES

# PS3.3 C.18.6.1.2: 0\0 is the corner of the first pixel, its centre lies at 0.5\0.5.
PIXEL_CENTRE: Final = 0.5


def build_report(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> Dataset:
    """What a model found, as an unverified report.

    Args:
        answer: Its findings come in this order; none at all is said as such.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets of single-frame images, one a slice, in the volume's order.
        provenance: The job, node and model.
        segmentation: The segmentation of this bundle, or None where there is none.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: Sources and volume disagree, or a region lies on a slice that is not there.
    """
    if len(sources) != volume.voxels.shape[0]:
        raise ValueError(f"{len(sources)} sources for {volume.voxels.shape[0]} slices")
    model = provenance.model
    result = new_result(
        sources, provenance, Comprehensive3DSRStorage, "sr", f"{model.name} {model.version} report"
    )
    result.CompletionFlag = "COMPLETE"
    result.PreliminaryFlag = "PRELIMINARY"
    result.VerificationFlag = "UNVERIFIED"
    result.ReferencedPerformedProcedureStepSequence = []
    result.PerformedProcedureCodeSequence = []
    _add_request(result, sources[0])
    _add_evidence(result, [*sources, *([] if segmentation is None else [segmentation])])
    _add_content(result, answer, sources, provenance, segmentation)
    return result


def _add_request(result: Dataset, source: Dataset) -> None:
    # PS3.3 C.17.2: the request that the source images fulfil, all of type 2 but the study.
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


def _add_evidence(result: Dataset, instances: Sequence[Dataset]) -> None:
    # PS3.3 C.17.2.3: every instance the content tree names.
    study = Dataset()
    study.StudyInstanceUID = result.StudyInstanceUID
    study.ReferencedSeriesSequence = referenced_series(instances, "ReferencedSOPSequence")
    result.CurrentRequestedProcedureEvidenceSequence = [study]


def _add_content(
    result: Dataset,
    answer: Answer,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> None:
    groups = [_group(finding, sources, provenance, segmentation) for finding in answer.findings]
    root = hd.MeasurementReport(
        observation_context=hd.ObservationContext(_observer(provenance)),
        procedure_reported=_procedures(sources[0]),
        imaging_measurements=groups or [_nothing_found(sources, provenance)],
        title=codes.IMAGING_MEASUREMENT_REPORT,
        language_of_content_item_and_descendants=hd.LanguageOfContentItemAndDescendants(
            codes.ENGLISH
        ),
    )[0]
    for element in root:
        result[element.tag] = element
    # TID 1500: the library stands before the measurements, evaluations of the whole after them.
    *context, measurements = root.ContentSequence
    result.ContentSequence = [
        *context,
        _image_library(sources),
        measurements,
        _evaluations(answer, provenance),
    ]


def _observer(provenance: Provenance) -> hd.ObserverContext:
    model = provenance.model
    return hd.ObserverContext(
        observer_type=codes.DEVICE,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=provenance.device_uid,
            name=plain(f"{model.name} {model.version}"),
            manufacturer_name=plain(model.vendor),
            model_name=plain(model.name),
        ),
    )


def _procedures(source: Dataset) -> list[Code]:
    # IHE AIR: the imaging procedure, not the algorithm; the source's own code where it has one.
    for item in source.get("ProcedureCodeSequence") or ():
        parts = [item.get(key) for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(parts) and len(parts[0]) <= 16:
            return [Code(*parts)]
    return [codes.PROCEDURES.get(source.get("Modality", ""), codes.IMAGING_PROCEDURE)]


def _image_library(sources: Sequence[Dataset]) -> Dataset:
    # TID 1600 to 1602: what all images share stands once, at the group.
    first = sources[0]
    modality = codes.MODALITIES.get(first.get("Modality", ""), codes.MODALITIES["OT"])
    items = [hd.CodeContentItem(codes.MODALITY, modality, _ACQUISITION)]
    if first.get("FrameOfReferenceUID"):
        uid = first.FrameOfReferenceUID
        items.append(hd.UIDRefContentItem(codes.FRAME_OF_REFERENCE, uid, _ACQUISITION))
    for name, size in (
        (codes.PIXEL_DATA_ROWS, first.Rows),
        (codes.PIXEL_DATA_COLUMNS, first.Columns),
    ):
        items.append(hd.NumContentItem(name, size, codes.PIXELS, relationship_type=_ACQUISITION))
    items.extend(_library_image(source) for source in sources)
    group = _container(codes.IMAGE_LIBRARY_GROUP, items)
    return _container(codes.IMAGE_LIBRARY, [group])


def _library_image(source: Dataset) -> Dataset:
    # TID 1601 gives its images no concept name, which highdicom cannot write.
    image = Dataset()
    image.RelationshipType = "CONTAINS"
    image.ValueType = "IMAGE"
    image.ReferencedSOPSequence = [reference(source)]
    return image


def _container(name: Code, items: Sequence[Dataset]) -> Dataset:
    container = Dataset()
    container.RelationshipType = "CONTAINS"
    container.ValueType = "CONTAINER"
    container.ConceptNameCodeSequence = [code_item(name)]
    container.ContinuityOfContent = "SEPARATE"
    container.ContentSequence = list(items)
    return container


def _evaluations(answer: Answer, provenance: Provenance) -> Dataset:
    # TID 1500 rows 12 to 14: what is said of the whole, for a reader first of all the warning.
    model = provenance.model
    summary = codes.WITH_FINDINGS if answer.findings else codes.WITHOUT_FINDINGS
    basis = "rules, not trained" if model.basis == "rules" else "a trained network"
    return _container(
        codes.QUALITATIVE_EVALUATIONS,
        [
            _remark(WARNING),
            _remark(f"Model {model.name} {model.version} by {model.vendor}, {basis}."),
            _remark(model.description),
            _remark(f"Intended use: {model.intended_use}"),
            hd.CodeContentItem(codes.FINDINGS_SUMMARY, summary, _CONTAINS),
        ],
    )


def _remark(text: str, relationship: hd.RelationshipTypeValues = _CONTAINS) -> Dataset:
    return hd.TextContentItem(codes.COMMENT, plain(text) or "-", relationship)  # type: ignore[no-any-return]


def _nothing_found(sources: Sequence[Dataset], provenance: Provenance) -> Any:
    return hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(provenance.uid("tracking/"), "no finding"),
        algorithm_id=algorithm_template(provenance.model),
        source_images=_whole_image(sources),
        qualitative_evaluations=[
            hd.QualitativeEvaluation(codes.FINDINGS_SUMMARY, codes.WITHOUT_FINDINGS)
        ],
    )


def _whole_image(sources: Sequence[Dataset]) -> list[hd.SourceImageForMeasurementGroup]:
    return [
        hd.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
        for source in sources
    ]


def _group(
    finding: Finding,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> Any:
    shared: dict[str, Any] = {
        "tracking_identifier": hd.TrackingIdentifier(
            provenance.uid(f"tracking/{finding.name}"), plain(finding.name, 64)
        ),
        "finding_category": codes.coded(finding.category),
        "finding_type": codes.coded(finding.type),
        "finding_sites": [hd.FindingSite(codes.coded(finding.site))] if finding.site else None,
        "algorithm_id": algorithm_template(provenance.model),
        "measurements": _measurements(finding),
        "qualitative_evaluations": [_evaluation(each) for each in finding.evaluations],
    }
    if finding.segment is not None and segmentation is not None:
        group = _segment_group(finding.segment, sources, segmentation, shared)
    elif finding.region is not None:
        group = _region_group(finding.region, sources, shared)
    else:
        group = hd.MeasurementsAndQualitativeEvaluations(
            source_images=_whole_image(sources), **shared
        )
    _add_remarks(group[0], finding)
    return group


def _measurements(finding: Finding) -> list[hd.Measurement]:
    measured = [_measurement(each) for each in finding.measurements]
    if finding.confidence.value is not None:
        percent = round(100 * finding.confidence.value, 2)
        measured.append(hd.Measurement(codes.CERTAINTY_OF_FINDING, percent, codes.PERCENT))
    return measured


def _measurement(measurement: Measurement) -> hd.Measurement:
    derivation = measurement.derivation
    return hd.Measurement(
        name=codes.coded(measurement.name),
        value=float(measurement.value),
        unit=codes.coded(measurement.unit),
        derivation=None if derivation is None else codes.coded(derivation),
    )


def _segment_group(
    number: int, sources: Sequence[Dataset], segmentation: Dataset, shared: dict[str, Any]
) -> Any:
    sop_class_uid, sop_instance_uid = segmentation.SOPClassUID, segmentation.SOPInstanceUID
    if len(sources) > 1:
        return hd.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=hd.ReferencedSegment(
                sop_class_uid,
                sop_instance_uid,
                number,
                source_series=hd.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
            ),
            **shared,
        )
    # A single image has no volume; its one frame of that segment is the region. Frames are written
    # segment by segment, so with one slice the frame's number is the segment's.
    frame = hd.ReferencedSegmentationFrame(
        sop_class_uid,
        sop_instance_uid,
        number,
        number,
        hd.SourceImageForSegmentation(sources[0].SOPClassUID, sources[0].SOPInstanceUID),
    )
    # PS3.3 C.18.4: frame and segment numbers exclude each other, highdicom writes both.
    del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **shared)


def _region_group(region: Region, sources: Sequence[Dataset], shared: dict[str, Any]) -> Any:
    if not 0 <= region.slice_index < len(sources):
        raise ValueError(f"a region lies on slice {region.slice_index} of {len(sources)}")
    source = sources[region.slice_index]
    points = closed_polygon(region)
    image = hd.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID)
    group = hd.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=hd.ImageRegion("POLYLINE", points, image), **shared
    )
    # Viewers of the OHIF family make a measurement of the group when its first number is inferred
    # from coordinates of its own; TID 1410 is extensible, though highdicom would not take it.
    if shared["measurements"]:
        number = shared["measurements"][0][0]
        coordinates = hd.CoordinatesForMeasurement("POLYLINE", points, image)
        number.ContentSequence = [*number.get("ContentSequence", ()), coordinates]
    return group


def closed_polygon(region: Region) -> NDArray[np.float64]:
    """Points of a region as an SCOORD polyline has them (PS3.3 C.18.6.1.2).

    Args:
        region: Points ``(n, 2)`` of (column, row), 0.0 the centre of the first pixel.

    Returns:
        ``(n + 1, 2)`` of (column, row), 0.0 the corner of the first pixel; the first point comes
        again as the last.
    """
    return np.vstack([region.points, region.points[:1]]) + PIXEL_CENTRE


def _add_remarks(group: Dataset, finding: Finding) -> None:
    remarks = [finding.description, f"Confidence: {_said(finding.confidence)}"]
    if finding.needs_review:
        remarks.append("Needs review: the model asks for a human look.")
    group.ContentSequence.extend(_remark(text) for text in remarks)


def _evaluation(evaluation: Evaluation) -> hd.QualitativeEvaluation:
    template = hd.QualitativeEvaluation(codes.coded(evaluation.name), codes.coded(evaluation.value))
    template[0].ContentSequence = [_certainty(evaluation.confidence)]
    return template


def _certainty(confidence: Confidence) -> Dataset:
    if confidence.value is None:
        return _remark(f"Confidence: {confidence.basis}", _PROPERTY)
    item: Dataset = hd.NumContentItem(
        codes.CERTAINTY_OF_FINDING,
        round(100 * confidence.value, 2),
        codes.PERCENT,
        relationship_type=_PROPERTY,
    )
    return item


def _said(confidence: Confidence) -> str:
    return confidence.basis if confidence.value is None else f"{100 * confidence.value:.2f} %"

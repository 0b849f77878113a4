"""The measurement groups of a report (PS3.16 TID 1410, 1411 and 1501).

A finding has one group: TID 1411 for a segment of a volume, TID 1410 for a segment or a polygon on
one image, TID 1501 for what is said of the images as a whole. Since few viewers show a volumetric
group, a planar one that outlines the finding on its largest slice stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import highdicom.sr as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from ai.types import Answer, Confidence, Evaluation, Finding, Measurement, Region, Volume
from dicomnode.frames import frame_number
from dicomnode.results import codes
from dicomnode.results.assessment import confidence_said, severity_of
from dicomnode.results.document import image_references
from dicomnode.results.planes import Plane, largest_planes
from dicomnode.results.provenance import Provenance, algorithm_template, plain

_PROPERTY: Final = hd.RelationshipTypeValues.HAS_PROPERTIES
_CONTAINS: Final = hd.RelationshipTypeValues.CONTAINS

# PS3.3 C.18.6.1.2: 0\0 is the corner of the first pixel, its centre lies at 0.5\0.5.
PIXEL_CENTRE: Final = 0.5


def measurement_groups(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> list[Any]:
    """The groups of all findings in their order, then those of the largest slices.

    Args:
        answer: What the model said; no finding at all is a group of its own.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: One a slice, in the volume's order.
        provenance: Gives tracking UIDs and the algorithm.
        segmentation: The segmentation that findings refer to, or None.

    Raises:
        ValueError: A region lies on a slice that is not there.
    """
    if not answer.findings:
        return [_nothing_found(sources, provenance)]
    groups = [_group(finding, sources, provenance, segmentation) for finding in answer.findings]
    groups += [_plane_group(plane, sources, provenance) for plane in largest_planes(answer, volume)]
    return groups


def remark(text: str, relationship: hd.RelationshipTypeValues = _CONTAINS) -> Dataset:
    """A comment of own words."""
    return hd.TextContentItem(codes.COMMENT, plain(text) or "-", relationship)  # type: ignore[no-any-return]


def closed_polygon(region: Region) -> NDArray[np.float64]:
    """Points of a region as an SCOORD polyline has them (PS3.3 C.18.6.1.2).

    Args:
        region: Points ``(n, 2)`` of (column, row), 0.0 the centre of the first pixel.

    Returns:
        ``(n + 1, 2)`` of (column, row), 0.0 the corner of the first pixel; the first point comes
        again as the last.
    """
    return np.vstack([region.points, region.points[:1]]) + PIXEL_CENTRE


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
        hd.SourceImageForMeasurementGroup(
            item.ReferencedSOPClassUID,
            item.ReferencedSOPInstanceUID,
            item.get("ReferencedFrameNumber"),
        )
        for item in image_references(sources)
    ]


def _shared(finding: Finding, provenance: Provenance) -> dict[str, Any]:
    return {
        "tracking_identifier": hd.TrackingIdentifier(
            provenance.uid(f"tracking/{finding.name}"), plain(finding.name, 64)
        ),
        "finding_category": codes.coded(finding.category),
        "finding_type": codes.coded(finding.type),
        "finding_sites": _sites(finding),
        "algorithm_id": algorithm_template(provenance.model),
    }


def _sites(finding: Finding) -> list[hd.FindingSite] | None:
    if finding.site is None:
        return None
    side = finding.laterality
    return [hd.FindingSite(codes.coded(finding.site), None if side is None else codes.coded(side))]


def _group(
    finding: Finding,
    sources: Sequence[Dataset],
    provenance: Provenance,
    segmentation: Dataset | None,
) -> Any:
    shared = _shared(finding, provenance) | {
        "measurements": _measurements(finding),
        "qualitative_evaluations": list(_evaluations(finding)),
    }
    if finding.segment is not None and segmentation is not None:
        group = _segment_group(finding.segment, sources, segmentation, shared)
    elif finding.region is not None:
        region = finding.region
        if not 0 <= region.slice_index < len(sources):
            raise ValueError(f"a region lies on slice {region.slice_index} of {len(sources)}")
        group = _outline_group(closed_polygon(region), sources[region.slice_index], shared)
    else:
        group = hd.MeasurementsAndQualitativeEvaluations(
            source_images=_whole_image(sources), **shared
        )
    remarks = [finding.description, f"Confidence: {confidence_said(finding.confidence)}"]
    if finding.needs_review:
        remarks.append(f"Needs review: {finding.review_reason}.")
    group[0].ContentSequence.extend(remark(text) for text in remarks)
    return group


def _plane_group(plane: Plane, sources: Sequence[Dataset], provenance: Provenance) -> Any:
    finding = plane.finding
    unit = codes.PIXELS if plane.square_millimetres is None else codes.SQUARE_MILLIMETRE
    area = plane.pixels if plane.square_millimetres is None else plane.square_millimetres
    # Under the tracking of the finding itself: it is the same one. Viewers that know only outlines
    # (OHIF 3.13) so join the two groups, where a group without coordinates would stop them.
    shared = _shared(finding, provenance) | {
        "measurements": [hd.Measurement(codes.AREA, area, unit)],
    }
    group = _outline_group(plane.points, sources[plane.slice_index], shared)
    text = (
        "The largest connected part of this finding on the slice where it is largest, outlined "
        "without holes, for viewers that show no segments."
    )
    group[0].ContentSequence.append(remark(text))
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


def _evaluations(finding: Finding) -> Iterator[hd.QualitativeEvaluation]:
    for evaluation in finding.evaluations:
        yield _evaluation(evaluation)
    level = codes.SEVERITIES.get(severity_of(finding))
    concepts = {(each.name.value, each.name.scheme) for each in finding.evaluations}
    if level is None or (codes.SEVERITY.value, codes.SEVERITY.scheme_designator) in concepts:
        return
    template = hd.QualitativeEvaluation(codes.SEVERITY, level)
    text = f"Set for this label by the model's maker ({finding.severity:g}), not judged here."
    template[0].ContentSequence = [remark(text, _PROPERTY)]
    yield template


def _evaluation(evaluation: Evaluation) -> hd.QualitativeEvaluation:
    template = hd.QualitativeEvaluation(codes.coded(evaluation.name), codes.coded(evaluation.value))
    template[0].ContentSequence = [_certainty(evaluation.confidence)]
    return template


def _certainty(confidence: Confidence) -> Dataset:
    if confidence.value is None:
        return remark(f"Confidence: {confidence.basis}", _PROPERTY)
    item: Dataset = hd.NumContentItem(
        codes.CERTAINTY_OF_FINDING,
        round(100 * confidence.value, 2),
        codes.PERCENT,
        relationship_type=_PROPERTY,
    )
    return item


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
    source = sources[0]
    frame = hd.ReferencedSegmentationFrame(
        sop_class_uid,
        sop_instance_uid,
        number,
        number,
        hd.SourceImageForSegmentation(source.SOPClassUID, source.SOPInstanceUID, _frames(source)),
    )
    # PS3.3 C.18.4: frame and segment numbers exclude each other, highdicom writes both. The one
    # frame of a label map holds all segments.
    referred = frame[0].ReferencedSOPSequence[0]
    if sop_class_uid == SegmentationStorage:
        del referred.ReferencedSegmentNumber
    else:
        del referred.ReferencedFrameNumber
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **shared)


def _outline_group(points: NDArray[np.float64], source: Dataset, shared: dict[str, Any]) -> Any:
    image = hd.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, _frames(source))
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


def _frames(source: Dataset) -> list[int] | None:
    number = frame_number(source)
    return None if number is None else [number]

"""Reads a segmentation that came back from a PACS into what a picture is drawn from."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.color import CIELabColor
from pydicom import Dataset

from ai.types import Answer, Code, Confidence, Finding, Segment, Volume
from config.errors import MalformedError
from dicomnode.results.readback import labels_of


def answer_of(segmentation: Dataset, volume: Volume, sources: Sequence[Dataset]) -> Answer:
    """The segments of a binary segmentation as an answer without measurements.

    Args:
        segmentation: With native pixel data, of the same matrix as `volume`.
        volume: The source, ``(slices, rows, columns)``.
        sources: One header a slice, in the volume's order.

    Raises:
        MalformedError: It does not say where its frames lie, or they do not fit the source.
    """
    overlap = segmentation.get("SegmentsOverlap") == "YES"
    labels = labels_of(segmentation, volume, sources, overlap=overlap)
    segments = tuple(_segment(item) for item in segmentation.get("SegmentSequence", []))
    findings = tuple(
        Finding(
            name=segment.label,
            category=segment.category,
            type=segment.type,
            description=segment.label,
            confidence=Confidence(None, "none: rule-based"),
            segment=segment.number,
        )
        for segment in segments
    )
    return Answer(findings, labels, segments, overlap=overlap)


def _segment(item: Dataset) -> Segment:
    try:
        lab = [int(value) for value in item.RecommendedDisplayCIELabValue]
        red, green, blue = CIELabColor.from_dicom_value(lab).to_rgb() if lab else (255, 0, 0)
        return Segment(
            int(item.SegmentNumber),
            str(item.SegmentLabel),
            _code(item.SegmentedPropertyCategoryCodeSequence[0]),
            _code(item.SegmentedPropertyTypeCodeSequence[0]),
            (int(red), int(green), int(blue)),
        )
    except (AttributeError, IndexError, ValueError) as error:
        raise MalformedError("a segment of the segmentation is not described") from error


def _code(item: Dataset) -> Code:
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))

"""Small synthetic sources for the results: every value here is made up.

The phantom is asymmetric along all three axes, so that no flip, shift or swap goes unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage

from ai.label_values import type_of, value_of
from ai.types import (
    Answer,
    Code,
    Confidence,
    Evaluation,
    Finding,
    Measurement,
    Region,
    Saliency,
    Segment,
    Volume,
)
from dicomnode.results.provenance import ModelFacts, Provenance
from dicomnode.results.seg import build_segmentation
from dicomnode.results.sr import build_report
from dicomnode.results.write import to_bytes

TISSUE = Code("85756007", "SCT", "Tissue")
FAT = Code("55603005", "SCT", "Adipose tissue")
BONE = Code("272673000", "SCT", "Bone")
MUSCLE = Code("91727004", "SCT", "Muscle")
VOLUME = Code("118565006", "SCT", "Volume")
ML = Code("mL", "UCUM", "mL")
LESION = Code("52988006", "SCT", "Lesion")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CHEST = Code("51185008", "SCT", "Chest")
RULES = Confidence(None, "none: rule-based")

# Directions of a row and of a column in LPS (PS3.3 C.7.6.2.1.1).
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.36, 0.48, 0.8),
    "reversed": (-1, 0, 0, 0, 1, 0),
}


@dataclass(frozen=True)
class Case:
    """Everything a result is made of."""

    answer: Answer
    volume: Volume
    sources: tuple[Dataset, ...]
    provenance: Provenance


def decimal(value: float) -> str:
    """A DS of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.9f}"[:16]


def header(sop_class_uid: str, modality: str, shape: Sequence[int], index: int) -> Dataset:
    source = Dataset()
    source.SpecificCharacterSet = "ISO_IR 100"
    source.SOPClassUID = sop_class_uid
    source.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.10.{index + 1}"
    source.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    source.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    source.PatientName = "Prüfling^Å"
    source.PatientID = "P-1"
    source.PatientBirthDate = "19600229"
    source.PatientSex = "O"
    source.PatientAge = "064Y"
    source.StudyDate = "20260101"
    source.StudyTime = "101500"
    source.StudyID = "S1"
    source.AccessionNumber = "A-77"
    source.ReferringPhysicianName = "Doctor^Some"
    source.TimezoneOffsetFromUTC = "+0200"
    source.Modality = modality
    source.Manufacturer = "Maker"
    source.InstanceNumber = index + 1
    source.Rows, source.Columns = shape
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    source.RequestAttributesSequence = [request]
    return source


def ct_sources(
    shape: tuple[int, int, int], orientation: Sequence[float], spacing: tuple[float, float, float]
) -> tuple[tuple[Dataset, ...], np.ndarray]:
    """Headers of an axis-by-axis CT and its affine, slices ascending along the normal."""
    slices, rows, columns = shape
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(along_row, along_column)
    origin = np.array([-31.5, 12.25, 407.125])
    sources = []
    for index in range(slices):
        source = header(CTImageStorage, "CT", (rows, columns), index)
        source.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.3"
        source.PositionReferenceIndicator = ""
        source.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        source.ImageOrientationPatient = [decimal(each) for each in orientation]
        position = origin + index * spacing[0] * normal
        source.ImagePositionPatient = [decimal(each) for each in position]
        source.PixelSpacing = [decimal(spacing[1]), decimal(spacing[2])]
        source.SliceThickness = decimal(spacing[0])
        sources.append(source)
    affine = np.eye(4)
    affine[:3, 0] = normal * spacing[0]
    affine[:3, 1] = along_column * spacing[1]
    affine[:3, 2] = along_row * spacing[2]
    affine[:3, 3] = origin
    return tuple(sources), affine


def phantom_labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Segment 1 a low corner block with a spur, 2 a far bar, 3 empty."""
    slices, rows, columns = shape
    labels = np.zeros(shape, np.uint8)
    labels[: slices // 2 + 1, 1 : rows // 2, 1 : columns // 3 + 1] = 1
    labels[0, 1, 1 : columns // 2 + 2] = 1
    labels[slices - 1 :, rows // 2 : rows - 1, columns - 2] = 2
    return labels


SEGMENTS = (
    Segment(1, "fat", TISSUE, FAT, (255, 200, 0)),
    Segment(2, "bone", TISSUE, BONE, (240, 240, 220)),
    Segment(3, "muscle", TISSUE, MUSCLE, (200, 30, 30)),
)


def segment_findings(labels: np.ndarray, voxel_ml: float) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            name=segment.label,
            category=segment.category,
            type=segment.type,
            description=f"Volume of {segment.label} by thresholds.",
            confidence=RULES,
            segment=segment.number,
            measurements=(
                Measurement(VOLUME, float((labels == segment.number).sum()) * voxel_ml, ML),
            ),
        )
        for segment in SEGMENTS
    )


def provenance(**changes: object) -> Provenance:
    facts = ModelFacts(
        name="ct-tissue",
        version="1.0.0",
        vendor="Example Vendor",
        description="Tissue by HU – thresholds, not trained.",
        digest="ab" * 32,
        basis="rules",
        intended_use="Demonstration",
    )
    values = {
        "identity": "0123456789abcdef" * 4,
        "created": datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
        "ae_title": "MEDAI",
        "node_uid": "2.25.123456789",
        "software_version": "0.1.0",
        "model": facts,
    }
    return Provenance(**(values | changes))  # type: ignore[arg-type]


def ct_case(
    orientation: Sequence[float] = ORIENTATIONS["axial"],
    shape: tuple[int, int, int] = (4, 10, 13),
    spacing: tuple[float, float, float] = (2.5, 0.75, 1.25),
) -> Case:
    sources, affine = ct_sources(shape, orientation, spacing)
    labels = phantom_labels(shape)
    voxels = (labels.astype(np.int16) * 100 - 50).astype(np.float32)
    voxels += np.arange(shape[2], dtype=np.float32)
    volume = Volume(voxels, "[hnsf'U]", affine, spacing, (-1024.0, 3071.0))
    findings = segment_findings(labels, float(np.prod(spacing)) / 1000)
    return Case(Answer(findings, labels, SEGMENTS), volume, sources, provenance())


def cr_case() -> Case:
    """A radiograph without spacing, one finding on a region and one on the whole image."""
    rows, columns = 24, 36
    source = header(ComputedRadiographyImageStorage, "CR", (rows, columns), 0)
    voxels = np.add.outer(np.arange(rows), 3 * np.arange(columns)).astype(np.float32)[None]
    volume = Volume(voxels, "1", None, (None, None, None), (0.0, 4095.0), lowest_is_white=True)
    points = np.array([[3.0, 4.0], [20.0, 4.0], [20.0, 15.5], [3.0, 15.5]])
    findings = (
        Finding(
            name="opacity",
            category=ABNORMAL,
            type=LESION,
            description="A bright region.",
            confidence=Confidence(0.87, "model"),
            region=Region(0, points),
            measurements=(
                Measurement(
                    Code("42798000", "SCT", "Area"), 195.5, Code("{pixels}", "UCUM", "Pixels")
                ),
            ),
            site=CHEST,
            severity=0.5,
            needs_review=True,
        ),
        Finding(
            name="exposure",
            category=Code("363679005", "SCT", "Imaging procedure"),
            type=Code("111050", "DCM", "Image quality assessment"),
            description="The image is evenly exposed.",
            confidence=Confidence(0.5, "model"),
            evaluations=(
                Evaluation(
                    Code("111050", "DCM", "Image quality assessment"),
                    Code("17621005", "SCT", "Normal"),
                    Confidence(0.5, "model"),
                ),
                Evaluation(
                    Code("246112005", "SCT", "Severity"),
                    Code("255604002", "SCT", "Mild"),
                    RULES,
                ),
            ),
        ),
    )
    return Case(Answer(findings), volume, (source,), provenance())


def single_image_segment_case() -> Case:
    """A radiograph with segments: 24 × 35 pixels, so that frames do not fill whole bytes."""
    case = cr_case()
    source = case.sources[0]
    source.Columns = 35
    labels = np.zeros((1, 24, 35), np.uint8)
    labels[0, 3:9, 4:10] = 1
    labels[0, 13:21, 20:34] = 2
    findings = tuple(
        replace(finding, region=None) for finding in segment_findings(labels, voxel_ml=0.0)
    )
    volume = replace(case.volume, voxels=np.ascontiguousarray(case.volume.voxels[:, :, :35]))
    return replace(case, answer=Answer(findings, labels, SEGMENTS), volume=volume)


def thin_case() -> Case:
    """A single CT slice that does not say how thick it is."""
    case = ct_case(shape=(1, 10, 13), spacing=(1.0, 0.75, 1.25))
    for source in case.sources:
        source.SliceThickness = None
    spacing = (None, *case.volume.spacing[1:])
    findings = tuple(replace(each, measurements=()) for each in case.answer.findings)
    return replace(
        case,
        answer=replace(case.answer, findings=findings),
        volume=replace(case.volume, spacing=spacing),
    )


def bundle(case: Case) -> dict[str, Dataset]:
    """The objects of a case before they are written."""
    parts = (case.answer, case.volume, case.sources, case.provenance)
    segmentation = build_segmentation(*parts) if case.answer.labels is not None else None
    objects = {"sr": build_report(*parts, segmentation)}
    return objects if segmentation is None else objects | {"seg": segmentation}


def written(case: Case) -> dict[str, bytes]:
    """The files of a case."""
    return {kind: to_bytes(dataset) for kind, dataset in bundle(case).items()}


def with_probabilities(case: Case) -> Case:
    """The case with a probability a segment and voxel: high where the label is, and noise."""
    answer = case.answer
    assert answer.labels is not None
    noise = np.random.default_rng(7).random((len(SEGMENTS), *answer.labels.shape), np.float32)
    probabilities = np.stack([answer.labels == segment.number for segment in answer.segments])
    probabilities = np.float32(0.75) * probabilities + np.float32(0.25) * noise
    return replace(case, answer=replace(answer, probabilities=probabilities))


def with_saliency(case: Case) -> Case:
    """The case with a heat map of its first finding, of both signs, different in every voxel."""
    values = np.random.default_rng(8).random(case.volume.voxels.shape, np.float32) - 0.25
    saliency = Saliency(
        case.answer.findings[0].name,
        values,
        Code("SALIENCY", "99MEDAI", "Saliency"),
        Code("1", "UCUM", "no units"),
        "By what the score falls when a place is hidden.",
    )
    return replace(case, answer=replace(case.answer, saliency=saliency))


def with_others(case: Case) -> Case:
    """The case with two inputs more: a series of the same study and one of an earlier study."""
    beside = [deepcopy(source) for source in case.sources]
    earlier = [deepcopy(source) for source in case.sources]
    for source in beside:
        source.SeriesInstanceUID += ".5"
        source.SOPInstanceUID += ".5"
    for source in earlier:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(source, keyword, f"{source[keyword].value}.7")
        source.StudyDate = "20250304"
    return replace(case, provenance=replace(case.provenance, others=(*beside, *earlier)))


def packed(masks: np.ndarray) -> np.ndarray:
    """Masks ``(segments, slices, rows, columns)`` as the labels of segments that overlap."""
    labels = np.zeros(masks.shape[1:], type_of(len(masks), overlap=True))
    for number, mask in enumerate(masks, 1):
        labels[mask] |= value_of(number, overlap=True)
    return labels


def with_overlap(case: Case) -> Case:
    """The case with a second segment that lies in part within the first; the third is empty."""
    labels = case.answer.labels
    assert labels is not None
    first = labels == 1
    shared = first & (np.arange(labels.shape[2]) % 4 != 0)
    masks = np.stack([first, shared | (labels == 2), np.zeros_like(first)])
    voxel_ml = case.volume.voxel_volume_ml or 0.0
    findings = tuple(
        replace(
            finding,
            measurements=(Measurement(VOLUME, float(mask.sum()) * voxel_ml, ML),),
        )
        for finding, mask in zip(case.answer.findings, masks, strict=True)
    )
    answer = replace(case.answer, findings=findings, labels=packed(masks), overlap=True)
    return replace(case, answer=answer)

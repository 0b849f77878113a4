"""Binary segmentation of a model's labels (PS3.3 A.51, C.8.20).

The object is assembled from pydicom data sets, with the codes, segments and colours of highdicom.
Frames are written segment by segment, slice by slice, in the order of `Answer.labels`; segments may
overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from ai.label_values import LabelVolume, highest_in, mask_of, type_of
from ai.types import Answer, Segment, Volume
from dicomnode.results import codes
from dicomnode.results.document import new_result
from dicomnode.results.evidence import add_instance_references
from dicomnode.results.multiframe import (
    add_dimensions,
    add_frame_groups,
    add_image,
    check_alignment,
    shared_groups,
)
from dicomnode.results.provenance import Provenance, algorithm_sequence, plain


def build_segmentation(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The labels of an answer as a binary segmentation, all frames kept.

    Args:
        answer: With `labels` of shape ``(slices, rows, columns)`` and `segments` 1 to n.
        volume: The primary input; its affine is None for an image without a place in space.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: The answer has no labels, or labels, segments, volume and sources disagree.
    """
    labels = checked_labels(answer, volume)
    numbers = checked_numbers(answer)
    result = new_segmentation(
        answer, volume, sources, provenance, kind="seg", sop_class_uid=SegmentationStorage, bits=1
    )
    result.SegmentationType = "BINARY"
    result.SegmentsOverlap = "YES" if answer.segments_overlap else "NO"
    add_dimensions(result, provenance, "seg", volume, segmented=True)
    add_frames(result, volume, sources, numbers)
    result.add_new("PixelData", "OB", _packed(labels, numbers, overlap=answer.overlap))
    return result


def checked_labels(answer: Answer, volume: Volume) -> LabelVolume:
    """The labels of an answer, after a look that they fit its segments and the volume.

    Raises:
        ValueError: There are none, or they have another shape or type, or belong to no segment.
    """
    labels = answer.labels
    if labels is None or not answer.segments:
        raise ValueError("the answer has no labels to encode")
    if labels.shape != volume.voxels.shape:
        raise ValueError(f"labels of shape {labels.shape} for a volume {volume.voxels.shape}")
    last = max(segment.number for segment in answer.segments)
    least = type_of(last, overlap=answer.overlap)
    fits = labels.itemsize >= least.itemsize if answer.overlap else labels.dtype == np.uint8
    if labels.dtype.kind != "u" or not fits:
        raise ValueError(f"labels must be {least}, not {labels.dtype}")
    highest = highest_in(labels, overlap=answer.overlap)
    if highest > last:
        raise ValueError(f"label {highest} belongs to no segment")
    return labels


def checked_numbers(answer: Answer) -> list[int]:
    """Numbers of the segments of an answer.

    Raises:
        ValueError: They do not run from 1 without a gap (PS3.3 C.8.20.2).
    """
    numbers = [segment.number for segment in answer.segments]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError("segment numbers must run from 1 without a gap (PS3.3 C.8.20.2)")
    return numbers


def new_segmentation(
    answer: Answer,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    *,
    kind: str,
    sop_class_uid: str,
    bits: int,
) -> Dataset:
    """A segmentation of any type with everything but its type, dimensions, frames and pixels.

    Args:
        answer: Gives the segments, and the findings that they are tracked by.
        volume: The primary input.
        sources: One a slice, in the volume's order.
        provenance: The job, node and model.
        kind: The kind of result.
        sop_class_uid: SOP class of the result.
        bits: Bits allocated for a pixel.

    Raises:
        ValueError: Volume and sources disagree.
    """
    check_alignment(volume, sources)
    model = provenance.model
    result = new_result(
        sources, provenance, sop_class_uid, kind, f"{model.name} {model.version} segmentation"
    )
    result.ImageType = ["DERIVED", "PRIMARY"]
    add_image(result, volume, sources, provenance, bits)
    result.BitsStored = bits
    result.HighBit = bits - 1
    result.PixelRepresentation = 0
    result.ContentLabel = "SEGMENTATION"
    result.ContentDescription = plain(f"AI output of {model.name}", 64)
    result.ContentCreatorName = ""
    result.SegmentSequence = [
        _segment_item(segment, answer, provenance) for segment in answer.segments
    ]
    add_instance_references(result, sources, provenance)
    return result


def add_frames(
    result: Dataset, volume: Volume, sources: Sequence[Dataset], segments: Sequence[int | None]
) -> None:
    """Write the functional groups of a segmentation, all slices of one segment after another."""
    result.SharedFunctionalGroupsSequence = [shared_groups(volume, sources[0])]
    add_frame_groups(result, volume, sources, segments)
    result.NumberOfFrames = len(segments) * len(sources)


def _segment_item(segment: Segment, answer: Answer, provenance: Provenance) -> Dataset:
    finding = next((each for each in answer.findings if each.segment == segment.number), None)
    item = SegmentDescription(
        segment_number=segment.number,
        segment_label=plain(segment.label, 64),
        segmented_property_category=codes.coded(segment.category),
        segmented_property_type=codes.coded(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm_sequence(provenance.model),
        tracking_id=None if finding is None else plain(finding.name, 64),
        tracking_uid=None if finding is None else provenance.uid(f"tracking/{finding.name}"),
        display_color=CIELabColor.from_rgb(*segment.color),
    )
    return item  # type: ignore[no-any-return]


def _packed(labels: LabelVolume, numbers: Sequence[int], *, overlap: bool) -> bytes:
    # PS3.5 8.1.1: frames of 1-bit pixels follow each other without padding, first pixel in the
    # lowest bit. Where every segment fills whole bytes they are packed one at a time.
    flat = labels.reshape(-1)
    masks = (mask_of(flat, number, overlap=overlap) for number in numbers)
    parts = [np.concatenate(list(masks))] if flat.size % 8 else masks
    packed = b"".join(np.packbits(part, bitorder="little").tobytes() for part in parts)
    return packed + b"\0" * (len(packed) % 2)

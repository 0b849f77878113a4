"""Binary segmentation of a model's labels (PS3.3 A.51, C.8.20).

The object is assembled from pydicom data sets, with the codes, segments and colours of highdicom.
Frames are written segment by segment, slice by slice, in the order of `Answer.labels`, each with
the position of the very source image it lies on, so no sorting stands between a mask and its place;
and the positions must agree with the volume's affine or nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import DS

from ai.types import Answer, Segment, Volume
from dicomnode.results import codes
from dicomnode.results.document import new_result, reference, referenced_series
from dicomnode.results.provenance import Provenance, algorithm_sequence, code_item, plain

# A slice may lie this far from where the affine puts it, in voxels.
_POSITION_TOLERANCE: Final = 0.25


def build_segmentation(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The labels of an answer as a binary segmentation, all frames kept.

    Args:
        answer: With `labels` of shape ``(slices, rows, columns)`` and `segments` 1 to n.
        volume: The primary input; its affine is None for an image without a place in space.
        sources: Header data sets of single-frame images, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: The answer has no labels, or labels, segments, volume and sources disagree.
    """
    labels = _checked_labels(answer, volume, sources)
    check_alignment(volume, sources)
    result = new_result(
        sources,
        provenance,
        SegmentationStorage,
        "seg",
        f"{provenance.model.name} {provenance.model.version} segmentation",
    )
    _add_image(result, labels, len(answer.segments), sources)
    result.ContentLabel = "SEGMENTATION"
    result.ContentDescription = plain(f"AI output of {provenance.model.name}", 64)
    result.ContentCreatorName = ""
    result.SegmentationType = "BINARY"
    result.SegmentsOverlap = "NO"
    result.SegmentSequence = [
        _segment_item(segment, answer, provenance) for segment in answer.segments
    ]
    result.ReferencedSeriesSequence = referenced_series(sources, "ReferencedInstanceSequence")
    _add_dimensions(result, provenance, in_space=volume.affine is not None)
    result.SharedFunctionalGroupsSequence = [_shared_groups(volume, sources[0])]
    result.PerFrameFunctionalGroupsSequence = _frames(answer, volume, sources)
    result.add_new("PixelData", "OB", _packed(labels, [each.number for each in answer.segments]))
    return result


def _checked_labels(
    answer: Answer, volume: Volume, sources: Sequence[Dataset]
) -> NDArray[np.uint8]:
    labels = answer.labels
    if labels is None or not answer.segments:
        raise ValueError("the answer has no labels to encode")
    numbers = [segment.number for segment in answer.segments]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError("segment numbers must run from 1 without a gap (PS3.3 C.8.20.2)")
    if labels.shape != volume.voxels.shape:
        raise ValueError(f"labels of shape {labels.shape} for a volume {volume.voxels.shape}")
    if labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8, not {labels.dtype}")
    if int(labels.max()) > len(numbers):
        raise ValueError(f"label {int(labels.max())} belongs to no segment")
    if len(sources) != labels.shape[0]:
        raise ValueError(f"{len(sources)} sources for {labels.shape[0]} slices")
    return labels


def check_alignment(volume: Volume, sources: Sequence[Dataset]) -> None:
    """Refuse sources that do not lie where the volume's affine says (PS3.3 C.7.6.2.1.1).

    Args:
        volume: With ``(slices, rows, columns)`` voxels; nothing but the size is checked where its
            affine is None.
        sources: One a slice, in the same order.

    Raises:
        ValueError: A source has another matrix size, no position, or another place than its slice.
    """
    for source in sources:
        if (source.get("Rows"), source.get("Columns")) != volume.voxels.shape[1:]:
            raise ValueError("a source image has another matrix size than its slice")
    affine = volume.affine
    if affine is None:
        return
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    for index, source in enumerate(sources):
        if not source.get("ImagePositionPatient") or not source.get("ImageOrientationPatient"):
            raise ValueError("a source image has no place in patient space")
        if not source.get("FrameOfReferenceUID"):
            raise ValueError("a source image has no frame of reference")
        position = np.array([float(each) for each in source.ImagePositionPatient])
        away = np.linalg.norm(position - affine[:3, 3] - index * affine[:3, 0])
        if away > _POSITION_TOLERANCE * float(steps.min()):
            raise ValueError(f"source image {index} lies {away:.3g} mm from its slice")
        if not np.allclose(plane_axes(source), affine[:3, 1:3], rtol=0, atol=0.01 * steps.min()):
            raise ValueError(f"source image {index} has other axes than the volume")


def plane_axes(source: Dataset) -> NDArray[np.float64]:
    """Steps of one pixel along (rows, columns) of an image in LPS mm, shape ``(3, 2)``."""
    orientation = np.array([float(each) for each in source.ImageOrientationPatient])
    between_rows, between_columns = (float(each) for each in source.PixelSpacing)
    # The first triplet is the direction of a row, along which the column index grows.
    return np.stack([orientation[3:] * between_rows, orientation[:3] * between_columns], axis=1)


def _add_image(
    result: Dataset, labels: NDArray[np.uint8], segments: int, sources: Sequence[Dataset]
) -> None:
    slices, rows, columns = labels.shape
    result.ImageType = ["DERIVED", "PRIMARY"]
    result.NumberOfFrames = slices * segments
    result.SamplesPerPixel = 1
    result.PhotometricInterpretation = "MONOCHROME2"
    result.Rows = rows
    result.Columns = columns
    result.BitsAllocated = 1
    result.BitsStored = 1
    result.HighBit = 0
    result.PixelRepresentation = 0
    lossy = next((each for each in sources if each.get("LossyImageCompression") == "01"), None)
    if "FrameOfReferenceUID" not in result:  # PS3.3 C.7.6.1: type 2C
        result.PatientOrientation = sources[0].get("PatientOrientation") or ""
    result.LossyImageCompression = "00" if lossy is None else "01"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if lossy is not None and keyword in lossy:
            setattr(result, keyword, lossy[keyword].value)
    request = sources[0].get("RequestAttributesSequence")
    if request:
        result.RequestAttributesSequence = list(request)


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


def _add_dimensions(result: Dataset, provenance: Provenance, in_space: bool) -> None:
    # PS3.3 C.7.6.17: by segment, then by position where there is one.
    uid = provenance.uid("seg/dimensions")
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    result.DimensionOrganizationSequence = [organization]
    pointers = [("ReferencedSegmentNumber", 0x0062000B, 0x0062000A)]
    if in_space:
        pointers.append(("ImagePositionPatient", 0x00200032, 0x00209113))
    items = []
    for label, pointer, group in pointers:
        item = Dataset()
        item.DimensionOrganizationUID = uid
        item.DimensionIndexPointer = pointer
        item.FunctionalGroupPointer = group
        item.DimensionDescriptionLabel = label
        items.append(item)
    result.DimensionIndexSequence = items


def _shared_groups(volume: Volume, source: Dataset) -> Dataset:
    shared = Dataset()
    if source.get("PixelSpacing"):
        measures = Dataset()
        measures.PixelSpacing = _decimals(source.PixelSpacing)
        if volume.affine is not None:
            between = volume.spacing[0] or source.get("SliceThickness") or 1.0
            thickness = source.get("SliceThickness") or between
            (measures.SliceThickness,) = _decimals([thickness])
            (measures.SpacingBetweenSlices,) = _decimals([between])
        shared.PixelMeasuresSequence = [measures]
    if volume.affine is not None:
        orientation = Dataset()
        orientation.ImageOrientationPatient = _decimals(source.ImageOrientationPatient)
        shared.PlaneOrientationSequence = [orientation]
    return shared


def _decimals(values: Iterable[Any]) -> list[Any]:
    # Sources are met whose DS is longer than the 16 characters of PS3.5 6.2.
    return [DS(float(value), auto_format=True) for value in values]


def _frames(answer: Answer, volume: Volume, sources: Sequence[Dataset]) -> list[Dataset]:
    derivations = [_derivation(source) for source in sources]
    positions = [_decimals(source.get("ImagePositionPatient") or ()) for source in sources]
    frames = []
    for segment in answer.segments:
        identification = Dataset()
        identification.ReferencedSegmentNumber = segment.number
        named = DataElement("SegmentIdentificationSequence", "SQ", [identification])
        for index in range(len(sources)):
            frame = Dataset()
            content = Dataset()
            content.DimensionIndexValues = [segment.number]
            if volume.affine is not None:
                content.DimensionIndexValues = [segment.number, index + 1]
                position = Dataset()
                position.ImagePositionPatient = positions[index]
                frame.PlanePositionSequence = [position]
            frame.FrameContentSequence = [content]
            frame[derivations[index].tag] = derivations[index]
            frame[named.tag] = named
            frames.append(frame)
    return frames


def _derivation(source: Dataset) -> DataElement:
    image = reference(source)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    item = Dataset()
    item.DerivationCodeSequence = [code_item(codes.SEGMENTATION)]
    item.SourceImageSequence = [image]
    return DataElement("DerivationImageSequence", "SQ", [item])


def _packed(labels: NDArray[np.uint8], numbers: Sequence[int]) -> bytes:
    # PS3.5 8.1.1: frames of 1-bit pixels follow each other without padding, first pixel in the
    # lowest bit. Where every segment fills whole bytes they are packed one at a time.
    flat = labels.reshape(-1)
    if flat.size % 8:
        masks = np.concatenate([flat == number for number in numbers])
        packed = np.packbits(masks, bitorder="little").tobytes()
    else:
        packed = b"".join(
            np.packbits(flat == number, bitorder="little").tobytes() for number in numbers
        )
    return packed + b"\0" * (len(packed) % 2)

"""What all multi-frame results share: their image, dimensions and functional groups (PS3.3 C.7.6).

One frame lies on one source image, and takes its place from that very image, so no sorting stands
between a mask and its place. The positions must agree with the volume's affine or nothing is
written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.valuerep import DS

from ai.types import Volume
from dicomnode.results import codes
from dicomnode.results.document import add_lossy_compression, image_reference
from dicomnode.results.provenance import Provenance, code_item

# A slice may lie this far from where the affine puts it, in voxels.
_POSITION_TOLERANCE: Final = 0.25
# The stack of images that have no place in space (PS3.3 C.7.6.16.2.2).
_STACK: Final = "1"
# PS3.5 7.5: the head of an item of defined length.
_ITEM: Final = struct.Struct("<HHI")


def check_alignment(volume: Volume, sources: Sequence[Dataset]) -> None:
    """Refuse sources that do not lie where the volume's affine says (PS3.3 C.7.6.2.1.1).

    Args:
        volume: With ``(slices, rows, columns)`` voxels; nothing but the size is checked where its
            affine is None.
        sources: One a slice, in the same order.

    Raises:
        ValueError: There is not one source a slice, or one has another matrix size, no position, or
            another place than its slice.
    """
    slices, *size = volume.voxels.shape
    if len(sources) != slices:
        raise ValueError(f"{len(sources)} sources for {slices} slices")
    for source in sources:
        if [source.get("Rows"), source.get("Columns")] != size:
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


def add_image(
    result: Dataset,
    volume: Volume,
    sources: Sequence[Dataset],
    provenance: Provenance,
    bits: int,
) -> None:
    """Write size and sample of the frames, lossy compression and request of the sources.

    Args:
        result: Changed in place; FrameOfReferenceUID leaves it where the volume has no place.
        volume: Gives rows and columns.
        sources: One a slice.
        provenance: Gives the other inputs, which may have lost something, too.
        bits: Bits allocated.
    """
    result.SamplesPerPixel = 1
    result.PhotometricInterpretation = "MONOCHROME2"
    result.Rows, result.Columns = volume.voxels.shape[1:]
    result.BitsAllocated = bits
    if volume.affine is None:  # PS3.3 C.7.6.1: PatientOrientation is type 2C
        for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
            result.pop(keyword, None)
        result.PatientOrientation = sources[0].get("PatientOrientation") or ""
    add_lossy_compression(result, (*sources, *provenance.others))
    request = sources[0].get("RequestAttributesSequence")
    if request:
        result.RequestAttributesSequence = list(request)


def add_dimensions(
    result: Dataset, provenance: Provenance, kind: str, volume: Volume, *, segmented: bool
) -> None:
    """Say by what the frames are ordered (PS3.3 C.7.6.17): segment, then place.

    Args:
        result: Changed in place.
        provenance: Gives the UID.
        kind: The kind of result.
        volume: Where it has no place in space the number in the stack stands for the position.
        segmented: Each frame belongs to one segment.
    """
    uid = provenance.uid(f"{kind}/dimensions")
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    result.DimensionOrganizationSequence = [organization]
    pointers = [("ReferencedSegmentNumber", 0x0062000B, 0x0062000A)] if segmented else []
    if volume.affine is not None:
        pointers.append(("ImagePositionPatient", 0x00200032, 0x00209113))
    else:
        pointers.append(("InStackPositionNumber", 0x00209057, 0x00209111))
    items = []
    for label, pointer, group in pointers:
        item = Dataset()
        item.DimensionOrganizationUID = uid
        item.DimensionIndexPointer = pointer
        item.FunctionalGroupPointer = group
        item.DimensionDescriptionLabel = label
        items.append(item)
    result.DimensionIndexSequence = items


def pixel_spacing(source: Dataset, *keywords: str) -> Sequence[Any] | None:
    """The first of some spacings of an image that says one: zero, as some write it, says none.

    Args:
        source: The image.
        keywords: ``PixelSpacing``, ``ImagerPixelSpacing``; each between rows, then columns, mm.
    """
    found = (source.get(keyword) for keyword in keywords)
    return next((each for each in found if each and min(float(part) for part in each) > 0), None)


def shared_groups(volume: Volume, source: Dataset) -> Dataset:
    """Functional groups of all frames: pixel measures and plane orientation, where known."""
    shared = Dataset()
    spacing = pixel_spacing(source, "PixelSpacing")
    if spacing:
        measures = Dataset()
        measures.PixelSpacing = _decimals(spacing)
        if volume.affine is not None:
            _add_depth(measures, volume, volume.affine, source)
        shared.PixelMeasuresSequence = [measures]
    if volume.affine is not None:
        orientation = Dataset()
        orientation.ImageOrientationPatient = _decimals(source.ImageOrientationPatient)
        shared.PlaneOrientationSequence = [orientation]
    return shared


def _add_depth(
    measures: Dataset, volume: Volume, affine: NDArray[np.float64], source: Dataset
) -> None:
    # PS3.3 C.7.6.16.2.1: a segmentation in space must have a thickness. Where nobody says one it is
    # the step of the grid that the model saw; the spacing need not be there, and is not made up.
    between = volume.spacing[0] or source.get("SliceThickness")
    thickness = source.get("SliceThickness") or between or np.linalg.norm(affine[:3, 0])
    (measures.SliceThickness,) = _decimals([thickness])
    if between:
        (measures.SpacingBetweenSlices,) = _decimals([between])


def add_frame_groups(
    result: Dataset,
    volume: Volume,
    sources: Sequence[Dataset],
    segments: Sequence[int | None] = (None,),
    derivation: Code = codes.SEGMENTATION,
) -> None:
    """Write the functional groups of each frame: all slices of one segment, then of the next.

    They are encoded here, what a slice and what a segment brings once each: the frames of a slice
    differ in two numbers, and a segmentation may have thousands.

    Args:
        result: Changed in place; for Explicit VR Little Endian.
        volume: Whether frames have a place in space.
        sources: One a slice, in the volume's order.
        segments: Segment number that a run over all slices belongs to, or None.
        derivation: How a frame came of its source (PS3.16 CID 7203).
    """
    slices = [
        (_origin(source, derivation), _content(volume, index, segments), _position(volume, source))
        for index, source in enumerate(sources)
    ]
    frames: list[bytes] = []
    for number in segments:
        segment = b"" if number is None else _segment(number)
        for index, (origin, content, position) in enumerate(slices):
            values = (index + 1,) if number is None else (number, index + 1)
            # Dimension Index Values (UL) are what the frame content ends with.
            indices = struct.pack(f"<{len(values)}I", *values)
            frame = b"".join((origin, content[: -len(indices)], indices, position, segment))
            frames += (_ITEM.pack(0xFFFE, 0xE000, len(frame)), frame)
    value = b"".join(frames)
    tag = Tag("PerFrameFunctionalGroupsSequence")
    result[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _origin(source: Dataset, derivation: Code) -> bytes:
    image = image_reference(source)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    item = Dataset()
    item.DerivationCodeSequence = [code_item(derivation)]
    item.SourceImageSequence = [image]
    return _encoded("DerivationImageSequence", item)


def _content(volume: Volume, index: int, segments: Sequence[int | None]) -> bytes:
    content = Dataset()
    if volume.affine is None:
        content.StackID = _STACK
        content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [0] if None in segments else [0, 0]
    return _encoded("FrameContentSequence", content)


def _position(volume: Volume, source: Dataset) -> bytes:
    if volume.affine is None:
        return b""
    position = Dataset()
    position.ImagePositionPatient = _decimals(source.ImagePositionPatient)
    return _encoded("PlanePositionSequence", position)


def _segment(number: int) -> bytes:
    identification = Dataset()
    identification.ReferencedSegmentNumber = number
    return _encoded("SegmentIdentificationSequence", identification)


def _encoded(keyword: str, item: Dataset) -> bytes:
    """A sequence of one item in Explicit VR Little Endian."""
    dataset = Dataset()
    setattr(dataset, keyword, [item])
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _decimals(values: Iterable[Any]) -> list[Any]:
    # Sources are met whose DS is longer than the 16 characters of PS3.5 6.2.
    return [DS(float(value), auto_format=True) for value in values]

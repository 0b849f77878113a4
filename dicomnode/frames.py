"""One header a frame: what an object of many frames says about each of them.

Everything above the files works with one header a slice. For a single-frame object that is the
header of the file; of a multi-frame object it is made here, with the attributes of the shared and
per-frame functional groups (PS3.3 C.7.6.16) where a single-frame object has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from config.errors import MalformedError

MAX_FRAMES = 1 << 15

_SHARED = "SharedFunctionalGroupsSequence"
_PER_FRAME = "PerFrameFunctionalGroupsSequence"


def _same(*keywords: str) -> dict[str, str]:
    return {keyword: keyword for keyword in keywords}


# Functional group macro → its attributes → where a single-frame object has them.
_MACROS: Mapping[str, Mapping[str, str]] = {
    # PS3.3 C.7.6.16.2, of all kinds of images
    "PixelMeasuresSequence": _same("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": _same("ImagePositionPatient"),
    "PlaneOrientationSequence": _same("ImageOrientationPatient"),
    "PixelValueTransformationSequence": _same("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": _same(
        "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"
    ),
    "FrameAnatomySequence": {
        "FrameLaterality": "ImageLaterality",
        **_same("AnatomicRegionSequence"),
    },
    "FrameContentSequence": {
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "FrameAcquisitionDateTime": "AcquisitionDateTime",
        **_same(
            "FrameReferenceDateTime",
            "FrameAcquisitionDuration",
            "StackID",
            "InStackPositionNumber",
            "TemporalPositionIndex",
        ),
    },
    "TemporalPositionSequence": _same("TemporalPositionTimeOffset"),
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": "TriggerTime"},
    # C.8.15.3, computed tomography
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTAcquisitionTypeSequence": _same("AcquisitionType"),
    "CTAcquisitionDetailsSequence": _same("GantryDetectorTilt"),
    "CTReconstructionSequence": _same("ConvolutionKernel", "ReconstructionDiameter"),
    "CTXRayDetailsSequence": _same("KVP"),
    # C.8.13.5, magnetic resonance
    "MRImageFrameTypeSequence": {"FrameType": "ImageType"},
    "MRTimingAndRelatedParametersSequence": _same("RepetitionTime", "FlipAngle", "EchoTrainLength"),
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": _same("DiffusionBValue", "DiffusionDirectionality"),
    # C.8.22.5, positron emission tomography
    "PETFrameTypeSequence": {"FrameType": "ImageType"},
    "PETFrameAcquisitionSequence": _same("TableHeight"),
    # C.8.14.3 and others, converted from single-frame objects
    "XAXRFFrameCharacteristicsSequence": _same("DerivationDescription"),
}

# Macros of several items, which are taken as they are (PS3.3 C.7.6.16.2.11).
_WHOLE = ("RealWorldValueMappingSequence",)


class FrameHeader(Dataset):
    """The header of one frame of a multi-frame object.

    It has the attributes of the file, its SOP Class and Instance UID among them, and in their
    classic places those of the frame's functional groups; the functional groups themselves and
    NumberOfFrames are left out. It is read, never changed.

    Attributes:
        number: Which frame, from 1, as ReferencedFrameNumber counts.
    """

    number: int

    @classmethod
    def of(
        cls,
        header: Dataset,
        base: Mapping[BaseTag, object],
        own: Mapping[BaseTag, object],
        number: int,
    ) -> FrameHeader:
        """A header with the elements `base`, over them `own`, encoded as those of `header`."""
        view = cls()
        view.__dict__.update(header.__dict__)  # character set, where deferred values lie
        view._dict = {**base, **own} if own else base  # type: ignore[dict-item,assignment]
        view.number = number
        return view


def frame_number(header: Dataset) -> int | None:
    """The frame that a header is of, from 1; None for a single-frame object."""
    return header.number if isinstance(header, FrameHeader) else None


def frame_headers(header: Dataset) -> tuple[Dataset, ...]:
    """One header a frame, in the order of the frames in the file.

    Args:
        header: The header of a file. One that is of a frame already is given back.

    Returns:
        `FrameHeader` of each frame; of a single-frame object the header itself. An object with
        functional groups is a multi-frame object even where it has one frame only.

    Raises:
        MalformedError: NumberOfFrames is no number from 1 to `MAX_FRAMES`, or there are more or
            fewer items of per-frame functional groups.
    """
    if isinstance(header, FrameHeader):
        return (header,)
    frames = number_of_frames(header)
    if frames == 1 and _PER_FRAME not in header:
        return (header,)
    if frames > MAX_FRAMES:
        raise MalformedError(f"it has more than {MAX_FRAMES} frames")
    per_frame = _items(header, _PER_FRAME)
    if _PER_FRAME in header and len(per_frame) != frames:
        raise MalformedError(f"{_PER_FRAME} has {len(per_frame)} items for {frames} frames")
    dropped = {tag_for_keyword(keyword) for keyword in (_SHARED, _PER_FRAME, "NumberOfFrames")}
    base: dict[BaseTag, object] = {
        tag: _parsed(header, tag, stored) for tag, stored in header.items() if tag not in dropped
    }
    for group in _items(header, _SHARED):
        base.update(_brought(group))
    owns = [dict(_brought(group)) for group in per_frame] or _stacked(header, frames)
    return tuple(FrameHeader.of(header, base, own, at + 1) for at, own in enumerate(owns))


def _parsed(header: Dataset, tag: BaseTag, stored: object) -> object:
    """An element parsed once for all frames; as it stands where that fails or would read much."""
    if not isinstance(stored, RawDataElement) or stored.value is None:
        return stored
    try:
        return header[tag]
    except Exception:  # a peer's value: whoever asks for it learns that it cannot be read
        return stored


def number_of_frames(header: Dataset) -> int:
    """NumberOfFrames, 1 where the header does not say.

    Raises:
        MalformedError: It is no whole number of 1 or more.
    """
    try:
        found = header.get("NumberOfFrames")
        frames = int(found) if found not in (None, "") else 1
    except Exception as error:  # values are a peer's and parsed when first asked for
        raise MalformedError("NumberOfFrames is not a number") from error
    if frames < 1:
        raise MalformedError("NumberOfFrames is not a number of 1 or more")
    return frames


def _brought(group: Dataset) -> Iterator[tuple[BaseTag, object]]:
    """The elements of one item of functional groups with their classic tags."""
    for macro, attributes in _MACROS.items():
        items = _items(group, macro)
        if len(items) != 1:  # each of these macros has one item; which of several would count?
            continue
        for keyword, classic in attributes.items():
            element = _element(items[0], keyword)
            tag = tag_for_keyword(classic)
            if element is not None and tag is not None:
                yield Tag(tag), _renamed(element, Tag(tag))
    for keyword in _WHOLE:
        element = _element(group, keyword)
        if element is not None:
            yield element.tag, element


def _stacked(header: Dataset, frames: int) -> list[dict[BaseTag, object]]:
    """What frames without functional groups say: where they lie, of a reconstructed NM stack.

    The detector's item places the first slice; the others follow along its normal, or against it
    where SpacingBetweenSlices is negative (PS3.3 C.8.4.11, C.8.4.15).
    """
    detectors = _items(header, "DetectorInformationSequence")
    if len(detectors) != 1 or frames == 1:
        return [{}] * frames
    first = _floats(detectors[0], "ImagePositionPatient", 3)
    cosines = _floats(detectors[0], "ImageOrientationPatient", 6)
    step = _floats(header, "SpacingBetweenSlices", 1)
    places = _floats(header, "SliceVector", frames)
    if first is None or cosines is None or step is None or places is None:
        return [{}] * frames
    along = np.cross(cosines[:3], cosines[3:]) * step
    positions = first + np.outer(places - 1, along)
    return [
        {
            Tag(keyword): DataElement(Tag(keyword), "DS", [float(f"{v:.10g}") for v in entries])
            for keyword, entries in (
                ("ImagePositionPatient", position),
                ("ImageOrientationPatient", cosines),
            )
        }
        for position in positions
    ]


def _floats(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    element = _element(dataset, keyword)
    if element is None or element.value is None:
        return None
    try:
        found = np.atleast_1d(np.asarray(element.value, np.float64))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == (count,) and np.isfinite(found).all() else None


def _renamed(element: DataElement, tag: BaseTag) -> DataElement:
    if element.tag == tag:
        return element
    try:
        return DataElement(tag, element.VR, element.value)
    except Exception as error:  # as in `number_of_frames`
        raise MalformedError(f"{element.keyword} cannot be read") from error


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    element = _element(dataset, keyword)
    return element.value if element is not None and isinstance(element.value, DicomSequence) else ()


def _element(dataset: Dataset, keyword: str) -> DataElement | None:
    if keyword not in dataset:
        return None
    try:
        return dataset[keyword]
    except Exception as error:  # as in `number_of_frames`
        raise MalformedError(f"{keyword} cannot be read") from error

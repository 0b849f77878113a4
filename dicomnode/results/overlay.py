"""Findings burned into pictures, for viewers that show nothing else.

Multi-frame True Color Secondary Capture (PS3.3 A.8.5): one frame a slice, the image in the middle,
around it what `rendering` writes. Viewers of the OHIF family and DCMTK show it as an image series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from ai.types import Answer, Volume
from dicomnode.results import codes
from dicomnode.results.document import (
    add_body_part,
    add_lossy_compression,
    image_reference,
    new_result,
)
from dicomnode.results.drawing import draw_cut
from dicomnode.results.provenance import WARNING, Provenance, code_item, plain
from dicomnode.results.regions import key_slices, slices_with_findings
from dicomnode.results.rendering import compose
from dicomnode.results.voi import voi_of

MOST_FRAMES: Final = 32
_SMALLEST: Final = 384  # longer side of the image in a frame, in pixels
_LARGEST: Final = 1024
# Modalities whose pixels are computed, so that nobody's name was ever in front of the camera.
_RECONSTRUCTED: Final = frozenset({"CT", "MR", "PT", "NM"})
_FRAME_LABEL_VECTOR: Final = 0x00182002


def build_overlay(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """Pictures of the slices that matter with what was found drawn on them.

    Args:
        answer: What the model said; without a located finding there is one frame that says so.
        volume: The primary input, ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: Sources and volume disagree.
    """
    if len(sources) != volume.voxels.shape[0]:
        raise ValueError(f"{len(sources)} sources for {volume.voxels.shape[0]} slices")
    model = provenance.model
    name = f"{model.name} {model.version}"
    result = new_result(
        sources,
        provenance,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
        "overlay",
        f"{name} overlay",
    )
    shown = shown_slices(answer, volume.voxels.shape[0])
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.ConversionType = "WSD"
    result.BurnedInAnnotation = "YES" if any(map(_may_name_patient, sources)) else "NO"
    add_lossy_compression(result, (*sources, *provenance.others))
    add_body_part(result, sources[0])
    result.PatientOrientation = ""
    result.SourceImageSequence = [_source_image(sources[index]) for index in shown]
    result.DerivationDescription = _derivation(sources, volume, shown)
    result.ImageComments = plain(WARNING)
    panels = [
        draw_cut(volume, answer, sources, index, longest=longest_side(volume)) for index in shown
    ]
    frames = np.stack([np.asarray(compose([panel], answer, name)) for panel in panels])
    _add_frames(result, frames, [f"slice {index + 1}" for index in shown])
    if panels[0].pixels_per_mm is not None and not panels[0].on_detector:
        result.PixelSpacing = [f"{1 / panels[0].pixels_per_mm:.10g}"] * 2
    return result


def shown_slices(answer: Answer, slices: int) -> list[int]:
    """The slices that get a frame, from 0, ascending.

    Every slice with a finding, or where there are more than `MOST_FRAMES`, those on which every
    finding is seen and others spread evenly over the rest.
    """
    needed = key_slices(answer, slices)
    others = [index for index in slices_with_findings(answer) if index not in needed]
    room = max(0, MOST_FRAMES - len(needed))
    if len(others) > room:
        places = np.linspace(0, len(others) - 1, room).round().astype(int)
        others = [others[place] for place in dict.fromkeys(places.tolist())]
    return sorted([*needed, *others])


def longest_side(volume: Volume) -> int:
    """Longer side of the image in a frame: the source's own where that is neither small nor large.

    Args:
        volume: The primary input, ``(slices, rows, columns)``.
    """
    rows, columns = (int(each) for each in volume.voxels.shape[1:])
    return min(max(rows, columns, _SMALLEST), _LARGEST)


def _may_name_patient(source: Dataset) -> bool:
    # PS3.3 C.7.6.1: what the source does not say is not known; then it counts as there.
    stated = source.get("BurnedInAnnotation")
    if stated in ("YES", "NO"):
        return bool(stated == "YES")
    return source.get("Modality") not in _RECONSTRUCTED


def _source_image(source: Dataset) -> Dataset:
    item = image_reference(source)
    item.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    return item


def _derivation(sources: Sequence[Dataset], volume: Volume, shown: Sequence[int]) -> str:
    used = dict.fromkeys(str(voi_of(sources[index], volume)) for index in shown)
    windows = "; ".join(list(used)[:4]) + ("; and others" if len(used) > 4 else "")
    return plain(f"Findings of software drawn over the images, shown with {windows}.", 1024)


def _add_frames(result: Dataset, frames: NDArray[np.uint8], labels: Sequence[str]) -> None:
    result.NumberOfFrames = len(frames)
    if len(frames) > 1:
        result.FrameIncrementPointer = _FRAME_LABEL_VECTOR
        result.FrameLabelVector = list(labels)
    result.SamplesPerPixel = 3
    result.PhotometricInterpretation = "RGB"
    result.PlanarConfiguration = 0
    result.Rows, result.Columns = frames.shape[1:3]
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    pixels = frames.tobytes()
    result.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))

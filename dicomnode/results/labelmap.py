"""Label map segmentation of a model's labels (PS3.3 A.51, C.8.20; 1.2.840.10008.5.1.4.1.1.66.7).

One frame a slice, whose pixels hold the number of their segment: a fifth of the frames of a binary
segmentation with five segments. Segments that overlap it cannot hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ai.types import Answer, Volume
from dicomnode.results import codes
from dicomnode.results.multiframe import add_dimensions
from dicomnode.results.provenance import Provenance, code_item
from dicomnode.results.seg import add_frames, checked_labels, new_segmentation

LABEL_MAP_SEGMENTATION_STORAGE: Final = UID("1.2.840.10008.5.1.4.1.1.66.7")
_BACKGROUND: Final = 0


def build_label_map(
    answer: Answer, volume: Volume, sources: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """The labels of an answer as a label map of 8 bits.

    Args:
        answer: With `labels` of shape ``(slices, rows, columns)``; the numbers of `segments` may
            leave gaps.
        volume: The primary input; its affine is None for an image without a place in space.
        sources: Header data sets, one a slice, in the volume's order.
        provenance: The job, node and model.

    Returns:
        A data set without file meta information, for Explicit VR Little Endian.

    Raises:
        ValueError: The answer has no labels, its segments may overlap, or labels, segments, volume
            and sources disagree.
    """
    if answer.overlap:
        raise ValueError("a label map holds no segments that overlap (PS3.3 C.8.20.2.3)")
    labels = checked_labels(answer, volume)
    known = np.zeros(256, bool)
    known[[_BACKGROUND, *(segment.number for segment in answer.segments)]] = True
    if not known[labels].all():
        raise ValueError("a label belongs to no segment")
    result = new_segmentation(
        answer,
        volume,
        sources,
        provenance,
        kind="labelmap",
        sop_class_uid=LABEL_MAP_SEGMENTATION_STORAGE,
        bits=8,
    )
    result.SegmentationType = "LABELMAP"
    result.SegmentsOverlap = "NO"
    result.PixelPaddingValue = _BACKGROUND
    result["PixelPaddingValue"].VR = "US"
    result.SegmentSequence = [_background(), *result.SegmentSequence]
    add_dimensions(result, provenance, "labelmap", volume, segmented=False)
    add_frames(result, volume, sources, [None])
    pixels = labels.tobytes()
    result.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
    return result


def _background() -> Dataset:
    # PS3.3 C.8.20.2: every pixel value has its segment; the padding value's is the background.
    item = Dataset()
    item.SegmentNumber = _BACKGROUND
    item.SegmentLabel = codes.BACKGROUND.meaning
    item.SegmentedPropertyCategoryCodeSequence = [code_item(codes.BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(codes.BACKGROUND)]
    item.SegmentAlgorithmType = "AUTOMATIC"
    item.SegmentAlgorithmName = "-"
    item.RecommendedDisplayCIELabValue = [0, 0x8080, 0x8080]
    return item

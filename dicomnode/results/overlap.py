"""How far two segmentations of the same images agree (Dice 1945, doi:10.2307/1932409)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.results.content import items_of

_Place = tuple[str, str, str]
"""Label of the segment, SOP Instance UID of the source image, number of its frame."""


@dataclass
class Overlap:
    """Voxels of one label in two segmentations.

    Attributes:
        one: Voxels in the first.
        other: Voxels in the second.
        both: Voxels in both.
    """

    one: int = 0
    other: int = 0
    both: int = 0

    def add(self, more: Overlap) -> None:
        """Count another pair of segmentations in."""
        self.one, self.other = self.one + more.one, self.other + more.other
        self.both += more.both

    @property
    def dice(self) -> float | None:
        """From 0, no voxel in common, to 1, the same voxels; None where both are empty."""
        total = self.one + self.other
        return 2 * self.both / total if total else None


def overlaps(one: Dataset, other: Dataset) -> dict[str, Overlap]:
    """The voxels of each label in two binary segmentations, native, of the same images.

    Labels are held against each other by Segment Label (0062,0005), frames by the image they were
    made of (Derivation Image, PS3.3 C.7.6.16.2.6), so neither numbers nor the order need agree.

    Raises:
        MalformedError: One is no binary segmentation, or does not say what its frames are of.
    """
    first, second = _Frames(one), _Frames(other)
    if first.size != second.size:
        raise MalformedError("the segmentations are of another matrix size")
    found: dict[str, Overlap] = {label: Overlap() for label in (*first.labels, *second.labels)}
    for place in dict.fromkeys((*first.places, *second.places)):
        masks = first.mask(place), second.mask(place)
        counts = [0 if mask is None else int(np.count_nonzero(mask)) for mask in masks]
        whole = masks[0] is not None and masks[1] is not None
        both = int(np.count_nonzero(masks[0] & masks[1])) if whole else 0  # type: ignore[operator]
        found[place[0]].add(Overlap(counts[0], counts[1], both))
    return found


class _Frames:
    """The frames of a binary segmentation by what they are of; one is unpacked at a time."""

    def __init__(self, written: Dataset) -> None:
        if written.get("SegmentationType") != "BINARY":
            raise MalformedError("it is no binary segmentation")
        self.size = int(written.get("Rows", 0)) * int(written.get("Columns", 0))
        self._packed = np.frombuffer(written.get("PixelData") or b"", np.uint8)
        numbered = {
            int(entry.get("SegmentNumber", 0)): str(entry.get("SegmentLabel"))
            for entry in items_of(written, "SegmentSequence")
        }
        self.labels = tuple(numbered.values())
        shared = next(iter(items_of(written, "SharedFunctionalGroupsSequence")), Dataset())
        self.places: dict[_Place, int] = {}
        for number, groups in enumerate(items_of(written, "PerFrameFunctionalGroupsSequence")):
            place = _place(groups, shared, numbered)
            if place is None or (number + 1) * self.size > 8 * self._packed.size:
                raise MalformedError(f"frame {number + 1} does not say what it is of")
            self.places[place] = number

    def mask(self, place: _Place) -> NDArray[np.bool_] | None:
        """The pixels of one frame in a row, or None where there is none."""
        if place not in self.places:
            return None
        first = self.places[place] * self.size
        packed = self._packed[first // 8 : (first + self.size + 7) // 8]
        bits = np.unpackbits(packed, bitorder="little")
        return bits[first % 8 : first % 8 + self.size].astype(bool)


def _place(groups: Dataset, shared: Dataset, labels: dict[int, str]) -> _Place | None:
    both = (groups, shared)
    segments = (
        item.get("ReferencedSegmentNumber")
        for group in both
        for item in items_of(group, "SegmentIdentificationSequence")
    )
    sources = (
        image
        for group in both
        for derivation in items_of(group, "DerivationImageSequence")
        for image in items_of(derivation, "SourceImageSequence")
    )
    segment, source = next(segments, None), next(sources, None)
    if segment not in labels or source is None:
        return None
    image = str(source.get("ReferencedSOPInstanceUID"))
    return labels[segment], image, str(source.get("ReferencedFrameNumber", ""))

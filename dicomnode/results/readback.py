"""The geometric part of the gate: a written segmentation, mapped to patient space and compared.

It shares no code with the writer: positions come from the functional groups of the file, pixels
from its bytes, with pydicom and numpy alone. One frame is unpacked at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.label_values import MOST, LabelVolume, type_of, value_of
from ai.types import Volume
from config.errors import MalformedError
from dicomnode.frames import frame_number
from dicomnode.results.content import items_of
from dicomnode.results.proof import GateFinding, ProofContext

_CLAUSE: Final = "PS3.3 C.7.6.2.1.1"
# The macros that say where a frame lies.
_PLACING: Final = (
    "DerivationImageSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Marks:
    """A mask without its empty first and last rows, and how many pixels its lines hold."""

    mask: NDArray[np.bool_]
    first_row: int
    by_row: NDArray[np.int64]
    by_column: NDArray[np.int64]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> _Marks:
        """Of a mask ``(rows, columns)``."""
        held = np.flatnonzero(mask.any(axis=1))
        first, last = (int(held[0]), int(held[-1]) + 1) if held.size else (0, 0)
        part = mask[first:last]
        return cls(part, first, part.sum(axis=1), part.sum(axis=0))


@dataclass
class _Sums:
    """Moments of a set of voxels: how many, the sum of their places, how many lie left."""

    count: int = 0
    places: Array = field(default_factory=lambda: np.zeros(3))
    left: int = 0

    def add(self, marks: _Marks, plane: Array, middle: float) -> None:
        """Take in one frame.

        Args:
            marks: Its mask.
            plane: ``(3, 3)``; columns are the step of a row index, of a column index, the origin.
            middle: x of the plane that parts left from right, in the same space.
        """
        rows, columns = (
            marks.first_row + np.arange(len(marks.by_row)),
            np.arange(len(marks.by_column)),
        )
        count = int(marks.by_row.sum())
        index = (marks.by_row @ rows, marks.by_column @ columns, count)
        self.count += count
        self.places += plane @ np.array(index, dtype=float)
        down, across = plane[0, 2] + plane[0, 0] * rows, plane[0, 1] * columns
        if plane[0, 0] == 0:  # x is the same all along a column
            self.left += int(marks.by_column[down[0] + across > middle].sum()) if count else 0
        elif plane[0, 1] == 0:
            self.left += int(marks.by_row[down > middle].sum())
        else:
            self.left += int(np.count_nonzero(marks.mask & (np.add.outer(down, across) > middle)))


@dataclass(frozen=True)
class Frame:
    """One frame of a segmentation in its source's space.

    Attributes:
        segment: Number of the segment it belongs to.
        slice_index: The source slice it lies on, from 0.
        plane: ``(3, 3)``; columns are the step of a row index, of a column index and the first
            pixel's centre, LPS mm, or pixels where the source has no place in space.
        mask: ``(rows, columns)``.
    """

    segment: int
    slice_index: int
    plane: Array
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class PlacedFrame:
    """Where one frame of a result lies.

    Attributes:
        segment: Number of the segment it belongs to, or None where it says none.
        slice_index: The source slice it lies on, from 0.
        plane: As in `Frame`, where the file puts it.
        expected: The same, where the source slice lies.
    """

    segment: int | None
    slice_index: int
    plane: Array
    expected: Array


def compare_segmentation(written: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """What differs between a written segmentation and the labels it should hold.

    Args:
        written: A binary segmentation, native, read back from its file.
        context: With `labels` ``(slices, rows, columns)``, their geometry and sources.

    Yields:
        A finding for each segment whose centroid is off by more than half a voxel, whose volume by
        more than 1 %, whose share on the left differs, or whose voxels do not coincide; and one
        where it says of overlap what is not so.
    """
    answer, volume, sources = context.answer, context.volume, context.sources
    labels = answer.labels
    if labels is None:
        yield GateFinding("geometry", _CLAUSE, "a segmentation was written for no labels")
        return
    if written.get("SegmentsOverlap") != ("YES" if answer.segments_overlap else "NO"):
        text = "the segmentation says of its segments' overlap what is not so"
        yield GateFinding("content", "PS3.3 C.8.20.2.3", text)
    space = _space(volume)
    # The plane that parts left from right, moved off the voxel centres that may lie on it exactly.
    middle = float((space @ [*((np.array(labels.shape) - 1) / 2), 1])[0])
    middle += 0.25 * float(np.linalg.norm(space[:3, :3], axis=0).min())
    numbers = [segment.number for segment in answer.segments]
    found: dict[int, _Sums] = {number: _Sums() for number in numbers}
    wanted: dict[int, _Sums] = {number: _Sums() for number in numbers}
    wrong: dict[int, int] = dict.fromkeys(numbers, 0)
    seen: set[tuple[int, int]] = set()

    def place(index: int) -> Array:
        return np.column_stack([space[:3, 1], space[:3, 2], space[:3] @ [index, 0, 0, 1]])

    try:
        volume_ratio = _voxel_ratio(written, volume, space)
        for frame in frames_of(written, volume, sources):
            number, index = frame.segment, frame.slice_index
            if number not in found:
                text = f"a frame belongs to the unknown segment {number}"
                yield GateFinding("geometry", "PS3.3 C.8.20.3.1", text)
                return
            marks = _Marks.of(frame.mask)
            found[number].add(marks, frame.plane, middle)
            said = answer.mask(number, index)
            off = int(np.count_nonzero(said != frame.mask))
            wrong[number] += off
            if (number, index) not in seen:
                seen.add((number, index))
                wanted[number].add(_Marks.of(said) if off else marks, place(index), middle)
    except MalformedError as error:
        yield GateFinding("geometry", _CLAUSE, str(error))
        return
    for number in numbers:
        for index in range(labels.shape[0]):
            if (number, index) not in seen:
                wanted[number].add(_Marks.of(answer.mask(number, index)), place(index), middle)
        yield from _differences(
            number,
            found[number],
            wanted[number],
            wrong=wrong[number],
            volume_ratio=volume_ratio,
            space=space,
        )


def _differences(
    number: int, found: _Sums, wanted: _Sums, *, wrong: int, volume_ratio: float, space: Array
) -> Iterator[GateFinding]:
    def finding(text: str) -> GateFinding:
        return GateFinding("geometry", _CLAUSE, f"segment {number} {text}")

    if abs(found.count * volume_ratio - wanted.count) > 0.01 * wanted.count:
        yield finding("has another volume than the model's labels")
    if wrong > 0.01 * wanted.count:
        yield finding(f"differs from the model's labels in {wrong} voxels")
    if found.count == 0 or wanted.count == 0:
        return
    apart = found.places / found.count - wanted.places / wanted.count
    if np.abs(np.linalg.solve(space[:3, :3], apart)).max() > 0.5:
        yield finding(f"lies {np.linalg.norm(apart):.3g} mm from where the model saw it")
    if abs(found.left / found.count - wanted.left / wanted.count) > 0.25:
        yield finding("lies on another side of the patient")


def _space(volume: Volume) -> Array:
    # An image without a place is compared in its own pixels: x columns, y rows, z slices.
    return np.eye(4)[[2, 1, 0, 3]] if volume.affine is None else volume.affine


def frames_of(written: Dataset, volume: Volume, sources: Sequence[Dataset]) -> Iterator[Frame]:
    """The frames of a binary segmentation, unpacked one at a time.

    Args:
        written: With native pixel data.
        volume: The source, ``(slices, rows, columns)``.
        sources: One a slice, in the same order.

    Yields:
        Every frame, in the order of the file.

    Raises:
        MalformedError: It does not say where a frame lies, or not where its source lies.
    """
    rows, columns = volume.voxels.shape[1:]
    packed = np.frombuffer(written.get("PixelData") or b"", np.uint8)
    size = rows * columns
    for number, placed in enumerate(placed_frames(written, volume, sources)):
        if placed.segment is None:
            raise MalformedError(f"frame {number + 1} names no segment")
        first, last = number * size, (number + 1) * size
        bits = np.unpackbits(packed[first // 8 : (last + 7) // 8], bitorder="little")
        if bits.size < size:
            raise MalformedError(f"frame {number + 1} has no pixels")
        mask = bits[first % 8 : first % 8 + size].astype(bool).reshape(rows, columns)
        yield Frame(placed.segment, placed.slice_index, placed.plane, mask)


def placed_frames(
    written: Dataset, volume: Volume, sources: Sequence[Dataset]
) -> Iterator[PlacedFrame]:
    """Where the frames of a multi-frame result lie, in the order of the file.

    Args:
        written: Read back from its file.
        volume: The source, ``(slices, rows, columns)``.
        sources: One a slice, in the same order.

    Raises:
        MalformedError: It does not say where a frame lies, or not where its source lies.
    """
    shape, space = volume.voxels.shape, _space(volume)
    if (written.get("Rows"), written.get("Columns")) != shape[1:]:
        raise MalformedError("the result has another matrix size than its source")
    shared = next(iter(items_of(written, "SharedFunctionalGroupsSequence")), Dataset())
    slices = {
        (str(source.SOPInstanceUID), frame_number(source)): index
        for index, source in enumerate(sources)
    }
    # Frames of one slice share their macros, see `dicomnode.results.sharing`.
    known: dict[tuple[int, ...], tuple[int, Array, Array]] = {}
    for number, groups in enumerate(items_of(written, "PerFrameFunctionalGroupsSequence")):
        segment = _value(groups, shared, "SegmentIdentification", "ReferencedSegmentNumber")
        key = tuple(id(groups.get(macro)) for macro in _PLACING)
        if key not in known:
            index = slices.get(_source_of(groups, shared))
            if index is None:
                raise MalformedError(f"frame {number + 1} names no source image")
            expected = np.column_stack([space[:3, 1], space[:3, 2], space[:3] @ [index, 0, 0, 1]])
            plane = expected if volume.affine is None else _plane(groups, shared, number)
            if int(np.rint(np.linalg.solve(space, [*plane[:, 2], 1])[0])) != index:
                raise MalformedError(f"frame {number + 1} does not lie on the image it names")
            known[key] = index, plane, expected
        yield PlacedFrame(None if segment is None else int(segment), *known[key])


def _value(groups: Dataset, shared: Dataset, macro: str, keyword: str) -> Any:
    for group in (groups, shared):
        for item in items_of(group, f"{macro}Sequence"):
            return item.get(keyword)
    return None


def _source_of(groups: Dataset, shared: Dataset) -> tuple[str, int | None]:
    for group in (groups, shared):
        for derivation in items_of(group, "DerivationImageSequence"):
            for image in items_of(derivation, "SourceImageSequence"):
                frame = image.get("ReferencedFrameNumber")
                number = int(frame) if isinstance(frame, int | str) else None
                return str(image.get("ReferencedSOPInstanceUID")), number
    return "", None


def _plane(groups: Dataset, shared: Dataset, number: int) -> Array:
    # PS3.3 Equation C.7.6.2.1-1: the first triplet of the orientation is where columns grow, the
    # first spacing is between rows.
    position = _numbers(groups, shared, "PlanePosition", "ImagePositionPatient", 3)
    orientation = _numbers(groups, shared, "PlaneOrientation", "ImageOrientationPatient", 6)
    spacing = _numbers(groups, shared, "PixelMeasures", "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        raise MalformedError(f"frame {number + 1} has no place in patient space")
    return np.column_stack([orientation[3:] * spacing[0], orientation[:3] * spacing[1], position])


def _numbers(
    groups: Dataset, shared: Dataset, macro: str, keyword: str, count: int
) -> Array | None:
    value = _value(groups, shared, macro, keyword)
    if value is None or isinstance(value, str | float | int) or len(value) != count:
        return None
    return np.array([float(each) for each in value])


def _voxel_ratio(written: Dataset, volume: Volume, space: Array) -> float:
    # Volume of a written voxel over that of the source; the written depth counts where it is said.
    if volume.affine is None:
        return 1.0
    shared = next(iter(items_of(written, "SharedFunctionalGroupsSequence")), Dataset())
    spacing = _numbers(Dataset(), shared, "PixelMeasures", "PixelSpacing", 2)
    if spacing is None:
        raise MalformedError("the segmentation shares no pixel spacing among its frames")
    depth = _value(Dataset(), shared, "PixelMeasures", "SpacingBetweenSlices")
    steps = np.linalg.norm(space[:3, :3], axis=0)
    between = float(depth) if depth is not None and volume.voxels.shape[0] > 1 else steps[0]
    return float(spacing[0] * spacing[1] * between / steps.prod())


def labels_of(
    written: Dataset, volume: Volume, sources: Sequence[Dataset], *, overlap: bool = False
) -> LabelVolume:
    """The label volume that a binary segmentation holds, of the shape of its source.

    Args:
        written: A binary segmentation, native.
        volume: Its source, ``(slices, rows, columns)``.
        sources: One a slice, in the same order.
        overlap: Its segments overlap, so that each has a bit of its own in every voxel; otherwise
            a voxel has the number of the one that comes last.

    Raises:
        MalformedError: The frames do not say where they lie, or do not fit the source, or there
            are more segments than a label volume can hold.
    """
    numbers = [int(item.get("SegmentNumber") or 0) for item in items_of(written, "SegmentSequence")]
    if not numbers or min(numbers) < 1 or max(numbers) > MOST[overlap]:
        raise MalformedError(f"its segments are not numbered from 1 to {MOST[overlap]} at most")
    labels = np.zeros(volume.voxels.shape, type_of(max(numbers), overlap=overlap))
    for frame in frames_of(written, volume, sources):
        if frame.segment not in numbers:
            raise MalformedError(f"a frame belongs to the unknown segment {frame.segment}")
        plane = labels[frame.slice_index]
        value = labels.dtype.type(value_of(frame.segment, overlap=overlap))
        plane[frame.mask] = (plane[frame.mask] | value) if overlap else value
    return labels

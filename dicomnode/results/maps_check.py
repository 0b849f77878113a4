"""The part of the gate for label maps, fractional segmentations and heat maps, read back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.results import codes
from dicomnode.results.content import code_of, items_of
from dicomnode.results.proof import GateFinding, ProofContext
from dicomnode.results.readback import PlacedFrame, placed_frames

Wanted = Callable[[int | None, int], NDArray[Any] | None]

# Of a voxel; what a frame may lie off its source.
_HALF: Final = 0.5
# A probability is stored in steps of one 255th and rounded.
_STEP: Final = 0.5 / 255 + 1e-6


def compare_label_map(written: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A label map holds the labels of the answer, each on its slice, and describes its segments.

    Args:
        written: A label map of 8 bits, native, read back from its file.
        context: With `labels` ``(slices, rows, columns)``.
    """
    labels = context.answer.labels
    pixels = np.frombuffer(written.get("PixelData") or b"", np.uint8)
    yield from _compare_segments(written, context, background=True)
    if context.answer.overlap:
        text = "a label map holds no segments that overlap"
        yield _wrong("content", "PS3.3 C.8.20.2.3", text)
    if written.get("SegmentationType") != "LABELMAP" or written.get("PixelPaddingValue") != 0:
        yield _wrong("structure", "PS3.3 C.8.20.2", "it is no label map on a background of 0")
    yield from _compare_frames(
        written,
        context,
        pixels,
        lambda segment, index: None if labels is None or segment is not None else labels[index],
    )


def compare_fractional(written: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A fractional segmentation holds the probabilities of the answer to half a step.

    Args:
        written: Of 8 bits, native, read back from its file.
        context: With `probabilities` ``(segments, slices, rows, columns)``.
    """
    probabilities = context.answer.probabilities
    numbers = {each.number: at for at, each in enumerate(context.answer.segments)}
    steps = written.get("MaximumFractionalValue")
    kind = (written.get("SegmentationType"), written.get("SegmentationFractionalType"))
    if kind != ("FRACTIONAL", "PROBABILITY") or steps != 255:
        yield _wrong("structure", "PS3.3 C.8.20.2", "it is no probability in steps of one 255th")
        return
    yield from _compare_segments(written, context, background=False)

    def wanted(segment: int | None, index: int) -> NDArray[Any] | None:
        if probabilities is None or segment not in numbers:
            return None
        plane: NDArray[Any] = probabilities[numbers[segment], index]
        return plane

    pixels = np.frombuffer(written.get("PixelData") or b"", np.uint8)
    yield from _compare_frames(
        written,
        context,
        pixels,
        wanted,
        channels=numbers,
        tolerance=_STEP,
        scale=np.float32(1 / 255),
    )


def compare_saliency(written: Dataset, context: ProofContext) -> Iterator[GateFinding]:
    """A heat map holds the saliency of the answer bit by bit and names the finding it explains.

    Args:
        written: A parametric map of floats, read back from its file.
        context: With `saliency`.
    """
    saliency = context.answer.saliency
    values = np.frombuffer(written.get("FloatPixelData") or b"", "<f4")
    yield from _compare_frames(
        written,
        context,
        values,
        lambda segment, index: None if saliency is None else saliency.values[index],
    )
    if saliency is None:
        return
    finding = next(each for each in context.answer.findings if each.name == saliency.finding)
    shared = items_of(written, "SharedFunctionalGroupsSequence")
    mappings = [item for each in shared for item in items_of(each, "RealWorldValueMappingSequence")]
    for mapping in mappings:
        line = (mapping.get("RealWorldValueIntercept"), mapping.get("RealWorldValueSlope"))
        if line != (0.0, 1.0):
            yield _wrong("value", "PS3.3 C.7.6.16.2.11", "the stored values are not the real ones")
        said = {
            code_of(item, "ConceptNameCodeSequence"): code_of(item, "ConceptCodeSequence")
            for item in items_of(mapping, "QuantityDefinitionSequence")
        }
        expected = {
            (codes.QUANTITY.value, "SCT"): (saliency.meaning.value, saliency.meaning.scheme),
            (codes.FINDING.value, "DCM"): (finding.type.value, finding.type.scheme),
        }
        if said != expected:
            text = "it does not say what its values are and of which finding"
            yield _wrong("content", "PS3.3 A.75.5.1", text)
    if len(mappings) != 1:
        yield _wrong("structure", "PS3.3 C.7.6.16.2.11", "it has not one real-world value mapping")


def _wrong(code: str, clause: str, text: str) -> GateFinding:
    return GateFinding(code, clause, text)


def _compare_segments(
    written: Dataset, context: ProofContext, *, background: bool
) -> Iterator[GateFinding]:
    described = {
        item.get("SegmentNumber"): code_of(item, "SegmentedPropertyTypeCodeSequence")
        for item in items_of(written, "SegmentSequence")
    }
    expected: dict[Any, tuple[str, str] | None] = {
        each.number: (each.type.value, each.type.scheme) for each in context.answer.segments
    }
    if background:
        expected[0] = (codes.BACKGROUND.value, codes.BACKGROUND.scheme_designator)
    if described != expected:
        text = "its segments are not those of the model, with their numbers and types"
        yield _wrong("content", "PS3.3 C.8.20.4", text)


def _compare_frames(
    written: Dataset,
    context: ProofContext,
    pixels: NDArray[Any],
    wanted: Wanted,
    *,
    channels: Collection[int | None] = (None,),
    tolerance: float = 0.0,
    scale: np.float32 | None = None,
) -> Iterator[GateFinding]:
    rows, columns = context.volume.voxels.shape[1:]
    size = rows * columns
    seen: list[tuple[int | None, int]] = []
    try:
        for number, frame in enumerate(placed_frames(written, context.volume, context.sources)):
            stored = pixels[number * size : (number + 1) * size]
            expected = wanted(frame.segment, frame.slice_index)
            if expected is None or stored.size < size:
                text = f"frame {number + 1} has no pixels or belongs to nothing of the answer"
                yield _wrong("structure", "PS3.3 C.7.6.16", text)
                return
            seen.append((frame.segment, frame.slice_index))
            plane = stored.reshape(rows, columns)
            if not _equal(plane if scale is None else plane * scale, expected, tolerance):
                text = f"frame {number + 1} differs from what the model said of its slice"
                yield _wrong("geometry", "PS3.3 C.7.6.16", text)
            if _off(frame, rows, columns) > _HALF:
                text = f"frame {number + 1} lies more than half a pixel off its source"
                yield _wrong("geometry", "PS3.3 C.7.6.2.1.1", text)
    except MalformedError as error:
        yield _wrong("geometry", "PS3.3 C.7.6.2.1.1", str(error))
        return
    every = {(each, index) for each in channels for index in range(len(context.sources))}
    if len(seen) != len(every) or set(seen) != every:
        text = "not every slice has one frame, of each segment where there are segments"
        yield _wrong("geometry", "PS3.3 C.7.6.16", text)


def _equal(stored: NDArray[Any], expected: NDArray[Any], tolerance: float) -> bool:
    if tolerance == 0:
        return bool(np.array_equal(stored, expected))
    return bool(np.abs(stored - expected).max() <= tolerance)


def _off(frame: PlacedFrame, rows: int, columns: int) -> float:
    # The farthest corner, in units of the smaller pixel step.
    corners = np.array(
        [(row, column, 1) for row in (0, rows - 1) for column in (0, columns - 1)], float
    )
    apart = (frame.plane - frame.expected) @ corners.T
    step = float(np.linalg.norm(frame.expected[:, :2], axis=0).min())
    return float(np.linalg.norm(apart, axis=0).max()) / step

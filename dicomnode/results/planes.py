"""The slice on which each segment of a volume is largest, and its outline there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.label_values import Mask
from ai.types import Answer, Finding, Volume
from dicomnode.results.regions import trace

# PS3.5 7.1.2: in Explicit VR a value of FL has at most 65534 bytes, two numbers of 4 a point; the
# first point comes again as the last.
MOST_POINTS: Final = 65534 // 8 - 1


@dataclass(frozen=True)
class Plane:
    """A segment on the slice that holds most of its voxels.

    Attributes:
        finding: The finding of the segment.
        slice_index: From 0.
        points: ``(n + 1, 2)`` of (column, row) around its largest connected part, 0.0 the corner of
            the first pixel; the first point comes again as the last.
        pixels: Area inside, in pixels, holes included.
        square_millimetres: The same in mm², or None where the spacing is not known.
    """

    finding: Finding
    slice_index: int
    points: NDArray[np.float64]
    pixels: float
    square_millimetres: float | None


def largest_planes(answer: Answer, volume: Volume) -> Iterator[Plane]:
    """The largest plane of each finding with a segment, in the answer's order.

    Findings on a single image have none, for they are planar already; neither has one whose outline
    has more points than coordinates can have.

    Args:
        answer: With `labels` ``(slices, rows, columns)``.
        volume: Gives the spacing.
    """
    labels = answer.labels
    if labels is None or len(labels) < 2:
        return
    row_step, column_step = volume.spacing[1:]
    for finding in answer.findings:
        if finding.segment is None:
            continue
        masks = (answer.mask(finding.segment, index) for index in range(len(labels)))
        areas = [int(np.count_nonzero(mask)) for mask in masks]
        if not any(areas):
            continue
        index = int(np.argmax(areas))
        (outline,) = trace(_largest_part(answer.mask(finding.segment, index)))
        if len(outline) > MOST_POINTS:
            continue
        pixels = _area(outline)
        known = None
        if row_step is not None and column_step is not None:
            known = pixels * row_step * column_step
        yield Plane(finding, index, np.vstack([outline, outline[:1]]), pixels, known)


def _largest_part(mask: Mask) -> Mask:
    # Connected by edges, as the outline is.
    filled = sitk.BinaryFillhole(sitk.GetImageFromArray(mask.astype(np.uint8)))
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(filled))
    largest: Mask = parts == int(np.bincount(parts.reshape(-1))[1:].argmax()) + 1
    return largest


def _area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

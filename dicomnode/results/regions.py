"""Where the findings of an answer lie on the slices: masks, outlines, the slices that matter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ai.types import Answer, Finding

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

# Of a speckled segment the largest islands are outlined; a viewer could not show thousands.
MOST_OUTLINES: Final = 32
_CENTRE: Final = 0.5  # a pixel's centre, counted from its corner


def is_located(answer: Answer, finding: Finding) -> bool:
    """Whether a finding has a place on an image: a polygon, or a segment that is not empty."""
    if finding.region is not None:
        return True
    mask = segment_mask(answer, finding)
    return mask is not None and bool(mask.any())


def segment_mask(answer: Answer, finding: Finding) -> Mask | None:
    """Voxels of a finding's segment, ``(slices, rows, columns)``, or None where it has none."""
    if answer.labels is None or finding.segment is None:
        return None
    mask: Mask = answer.labels == finding.segment
    return mask


def fullest(labels: Any, axis: int, length: int) -> int:
    """The cut that shows most of every segment, however small; the middle one without segments.

    Args:
        labels: ``(slices, rows, columns)``, 0 where no segment is, or None.
        axis: Which axis the cut is across.
        length: How many cuts there are.
    """
    if labels is None or not labels.any():
        return length // 2
    cuts = (np.take(labels, index, axis=axis).ravel() for index in range(length))
    areas = np.stack([np.bincount(cut, minlength=256)[1:] for cut in cuts])
    shown = (areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1)
    return int(np.argmax(shown))


def key_slices(answer: Answer, slices: int) -> list[int]:
    """Few slices on which every located finding is seen, the fullest one first.

    Args:
        answer: What the model said.
        slices: How many there are.

    Returns:
        At least one, from 0; the middle one where nothing is located.
    """
    first = next((each.region.slice_index for each in answer.findings if each.region), None)
    if first is None or answer.labels is not None:
        first = fullest(answer.labels, 0, slices)
    shown = [first]
    for finding in answer.findings:
        if finding.region is not None and finding.region.slice_index not in shown:
            shown.append(finding.region.slice_index)
        elif finding.region is None and (mask := segment_mask(answer, finding)) is not None:
            areas = np.count_nonzero(mask, axis=(1, 2))
            if areas.any() and not areas[shown].any():
                shown.append(int(areas.argmax()))
    return shown


def slices_with_findings(answer: Answer) -> list[int]:
    """The slices on which any finding lies, from 0, ascending."""
    found = {each.region.slice_index for each in answer.findings if each.region is not None}
    segments = [each.segment for each in answer.findings if each.region is None and each.segment]
    if answer.labels is not None and segments:
        wanted = np.zeros(256, bool)
        wanted[segments] = True
        found |= {index for index, plane in enumerate(answer.labels) if wanted[plane].any()}
    return sorted(found)


def outlines(answer: Answer, index: int) -> Iterator[tuple[int, Points]]:
    """What encloses the findings of one slice.

    Args:
        answer: What the model said.
        index: Which slice, from 0.

    Yields:
        Index of the finding in the answer and the corners ``(n, 2)`` of (column, row) of one closed
        polygon, 0.0 the corner of the first pixel; the last does not repeat the first. Holes have
        polygons of their own; of one finding at most `MOST_OUTLINES`, the longest ones.
    """
    for number, finding in enumerate(answer.findings):
        if finding.region is not None:
            if finding.region.slice_index == index:
                yield number, finding.region.points + _CENTRE
        elif answer.labels is not None and finding.segment is not None:
            found = trace(answer.labels[index] == finding.segment)
            found.sort(key=lambda points: -_length(points))
            yield from ((number, points) for points in found[:MOST_OUTLINES])


def _length(points: Points) -> float:
    return float(np.abs(points - np.roll(points, 1, axis=0)).sum())


def trace(mask: Mask) -> list[Points]:
    """The borders of a mask along the edges of its pixels.

    Args:
        mask: ``(rows, columns)``.

    Returns:
        One closed polygon a border, ``(n, 2)`` of (column, row), 0.0 the corner of the first pixel:
        clockwise on the screen around what is set, the other way around holes. Pixels that touch
        at a corner alone are parted.
    """
    following = _edges(mask)
    polygons = []
    while following:
        start = next(iter(following))
        corner, step = start, following[start][0]
        points: list[tuple[int, int]] = []
        while True:
            ends = following[corner]
            # Where two edges leave a corner the turn to the right stays with the same pixel.
            turn = (-step[1], step[0])
            chosen = turn if turn in ends else ends[0]
            ends.remove(chosen)
            if not ends:
                del following[corner]
            if not points or chosen != step:
                points.append(corner)
            step = chosen
            corner = (corner[0] + step[0], corner[1] + step[1])
            if corner == start:
                break
        if len(points) > 4 and _straight(points[-1], points[0], points[1]):
            del points[0]
        polygons.append(np.array(points, np.float64))
    return polygons


def _straight(before: tuple[int, int], at: tuple[int, int], after: tuple[int, int]) -> bool:
    return before[0] == at[0] == after[0] or before[1] == at[1] == after[1]


def _edges(mask: Mask) -> dict[tuple[int, int], list[tuple[int, int]]]:
    # Corner (column, row) → the steps of the edges that leave it, what is set on their right.
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # neighbour without, where the edge starts, its step
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    )
    leaving: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for neighbour, (right, down), step in sides:
        rows, columns = np.nonzero(inside & ~neighbour)
        for column, row in zip((columns + right).tolist(), (rows + down).tolist(), strict=True):
            leaving[column, row].append(step)
    return dict(leaving)

"""Where the findings of an answer lie on the slices: masks, outlines, the slices that matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ai.label_values import Mask, counts_of
from ai.types import Answer, Finding

Points = NDArray[np.float64]

# Of a speckled segment the largest islands are outlined; a viewer could not show thousands.
MOST_OUTLINES: Final = 16
_CENTRE: Final = 0.5  # a pixel's centre, counted from its corner


def is_located(answer: Answer, finding: Finding) -> bool:
    """Whether a finding has a place on an image: a polygon, or a segment that is not empty."""
    if finding.region is not None:
        return True
    mask = segment_mask(answer, finding)
    return mask is not None and bool(mask.any())


def segment_mask(
    answer: Answer, finding: Finding, index: int | None = None, axis: int = 0
) -> Mask | None:
    """Voxels of a finding's segment, all or those of one cut, or None where it has none.

    Args and shape are those of `Answer.mask`.
    """
    if answer.labels is None or finding.segment is None:
        return None
    return answer.mask(finding.segment, index, axis)


def fullest(answer: Answer, axis: int, length: int) -> int:
    """The cut that shows most of every segment, however small; the middle one without segments.

    Args:
        answer: With `labels` or without.
        axis: Which axis the cut is across.
        length: How many cuts there are.
    """
    labels = answer.labels
    if labels is None or not labels.any():
        return length // 2
    cuts = (np.take(labels, index, axis=axis) for index in range(length))
    areas = np.stack([counts_of(cut, overlap=answer.overlap)[1:] for cut in cuts])
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
        first = fullest(answer, 0, slices)
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
        counts = (counts_of(plane, overlap=answer.overlap) for plane in answer.labels)
        found |= {index for index, count in enumerate(counts) if count[segments].any()}
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
        elif (mask := segment_mask(answer, finding, index)) is not None:
            yield from ((number, points) for points in trace(mask, MOST_OUTLINES))


def trace(mask: Mask, most: int | None = None) -> list[Points]:
    """The borders of a mask along the edges of its pixels.

    Args:
        mask: ``(rows, columns)``.
        most: How many borders at most, the longest ones; None for all.

    Returns:
        One closed polygon a border, the longest first, ``(n, 2)`` of (column, row), 0.0 the corner
        of the first pixel: clockwise on the screen around what is set, the other way around holes.
        Pixels that touch at a corner alone are parted.
    """
    starts, ways = _edges(mask)
    if not len(starts):
        return []
    after = _following(starts, ways, mask.shape[1] + 2)
    border = _smallest_reached(after)
    roots, lengths = np.unique(border, return_counts=True)
    kept = roots[np.argsort(-lengths, kind="stable")][:most]
    place = np.full(len(after), -1)
    place[kept] = np.arange(len(kept))
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    # What goes on straight is no corner of the polygon.
    corners = np.flatnonzero((ways != ways[before]) & (place[border] >= 0))
    places = place[border[corners]]
    order = np.lexsort((-_steps_to_root(after, border)[corners], places))
    cuts = np.flatnonzero(np.diff(places[order])) + 1
    return [each.astype(np.float64) for each in np.split(starts[corners[order]], cuts)]


# The ways along a border, what is set on the right: right, down, left, up; each turns right into
# the next one.
_STEPS: Final = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def _edges(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    # Where each edge starts, ``(n, 2)`` of (column, row), and its way.
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # neighbour without, and where the edge starts
        (padded[:-2, 1:-1], (0, 0)),
        (padded[1:-1, 2:], (1, 0)),
        (padded[2:, 1:-1], (1, 1)),
        (padded[1:-1, :-2], (0, 1)),
    )
    starts, ways = [], []
    for way, (neighbour, corner) in enumerate(sides):
        rows, columns = np.nonzero(inside & ~neighbour)
        starts.append(np.stack([columns, rows], axis=1) + corner)
        ways.append(np.full(len(rows), way))
    return np.concatenate(starts), np.concatenate(ways)


def _following(starts: NDArray[np.intp], ways: NDArray[np.intp], width: int) -> NDArray[np.intp]:
    # Which edge comes after each. Where two leave a corner, the turn to the right stays with the
    # same pixel.
    leaving = np.full(((int(starts[:, 1].max()) + 2) * width, 4), -1)
    leaving[starts[:, 1] * width + starts[:, 0], ways] = np.arange(len(starts))
    ends = starts + _STEPS[ways]
    at = ends[:, 1] * width + ends[:, 0]
    right, straight, left = (leaving[at, (ways + turn) % 4] for turn in (1, 0, 3))
    after: NDArray[np.intp] = np.where(right >= 0, right, np.where(straight >= 0, straight, left))
    return after


def _smallest_reached(after: NDArray[np.intp]) -> NDArray[np.intp]:
    # The smallest edge of the border that each lies on: twice as far ahead each time.
    smallest, ahead = np.arange(len(after)), after
    while True:
        found = np.asarray(np.minimum(smallest, smallest[ahead]), np.intp)
        if np.array_equal(found, smallest):
            return found
        smallest, ahead = found, ahead[ahead]


def _steps_to_root(after: NDArray[np.intp], border: NDArray[np.intp]) -> NDArray[np.intp]:
    # How many edges lie before each border's smallest one comes again; most for that one itself.
    is_root = border == np.arange(len(after))
    ahead = np.where(is_root, np.arange(len(after)), after)
    steps: NDArray[np.intp] = (~is_root).astype(np.intp)
    while not is_root[ahead].all():
        steps += steps[ahead]
        ahead = ahead[ahead]
    steps[is_root] = len(after)
    return steps

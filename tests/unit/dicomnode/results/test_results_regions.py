"""Outlines enclose exactly what was found, and the slices that matter show all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dicomnode.results.regions import (
    MOST_OUTLINES,
    is_located,
    key_slices,
    outlines,
    slices_with_findings,
    trace,
)
from tests.unit.dicomnode.results.cases import cr_case, ct_case

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
LABELS = hnp.arrays(np.uint8, (4, 10, 13), elements=st.integers(0, 3))


def filled(polygons, shape):
    """Pixels inside an odd number of polygons: every vertical edge turns over what lies right."""
    inside = np.zeros(shape, bool)
    for points in polygons:
        for (column, row), (after, below) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if column == after:
                low, high = sorted((int(row), int(below)))
                inside[low:high, int(column) :] ^= True
    return inside


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_the_borders_of_a_mask_enclose_it_and_nothing_else(mask):
    polygons = trace(mask)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    for points in polygons:
        steps = np.roll(points, -1, axis=0) - points
        assert ((steps == 0).sum(axis=1) == 1).all()
        turned = np.roll(steps, -1, axis=0)
        assert not ((steps[:, 0] == 0) == (turned[:, 0] == 0)).any()


@given(LABELS)
@settings(max_examples=100, deadline=None)
def test_the_key_slices_show_every_segment_that_is_there(labels):
    case = ct_case()
    answer = replace(case.answer, labels=labels)
    shown = key_slices(answer, 4)
    assert len(shown) == len(set(shown)) <= 4
    seen = {number for index in shown for number, _ in outlines(answer, index)}
    located = {n for n, each in enumerate(answer.findings) if is_located(answer, each)}
    assert seen == located
    assert set(shown) & set(slices_with_findings(answer)) == set(shown) or not located


@given(LABELS)
@settings(max_examples=100, deadline=None)
def test_slices_with_findings_are_those_where_something_is_outlined(labels):
    answer = replace(ct_case().answer, labels=labels)
    found = [index for index in range(4) if any(True for _ in outlines(answer, index))]
    assert slices_with_findings(answer) == found


def test_a_polygon_is_its_own_outline_from_the_corner_of_the_first_pixel():
    answer = cr_case().answer
    ((number, points),) = outlines(answer, 0)
    assert number == 0
    np.testing.assert_array_equal(points, answer.findings[0].region.points + 0.5)
    assert slices_with_findings(answer) == [0]


def test_of_a_speckled_segment_the_largest_islands_are_outlined():
    labels = np.zeros((1, 24, 36), np.uint8)
    labels[0, ::2, ::2] = 1
    labels[0, 4:9, 4:9] = 1
    answer = replace(ct_case().answer, labels=labels)
    found = list(outlines(answer, 0))
    assert len(found) == MOST_OUTLINES
    np.testing.assert_array_equal(found[0][1], [[4, 4], [9, 4], [9, 9], [4, 9]])

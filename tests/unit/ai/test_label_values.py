"""What the values of a label volume say of segments that exclude each other, and that overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.label_values import (
    MOST,
    counts_of,
    highest_in,
    is_shared,
    layers_of,
    mask_of,
    type_of,
    value_of,
)
from ai.types import Answer

SHAPE = (2, 3, 5)


@pytest.mark.parametrize(
    ("segments", "bits"),
    [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64)],
)
def test_a_voxel_has_a_bit_for_each_segment_that_overlaps(segments: int, bits: int) -> None:
    assert type_of(segments, overlap=True) == np.dtype(f"uint{bits}")
    assert value_of(segments, overlap=True) == 2 ** (segments - 1)


def test_numbers_of_segments_that_exclude_each_other_are_bytes() -> None:
    assert {type_of(n, overlap=False) for n in (1, 255)} == {np.dtype(np.uint8)}
    assert value_of(255, overlap=False) == 255 == MOST[False]


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray:
    """Masks of any number of segments, ``(segments, slices, rows, columns)``."""
    count = draw(st.integers(1, MOST[True]))
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return np.random.default_rng(seed).random((count, *SHAPE)) < share


@settings(max_examples=150, deadline=None)
@given(stacks())
def test_every_segment_that_overlaps_is_told_from_all_others(masks: np.ndarray) -> None:
    labels = np.zeros(SHAPE, type_of(len(masks), overlap=True))
    for number, mask in enumerate(masks, 1):
        labels[mask] |= value_of(number, overlap=True)
    answer = Answer((), labels, overlap=True)
    there = masks.any(axis=(1, 2, 3))
    assert highest_in(labels, overlap=True) == max(np.flatnonzero(there) + 1, default=0)
    for number, mask in enumerate(masks, 1):
        found = mask_of(labels, number, overlap=True)
        assert found.dtype == bool
        # A set voxel is stored as 1: what looks at the bytes sees no other value.
        assert np.array_equal(found.view(np.uint8), mask.astype(np.uint8))
        for axis in range(3):
            assert np.array_equal(answer.mask(number, 1, axis), np.take(mask, 1, axis))
    layers = list(layers_of(labels, overlap=True))
    assert len(layers) == highest_in(labels, overlap=True)
    for number, layer in enumerate(layers, 1):
        assert np.array_equal(layer, number * masks[number - 1])
    counts = counts_of(labels, overlap=True)
    assert counts[1 : len(masks) + 1].tolist() == masks.sum(axis=(1, 2, 3)).tolist()
    assert not counts[len(masks) + 1 :].any()
    assert is_shared(labels, overlap=True) == bool((masks.sum(axis=0) > 1).any())
    assert answer.segments_overlap == is_shared(labels, overlap=True)


def test_numbers_are_told_as_they_stand() -> None:
    labels = np.array([[[0, 1, 3], [3, 3, 255]]], np.uint8)
    answer = Answer((), labels)
    assert np.array_equal(answer.mask(3), labels == 3)
    assert np.array_equal(answer.mask(3, 2, axis=2), [[True, False]])
    assert [layer is labels for layer in layers_of(labels, overlap=False)] == [True]
    assert counts_of(labels, overlap=False)[[1, 2, 3, 255]].tolist() == [1, 0, 3, 1]
    assert highest_in(labels, overlap=False) == 255
    assert not answer.segments_overlap


def test_without_labels_there_is_no_mask() -> None:
    with pytest.raises(ValueError, match="no labels"):
        Answer(()).mask(1)
    assert not Answer((), overlap=True).segments_overlap

"""Whatever segments overlap: the written segmentation holds each of them, voxel by voxel."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicomnode.results.gate import prove
from dicomnode.results.received import answer_of
from dicomnode.results.seg import build_segmentation
from dicomnode.results.write import to_bytes
from tests.geometries import segments_in_space
from tests.unit.dicomnode.results.cases import (
    BONE,
    ORIENTATIONS,
    SEGMENTS,
    TISSUE,
    Case,
    ct_case,
    packed,
)

CASES = {
    (name, shape): ct_case(cosines, shape)
    for name, cosines in ORIENTATIONS.items()
    for shape in ((3, 4, 6), (2, 5, 7))  # frames of whole bytes, and not
}


def _with(case: Case, masks: np.ndarray) -> Case:
    segments = tuple(
        replace(SEGMENTS[0], number=number, label=f"part {number}", category=TISSUE, type=BONE)
        for number in range(1, len(masks) + 1)
    )
    findings = tuple(
        replace(case.answer.findings[0], name=segment.label, type=BONE, segment=segment.number)
        for segment in segments
    )
    labels = packed(masks)
    answer = replace(case.answer, findings=findings, labels=labels, segments=segments, overlap=True)
    return replace(case, answer=answer)


@pytest.mark.feature("P12")
@settings(max_examples=120, deadline=None)
@given(
    key=st.sampled_from(list(CASES)),
    count=st.integers(1, 4) | st.sampled_from([9, 33]),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_each_segment_is_read_back_as_it_was(
    key: tuple[str, tuple[int, int, int]], count: int, seed: int, share: float
) -> None:
    shape = key[1]
    masks = np.random.default_rng(seed).random((count, *shape)) < share
    case = _with(CASES[key], masks)
    parts = (case.answer, case.volume, case.sources, case.provenance)
    data = to_bytes(build_segmentation(*parts))
    assert prove({"seg": data}, *parts) == ()
    written = dcmread(BytesIO(data))
    assert written.SegmentsOverlap == ("YES" if (masks.sum(axis=0) > 1).any() else "NO")
    # Read by code that knows neither the writer nor how an answer holds its labels.
    for number, (places, found) in segments_in_space(written).items():
        index = np.linalg.solve(
            case.volume.affine, np.column_stack([places, np.ones(len(places))]).T
        )
        at = np.rint(index[:3]).astype(int)
        assert np.abs(index[:3] - at).max() < 1e-3
        there = np.zeros(shape, bool)
        there[tuple(at)] = found
        assert np.array_equal(there, masks[number - 1])
    back = answer_of(written, case.volume, case.sources)
    for number, mask in enumerate(masks, 1):
        assert np.array_equal(back.mask(number), mask)

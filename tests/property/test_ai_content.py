"""Whatever the pixels are, the check before the model answers, and its answer is in bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ai.content.body import body_of
from ai.content.fingerprint import fingerprint
from ai.content.statistics import statistics_of
from ai.content.vessels import find_contrast
from ai.types import Volume
from tests.unit.ai.trunks import Trunk

STEPS = st.sampled_from([None, 0.01, 0.5, 3.0, 40.0])
VOXELS = st.one_of(
    arrays.arrays(np.int16, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9)),
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6)),
)


@pytest.mark.feature("F22")
@settings(max_examples=150, deadline=None)
@given(
    voxels=VOXELS,
    steps=st.tuples(STEPS, STEPS, STEPS),
    order=st.permutations([0, 1, 2]),
    units=st.sampled_from(["[hnsf'U]", "1", "{counts}"]),
    placed=st.booleans(),
)
def test_any_image_is_judged_in_bounds(
    voxels: np.ndarray,
    steps: tuple[float | None, float | None, float | None],
    order: list[int],
    units: str,
    placed: bool,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[order] * [step or 1.0 for step in steps]
    volume = Volume(voxels, units, affine if placed else None, steps, (0.0, 1.0))
    shown = fingerprint(volume)
    for verdict in vars(shown).values():
        assert 0.0 <= verdict.confidence <= 1.0
        assert (verdict.value is None) == (verdict.confidence == 0.0)
    if np.isfinite(voxels).all() and np.abs(voxels).max() < 1e30:
        assert all(np.isfinite(list(statistics_of(volume).values())))


@pytest.mark.feature("F22")
@settings(max_examples=100, deadline=None)
@given(
    drawn=st.builds(
        Trunk,
        blood=st.floats(20, 500),
        vein=st.none() | st.floats(20, 500),
        marrow=st.floats(40, 400),
        height=st.sampled_from([9.0, 105.0]),
        noise=st.sampled_from([0.0, 12.0, 80.0]),
        bowel=st.none() | st.floats(50, 900),
        seed=st.integers(0, 99),
    ),
    first=st.integers(0, 40),
)
def test_no_trunk_is_called_both_and_dark_blood_never_enhanced(drawn: Trunk, first: int) -> None:
    volume = drawn.volume()
    volume = replace(volume, voxels=volume.voxels[:, first:])
    body = body_of(volume)
    assert body is not None
    found = find_contrast(volume, body)
    assert 0.0 <= found.enhanced <= 1.0
    assert 0.0 <= found.unenhanced <= 1.0
    assert min(found.enhanced, found.unenhanced) < 0.5
    hus = [drawn.blood, drawn.blood if drawn.vein is None else drawn.vein]
    if max(hus) < 75:
        assert found.enhanced < 0.85
    if min(hus) > 100:
        assert found.unenhanced < 0.85

"""Whatever the pixels are, the check before the model answers, and its answer is in bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ai.content.fingerprint import fingerprint
from ai.content.statistics import statistics_of
from ai.types import Volume

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

"""Patches over any axis, and slabs of any volume."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ai import slabs
from ai.inputs import Input
from ai.preprocess import plan
from ai.sliding import windows
from ai.types import Volume


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_patches_cover_every_voxel_with_weights_that_add_up_to_one(data: st.DataObject) -> None:
    patch = data.draw(st.integers(1, 64))
    size = data.draw(st.integers(patch, 300))
    overlap = data.draw(st.floats(0, 0.9))
    made = windows(size, patch, overlap, data.draw(st.sampled_from(["gaussian", "constant"])))
    total = np.zeros(size)
    for start, weight in zip(made.starts, made.weights, strict=True):
        assert 0 <= start <= size - patch
        assert (weight > 0).all()
        total[start : start + patch] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert list(made.starts) == sorted(set(made.starts))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_slabs_of_any_depth_are_the_whole_and_every_slice_comes_back_once(
    data: st.DataObject,
) -> None:
    shape = tuple(data.draw(st.tuples(*[st.integers(1, 14)] * 3)))
    step = st.floats(0.3, 3.0)
    spec = Input.model_validate(
        {
            "role": "image", "tensor": "x", "modality": ["CT"], "units": "1", "dimensions": "3D",
            "layout": "NCDHW", "spacing": data.draw(st.tuples(step, step, step)),
            "multiple_of": data.draw(st.integers(1, 5)),
            "pad": data.draw(st.sampled_from(["end", "centre"])),
            "orientation": data.draw(st.sampled_from([None, "SPL", "RAI", "PSL"])),
            "interpolation": data.draw(st.sampled_from(["nearest", "linear"])),
        }
    )  # fmt: skip
    voxels = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape)
    made = plan(spec, Volume(voxels, "1", np.eye(4), (1.0, 1.0, 1.0), (-9.0, 9.0)))
    whole = made.planes(0, made.shape[0])
    deep = data.draw(st.integers(1, 9))
    starts = range(0, whole.shape[1], deep)
    parts = [slabs.prepared(made, at, at + deep) for at in starts]
    joined = np.concatenate(parts, axis=1)[:, : whole.shape[1]]
    # A plane in the middle between two slices may take its nearest values from either.
    places = (np.arange(made.model_shape[0]) + 0.5) * made.scale[0] - 0.5
    clear = np.abs(places % 1 - 0.5) > 1e-6
    given_, wanted = (
        slabs.unpadded(made, each.swapaxes(0, 1)[:, 0], 0)[clear] for each in (joined, whole)
    )
    np.testing.assert_allclose(given_, wanted, atol=1e-4)
    numbers = np.arange(whole[0].size, dtype=np.int64).reshape(whole.shape[1:])
    back = [slabs.back(made, numbers[at : at + deep], at) for at in starts]
    assert np.array_equal(np.concatenate(back), made.back(numbers, made.shape[0]))

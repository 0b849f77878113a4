"""Probabilities interpolated back into the image's own grid, whatever pieces they come in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ai import smooth
from ai.engine import Engine
from ai.inputs import Input
from ai.models.graph import Graph
from ai.package import Package
from ai.preprocess import plan
from ai.smooth import Smooth
from ai.types import Volume
from tests.model_packages import PROBABILITIES, SPACE, VOLUME, from_x_to_y

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]


def spec(**changes: object) -> Input:
    keys: dict[str, object] = {
        "role": "image", "primary": True, "tensor": "x", "modality": ["CT"], "units": "[hnsf'U]",
        "dimensions": "3D", "layout": "NCDHW",
    }  # fmt: skip
    return Input.model_validate(keys | changes)


def image(shape: tuple[int, int, int]) -> Volume:
    affine = np.eye(4)[[2, 1, 0, 3]]
    return Volume(np.ones(shape, np.int16), "[hnsf'U]", affine, (1.0, 1.0, 1.0), (0.0, 1.0))


def naive(values: np.ndarray, scale: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation axis by axis, constant beyond the outermost centres."""
    for axis, (step, length) in enumerate(zip(scale, shape, strict=True), start=1):
        at = (np.arange(length) + 0.5) / step - 0.5
        values = np.apply_along_axis(
            lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, values
        )
    return values


@pytest.mark.feature("F04")
@settings(max_examples=100, deadline=None)
@given(data=st.data(), few=st.booleans())
def test_pieces_of_any_size_give_what_the_whole_gives(data: st.DataObject, few: bool) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    flat = data.draw(st.booleans())
    steps = data.draw(st.tuples(*[st.sampled_from([0.4, 0.7, 1.0, 1.6, 3.0])] * 3))
    keys: dict[str, object] = {"spacing": steps}
    if flat:
        keys = {"dimensions": "2D", "apply": "slices", "layout": "NCHW", "spacing": steps[1:]}
    pad = data.draw(st.sampled_from([{}, {"multiple_of": 4, "pad": "centre"}]))
    made = plan(spec(**(keys | pad)), image(shape))
    assume(made.scale != (1.0, 1.0, 1.0))
    grid = made.padded_shape(shape[0])
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    planes = random.random((2, *grid)).astype(np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, grid[0] - 1)))) & set(range(grid[0])))
    ends = [0, *(cut for cut in cuts if cut), grid[0]]
    walk, found = Smooth(made), np.full((2, *shape), np.nan, np.float32)
    with mock.patch.object(smooth, "_MOST_BYTES", 1 if few else 1 << 26):
        for first, last in itertools.pairwise(ends):
            for at, own in walk.take(planes[:, first:last], first):
                assert np.isnan(found[:, at : at + own.shape[1]]).all()  # each slice once
                found[:, at : at + own.shape[1]] = own
    inside = np.stack([made.unpadded(channel) for channel in planes])
    assert found == pytest.approx(naive(inside, made.scale, shape), abs=1e-5)


LINEAR = (
    PROBABILITIES
    + """\
interpolation = "{interpolation}"

[[output.segment]]
number = 1
label = "ball"
channel = 0
category = ["85756007", "SCT", "Tissue"]
type = ["3138006", "SCT", "Bone"]
color = [1, 2, 3]
description = "Round."
"""
)


@pytest.mark.parametrize("sliding", ["", "\n[inputs.sliding]\npatch = [4, 6, 6]\n"])
def test_a_ball_that_was_seen_coarsely_comes_back_rounder(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, sliding: str
) -> None:
    g = Graph("same")
    g.named("Clip", ["x", g.real(0.0), g.real(1.0)], ["y"])
    graph = from_x_to_y(g, VOLUME)
    places = np.indices((24, 24, 24)) - 11.5
    apart = np.sqrt((places**2).sum(axis=0))
    voxels = np.clip((11.0 - apart) / 6.0, 0.0, 1.0).astype(np.float32)
    volume = make_volume(voxels, spacing=(1.0, 1.0, 1.0), affine=np.eye(4)[[2, 1, 0, 3]])
    wrong = {}
    for number, interpolation in enumerate(("nearest", "linear"), start=1):
        package = make_package(
            graph, basis="trained", version=f"1.0.{number}",
            input=f"{SPACE}\nspacing = [3.0, 3.0, 3.0]{sliding}",
            output=LINEAR.format(interpolation=interpolation),
        )  # fmt: skip
        answer = engine.run(package, {"image": volume})
        assert answer.labels is not None
        wrong[interpolation] = np.count_nonzero(answer.labels != (voxels >= 0.5))
        (finding,) = answer.findings
        assert finding.measurements[0].value == pytest.approx(answer.labels.sum() / 1000)
        assert finding.confidence.value is not None
        assert 0.5 <= finding.confidence.value <= 1.0
    assert wrong["linear"] < 0.5 * wrong["nearest"]

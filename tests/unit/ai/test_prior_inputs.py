"""Inputs of an earlier study: given whole, on a grid of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ai.engine import Engine
from ai.manifest import parse_manifest
from ai.package import Package
from ai.types import Volume
from config.errors import InferenceError, ManifestError
from tests import priors
from tests.model_packages import LABELS, SLICES, SPACE
from tests.unit.ai.conftest import PackageMaker

VolumeMaker = Callable[..., Volume]


@pytest.fixture
def comparing(make_package: PackageMaker) -> Callable[..., Package]:
    def make(*, optional: bool) -> Package:
        output = LABELS.replace('layout = "NCHW"', 'layout = "NCDHW"')
        given = priors.inputs(optional=optional)
        return make_package(priors.denser_graph(), input=given, output=output)

    return make


@pytest.mark.feature("P10")
def test_an_earlier_image_of_another_size_and_place_is_given_as_it_is(
    comparing: Callable[..., Package], engine: Engine, make_volume: VolumeMaker
) -> None:
    package = comparing(optional=False)
    now = make_volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    before = make_volume(np.full((5, 2, 9), 10, np.int16), affine=None, spacing=(1.0, 1.0, 1.0))
    answer = engine.run(package, {"image": now, "before": before})
    assert answer.labels is not None
    assert np.array_equal(answer.labels > 0, now.voxels > 10)
    assert package.accepts(before, "CT", "before") is None
    with pytest.raises(InferenceError, match="wants the inputs 'image', 'before'"):
        engine.run(package, {"image": now})


def test_one_that_is_optional_and_not_there_is_filled(
    comparing: Callable[..., Package], engine: Engine, make_volume: VolumeMaker
) -> None:
    now = make_volume(np.zeros((2, 3, 4), np.int16))
    answer = engine.run(comparing(optional=True), {"image": now})
    assert answer.labels is not None
    assert answer.labels.all()  # -2000 is less


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ('role = "before"', 'role = "before"\nprimary = true', "primary input is of the study"),
        ('layout = "NCDHW"\n\n[inputs.f', 'layout = "NCDHW"\nspacing = [1, 1, 1]\n\n[inputs.f', ""),
        (SPACE, SLICES, "goes with apply"),
    ],
)
def test_what_a_manifest_may_say_of_it(
    manifest_text: str, was: str, becomes: str, told: str
) -> None:
    given = priors.inputs(optional=False)
    assert was in given
    text = manifest_text.replace(SLICES, given.replace(was, becomes))
    text = text.replace('layout = "NCHW"\nencoding', 'layout = "NCDHW"\nencoding')
    if not told:
        parse_manifest(text)  # its grid is its own
        return
    with pytest.raises(ManifestError, match=told):
        parse_manifest(text)

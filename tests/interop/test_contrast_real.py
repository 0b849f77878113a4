"""Contrast medium in real trunks on CT: what is told of the whole, of parts of it, and in noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ai.content.expected import Content, remarks
from ai.content.fingerprint import fingerprint
from dicomnode.series.volume import load_series
from dicomnode.work.content import said
from tests.interop.real_trunks import SCANS

pytestmark = [pytest.mark.fetched, pytest.mark.feature("F22")]

WHOLE = {
    "portal 1004": "enhanced",
    "portal 1006": "enhanced",
    "native chest": "unenhanced",
    "native abdomen": "unenhanced",
}


@pytest.mark.parametrize(("name", "value"), WHOLE.items())
def test_whole_trunks_are_told_apart(name: str, value: str) -> None:
    shown = fingerprint(SCANS[name].volume())
    assert (shown.family.value, shown.body_part.value) == ("CT", "trunk")
    assert shown.contrast.value == value
    assert shown.contrast.is_sure


@pytest.mark.parametrize("name", ["four centimetres", "cut to the aorta"])
def test_too_little_of_a_trunk_is_not_judged(name: str) -> None:
    assert fingerprint(SCANS[name].volume()).contrast.value is None


@pytest.mark.parametrize(("name", "value"), WHOLE.items())
def test_no_part_of_a_trunk_is_called_what_the_whole_is_not(name: str, value: str) -> None:
    whole = SCANS[name].volume()
    step = whole.spacing[0]
    assert step is not None
    told = []
    for height in (80, 110, 150):
        slices = round(height / step)
        for first in range(0, len(whole.voxels) - slices + 1, slices // 2):
            part = replace(whole, voxels=whole.voxels[first : first + slices])
            told.append(fingerprint(part).contrast.value)
    assert set(told) <= {value, None}
    assert value in told


@pytest.mark.parametrize(("name", "value"), WHOLE.items())
def test_noise_turns_no_verdict_over(name: str, value: str) -> None:
    whole = SCANS[name].volume()
    noise = np.random.default_rng(4).normal(0.0, 60.0, whole.voxels.shape)
    noisy = replace(whole, voxels=(whole.voxels + noise).astype(np.int16))
    assert fingerprint(noisy).contrast.value in (value, None)


@pytest.mark.parametrize("name", ["portal 1004", "portal 1006"])
def test_a_header_that_names_agents_drunk_and_injected_agrees_with_its_vessels(name: str) -> None:
    loaded = load_series(SCANS[name].files())
    header, shown = said(loaded), fingerprint(loaded.volume)
    assert header.contrast
    assert remarks(shown, header, Content(contrast=True)) == ()
    (remark,) = remarks(shown, header, Content(contrast=False))
    assert remark.stops
    assert str(remark).endswith("where the model wants none")

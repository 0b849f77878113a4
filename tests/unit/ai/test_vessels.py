"""Contrast medium in the large vessels of a drawn trunk, judged where it is plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai.content.body import body_of
from ai.content.expected import Content, Said, remarks
from ai.content.fingerprint import Fingerprint, Verdict, fingerprint
from ai.content.spine import find_spine, strip_of
from tests.unit.ai import heads
from tests.unit.ai.trunks import STEP, Trunk

UNENHANCED, ENHANCED, NOTHING = "unenhanced", "enhanced", None


@pytest.mark.feature("F22")
@pytest.mark.parametrize(
    ("drawn", "value"),
    [
        ({"blood": 40}, UNENHANCED),
        ({"blood": 60}, UNENHANCED),
        ({"blood": 40, "noise": 60}, UNENHANCED),
        ({"blood": 40, "marrow": 280}, UNENHANCED),
        ({"blood": 40, "marrow": 60}, UNENHANCED),
        ({"blood": 40, "bowel": 300}, UNENHANCED),
        ({"blood": 150}, ENHANCED),
        ({"blood": 150, "noise": 60}, ENHANCED),
        ({"blood": 150, "bowel": 300}, ENHANCED),
        ({"blood": 350, "vein": 45, "marrow": 300}, ENHANCED),
        ({"blood": 350, "marrow": 60}, ENHANCED),
        ({"blood": 80}, NOTHING),
        ({"blood": 100}, NOTHING),
        ({"blood": 150, "height": 60}, NOTHING),
        ({"blood": 40, "height": 60}, NOTHING),
    ],
    ids=str,
)
def test_what_is_plain_is_told_and_what_lies_between_is_not(
    drawn: dict[str, Any], value: str | None
) -> None:
    found = fingerprint(Trunk(**drawn).volume())
    assert (found.family.value, found.body_part.value) == ("CT", "trunk")
    assert found.contrast.value == value
    assert found.contrast.is_sure == (value is not None)


@pytest.mark.parametrize("blood", [40.0, 150.0])
def test_how_the_patient_lies_and_the_volume_is_cut_changes_nothing(blood: float) -> None:
    volume = Trunk(blood=blood).volume()
    assert volume.affine is not None
    expected = fingerprint(volume).contrast
    assert expected.is_sure
    coronal = replace(
        volume, voxels=volume.voxels.transpose(1, 0, 2), affine=volume.affine[:, [1, 0, 2, 3]]
    )
    assert fingerprint(coronal).contrast == expected
    prone = volume.affine.copy()
    prone[[0, 1]] *= -1
    turned = replace(volume, voxels=volume.voxels[:, ::-1, ::-1], affine=prone)
    assert fingerprint(turned).contrast == expected


@pytest.mark.parametrize("blood", [40.0, 350.0])
def test_the_spine_is_found_whatever_the_vessels_before_it_hold(blood: float) -> None:
    volume = Trunk(blood=blood).volume()
    body = body_of(volume)
    assert body is not None
    strip = strip_of(volume, body)
    assert strip is not None
    spine = find_spine(strip)
    assert spine is not None
    assert spine.known.all()
    # The vertebrae begin 28 mm behind the middle of the body, that is 147 mm from the first row.
    assert np.all(np.abs(spine.front[5:] - 143) <= 12), spine.front


@pytest.mark.parametrize("blood", [40.0, 150.0, 350.0])
@pytest.mark.parametrize("aside", [9, 21, 30])
def test_a_spine_far_off_the_middle_is_told_right_or_not_at_all(blood: float, aside: int) -> None:
    volume = Trunk(blood=blood, height=120.0).volume()
    voxels = volume.voxels.copy()
    inner = slice(30, 86)
    voxels[:, :, inner] = np.roll(voxels[:, :, inner], round(aside / STEP), axis=2)
    value = UNENHANCED if blood == 40 else ENHANCED
    told = fingerprint(replace(volume, voxels=voxels)).contrast.value
    assert told in ((value,) if aside == 9 else (value, None))


def test_heads_and_single_images_and_mr_are_not_asked() -> None:
    trunk = Trunk(blood=150).volume()
    single = replace(trunk, voxels=trunk.voxels[30:31], spacing=(None, STEP, STEP))
    unitless = replace(trunk, units="1")
    for volume in (heads.ct_head(), single, unitless):
        assert fingerprint(volume).contrast == Verdict(None, 0.0)


def shown(value: str | None, sure: float = 1.0) -> Fingerprint:
    none = Verdict(None, 0.0)
    return Fingerprint(none, none, none, Verdict(value, sure) if value else none)


@pytest.mark.feature("F22")
@pytest.mark.parametrize(
    ("found", "wanted", "said", "remark"),
    [
        (shown("unenhanced"), True, True, ("where the model wants some", True, True)),
        (shown("enhanced"), False, False, ("where the model wants none", True, True)),
        (shown("unenhanced", 0.7), True, True, ("(0.70), where the model wants", False, False)),
        (shown("unenhanced"), False, True, ("where the header names an agent", True, False)),
        (shown("enhanced"), True, False, ("names no agent given into a vessel", True, False)),
    ],
)
def test_a_model_that_says_which_it_wants_is_told_what_stands_against_it(
    found: Fingerprint, wanted: bool, said: bool, remark: tuple[str, bool, bool]
) -> None:
    (given,) = remarks(found, Said("CT", contrast=said), Content(contrast=wanted))
    assert remark[0] in str(given)
    assert (given.sure, given.stops) == remark[1:]


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (shown("enhanced"), Content(contrast=True), True),
        (shown("unenhanced"), Content(contrast=False), False),
        (shown(None), Content(contrast=True), False),
        (shown("unenhanced", 0.7), Content(contrast=False), True),
        (shown("unenhanced"), None, True),
    ],
)
def test_nothing_is_said_where_all_agree_or_nobody_asks(
    found: Fingerprint, wanted: Content | None, said: bool
) -> None:
    assert remarks(found, Said("CT", contrast=said), wanted) == ()


def test_a_manifest_says_something_of_content_or_leaves_it_out() -> None:
    with pytest.raises(ValueError, match="give body_part, contrast or both"):
        Content()
    with pytest.raises(ValueError, match="body_part"):
        Content(body_part=())

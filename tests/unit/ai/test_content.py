from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ai.content.body import body_of
from ai.content.expected import Content, Said, remarks
from ai.content.families import membership
from ai.content.fingerprint import Fingerprint, Verdict, fingerprint
from ai.types import Volume
from tests.unit.ai import heads

HEAD = Content(body_part=("head",))


@pytest.mark.feature("F22")
@pytest.mark.parametrize(
    ("draw", "family", "part", "lies"),
    [
        (heads.ct_head, "CT", "head", "upright"),
        (heads.mr_head, "MR", "head", "upright"),
        (heads.ct_trunk, "CT", "trunk", None),
        (heads.mr_thigh, None, None, None),
        (heads.mr_shoulder, None, None, None),
    ],
)
def test_what_the_pixels_tell_is_told_and_nothing_else(
    draw: Callable[[], Volume], family: str | None, part: str | None, lies: str | None
) -> None:
    found = fingerprint(draw())
    assert (found.family.value, found.body_part.value, found.orientation.value) == (
        family,
        part,
        lies,
    )
    for verdict in (found.family, found.body_part, found.orientation):
        assert verdict.is_sure == (verdict.value is not None)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)], ids=str)
def test_how_the_volume_is_cut_changes_nothing(order: tuple[int, int, int]) -> None:
    upright = heads.mr_head()
    turned = replace(
        upright,
        voxels=upright.voxels.transpose(order),
        affine=heads.UPRIGHT[:, [*order, 3]],
    )
    assert fingerprint(turned) == fingerprint(upright)


def test_a_head_whose_header_turns_it_over_is_told() -> None:
    affine = heads.UPRIGHT.copy()
    affine[2, 0] = -heads.STEP
    found = fingerprint(heads.ct_head(affine=affine))
    assert found.orientation == Verdict("inverted", 1.0)
    (remark,) = remarks(found, Said("CT", "head"), HEAD)
    assert remark.sure
    assert "towards the feet" in str(remark)


def test_one_axial_slice_is_enough_for_a_head() -> None:
    whole = heads.mr_head()
    middle = replace(whole, voxels=whole.voxels[24:25], spacing=(None, heads.STEP, heads.STEP))
    found = fingerprint(middle)
    assert found.family.value == "MR"
    assert found.body_part.value == "head"
    assert found.orientation == Verdict(None, 0.0)


def test_one_sagittal_slice_tells_no_body_part() -> None:
    whole = heads.mr_head()
    voxels = whole.voxels[:, :, 30:31].transpose(2, 0, 1)
    found = fingerprint(replace(whole, voxels=voxels, affine=heads.UPRIGHT[:, [2, 0, 1, 3]]))
    assert found.body_part == Verdict(None, 0.0)


@pytest.mark.parametrize("offset", [1000, 1024])
def test_ct_that_lost_its_units_is_still_ct(offset: int) -> None:
    raw = heads.volume(heads.ct_head().voxels + np.int16(offset), heads.MR)
    found = fingerprint(raw)
    assert found.family.value == "CT"
    (remark,) = remarks(found, Said("MR"), None)
    assert str(remark) == "the pixels look like CT (1.00), where the header says MR"


def test_without_a_place_in_the_patient_no_body_part_is_told() -> None:
    found = fingerprint(heads.mr_head(affine=None, spacing=(None, None, None)))
    assert found.body_part == Verdict(None, 0.0)
    assert body_of(heads.mr_head(affine=None)) is None


@pytest.mark.parametrize(
    ("image", "family", "wrong", "right"),
    [(heads.radiograph(), "radiograph", "MR", "DX"), (heads.screen(), "screen", "CR", "US")],
    ids=["radiograph", "screen"],
)
def test_flat_images_are_told_by_their_grey_levels(
    image: Volume, family: str, wrong: str, right: str
) -> None:
    found = fingerprint(image)
    assert found.family.value == family
    assert remarks(found, Said(right), None) == ()
    assert remarks(found, Said("OT"), None) == (), "that says nothing"
    (remark,) = remarks(found, Said(wrong), None)
    assert remark.sure


def found(family: str | None = None, part: str | None = None, sure: float = 1.0) -> Fingerprint:
    none = Verdict(None, 0.0)
    return Fingerprint(
        Verdict(family, sure) if family else none, Verdict(part, sure) if part else none, none
    )


@pytest.mark.feature("F22")
@pytest.mark.parametrize(
    ("shown", "said", "sure", "text"),
    [
        (found(part="head"), Said("MR", "head"), None, ""),
        (found(part="head", sure=0.85), Said("MR"), None, ""),
        (found(part="head", sure=0.84), Said("MR"), False, "not sure enough"),
        (found(part="trunk"), Said("MR"), True, "a trunk (1.00), where the model wants a head"),
        (found(part="trunk", sure=0.7), Said("MR"), False, "a trunk (0.70)"),
        (found(), Said("MR", "head"), False, "do not tell whether this is a head"),
    ],
)
def test_a_model_for_heads_is_told_what_stands_against_it(
    shown: Fingerprint, said: Said, sure: bool | None, text: str
) -> None:
    given = remarks(shown, said, HEAD)
    assert [remark.sure for remark in given] == ([] if sure is None else [sure])
    assert all(text in str(remark) for remark in given)


@pytest.mark.parametrize(
    ("part", "said", "doubted"),
    [
        ("head", "other", True),
        ("head", "trunk", True),
        ("head", "head", False),
        ("head", None, False),
        (None, "trunk", False),
    ],
)
def test_the_headers_body_part_is_compared_where_both_say_one(
    part: str | None, said: str | None, doubted: bool
) -> None:
    assert bool(remarks(found(part=part), Said("MR", said), None)) == doubted


def test_what_is_not_sure_contradicts_no_header() -> None:
    assert remarks(found("CT", "trunk", 0.84), Said("MR", "head"), None) == ()


@pytest.mark.parametrize(
    ("value", "expected"), [(-1.0, 0.0), (0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (2.0, 1.0)]
)
def test_membership_rises_between_its_bounds(value: float, expected: float) -> None:
    assert membership(value, 0.0, 0.5) == expected
    assert membership(-value, 0.0, -0.5) == expected

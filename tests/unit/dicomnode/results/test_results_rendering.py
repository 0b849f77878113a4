"""The quick look: what is drawn, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ai.types import Answer, Confidence, Region
from dicomnode.results.rendering import annotated_png, render, strength_of
from tests.unit.dicomnode.results.cases import ORIENTATIONS, cr_case, ct_case


def boxes(shape):
    slices, rows, columns = shape
    return st.tuples(
        st.integers(0, slices - 1),
        st.floats(0, rows - 2),
        st.floats(0, columns - 2),
        st.floats(0.5, 6),
        st.floats(0.5, 6),
        st.floats(0, 1),
    )


def with_boxes(case, places):
    _, rows, columns = case.volume.voxels.shape
    findings = []
    for number, (index, row, column, height, width, sure) in enumerate(places):
        bottom, right = min(row + height, rows - 1), min(column + width, columns - 1)
        points = np.array([[column, row], [right, row], [right, bottom], [column, bottom]])
        findings.append(
            replace(
                cr_case().answer.findings[0],
                name=f"f{number}",
                confidence=Confidence(sure, "model"),
                region=Region(index, points),
            )
        )
    return replace(case, answer=replace(case.answer, findings=tuple(findings), labels=None))


@pytest.mark.feature("P16", "P17")
@given(st.lists(boxes((4, 10, 13)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_as_many_regions_are_drawn_as_findings_lie_somewhere_and_nothing_else(places):
    case = with_boxes(ct_case(), places)
    before = case.volume.voxels.copy()
    panels = render(case.volume, case.answer)
    drawn = {number for panel in panels for number in panel.regions}
    assert drawn == set(range(len(places)))
    for panel in panels:
        touched = np.zeros(panel.plain.shape[:2], bool)
        for mask in panel.regions.values():
            touched |= mask
        np.testing.assert_array_equal(panel.annotated[~touched], panel.plain[~touched])
    np.testing.assert_array_equal(case.volume.voxels, before)


@pytest.mark.feature("P15")
@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_the_surer_finding_is_drawn_no_weaker(one, other):
    finding = cr_case().answer.findings[0]
    weak, strong = (
        strength_of(replace(finding, confidence=Confidence(value, "model")))
        for value in sorted((one, other))
    )
    assert weak <= strong


def test_segments_are_drawn_in_their_colours_and_empty_ones_not():
    case = ct_case()
    panels = render(case.volume, case.answer)
    assert {number for panel in panels for number in panel.regions} == {0, 1}
    mask = panels[0].regions[0]
    red, _, blue = panels[0].annotated[mask].mean(axis=0)
    assert red > blue + 20


def test_the_whole_is_a_png_that_is_the_same_each_time():
    case = ct_case()
    data = annotated_png(case.volume, case.answer, "ct-tissue 1.0.0 – né")
    assert data == annotated_png(case.volume, case.answer, "ct-tissue 1.0.0 – né")
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")


@pytest.mark.parametrize(
    ("orientation", "sides"),
    [("axial", ("R", "L")), ("reversed", ("L", "R")), ("sagittal", ("", ""))],
)
def test_the_sides_follow_the_affine(orientation, sides):
    case = ct_case(ORIENTATIONS[orientation])
    assert {panel.sides for panel in render(case.volume, case.answer)} == {sides}


def test_images_keep_their_proportions_in_millimetres():
    case = ct_case(shape=(4, 10, 13), spacing=(5.0, 1.0, 2.0))
    panel = render(case.volume, case.answer)[0]
    rows, columns = panel.plain.shape[:2]
    assert columns / rows == pytest.approx(26 / 10, rel=0.02)


def test_what_is_meant_to_be_shown_white_is_white():
    case = cr_case()
    (panel,) = render(case.volume, Answer(()))
    assert panel.plain[0, 0, 0] > panel.plain[-1, -1, 0]
    dark = replace(case.volume, lowest_is_white=False)
    assert render(dark, Answer(()))[0].plain[0, 0, 0] == 0


def test_the_head_is_on_top_of_a_cut_across_axial_slices():
    case = ct_case()
    cut = render(case.volume, case.answer)[-1]
    rows = np.nonzero(cut.regions[0])[0]
    assert rows.mean() > cut.plain.shape[0] / 2

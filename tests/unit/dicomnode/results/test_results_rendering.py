"""The quick look: what is drawn, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ai.types import Answer, Confidence, Region
from dicomnode.results.drawing import render, strength_of
from dicomnode.results.rendering import (
    PREVIEW,
    THUMBNAIL,
    annotated_picture,
    legend,
    source_picture,
)
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
    panels = render(case.volume, case.answer, case.sources)
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


@pytest.mark.feature("P15")
@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
@example(0.0, 1e-9, True)
@settings(max_examples=100, deadline=None)
def test_the_surer_finding_stands_out_no_less_in_the_picture(one, other, in_segment):
    case = ct_case() if in_segment else cr_case()

    def contrast(value):
        first, *rest = case.answer.findings
        first = replace(first, confidence=Confidence(value, "model"))
        answer = replace(case.answer, findings=(first, *rest))
        panel = render(case.volume, answer, case.sources)[0]
        change = panel.annotated.astype(int) - panel.plain
        return np.abs(change[panel.regions[0]]).sum()

    weak, strong = (contrast(value) for value in sorted((one, other)))
    assert 0 < weak <= strong


def test_segments_are_drawn_in_their_colours_and_empty_ones_not():
    case = ct_case()
    panels = render(case.volume, case.answer, case.sources)
    assert {number for panel in panels for number in panel.regions} == {0, 1}
    mask = panels[0].regions[0]
    red, _, blue = panels[0].annotated[mask].mean(axis=0)
    assert red > blue + 20


def test_the_whole_is_a_png_that_is_the_same_each_time():
    case = ct_case()
    data = annotated_picture(case.volume, case.answer, case.sources, "ct-tissue 1.0.0 – né")
    assert data == annotated_picture(case.volume, case.answer, case.sources, "ct-tissue 1.0.0 – né")
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")


@pytest.mark.parametrize(
    ("orientation", "slices", "across"),
    [
        ("axial", ("R", "L", "A", "P"), ("R", "L", "H", "F")),
        ("reversed", ("L", "R", "A", "P"), ("L", "R", "H", "F")),
        ("coronal", ("R", "L", "H", "F"), ("R", "L", "A", "P")),
        ("sagittal", ("A", "P", "H", "F"), ("A", "P", "L", "R")),
        ("oblique", ("RA", "LP", "F", "H"), ("RA", "LP", "AH", "PF")),
    ],
)
def test_the_sides_follow_the_affine(orientation, slices, across):
    case = ct_case(ORIENTATIONS[orientation])
    *shown, cut = render(case.volume, case.answer, case.sources)
    assert {panel.sides for panel in shown} == {slices}
    assert cut.sides == across


@pytest.mark.parametrize(
    ("stated", "sides"),
    [
        (["L", "F"], ("R", "L", "H", "F")),
        (["P", "FL"], ("A", "P", "HR", "FL")),
        (["X", "F"], ("", "", "H", "F")),
        (None, ("", "", "", "")),
        ("L", ("", "", "", "")),
    ],
)
def test_without_a_place_in_space_the_sides_are_those_the_image_states(stated, sides):
    case = cr_case()
    if stated is not None:
        case.sources[0].PatientOrientation = stated
    (panel,) = render(case.volume, case.answer, case.sources)
    assert panel.sides == sides


def test_images_keep_their_proportions_in_millimetres():
    case = ct_case(shape=(4, 10, 13), spacing=(5.0, 1.0, 2.0))
    panel = render(case.volume, case.answer, case.sources)[0]
    rows, columns = panel.plain.shape[:2]
    assert columns / rows == pytest.approx(26 / 10, rel=0.02)


def test_what_is_meant_to_be_shown_white_is_white():
    case = cr_case()
    (panel,) = render(case.volume, Answer(()), case.sources)
    assert panel.plain[0, 0, 0] > panel.plain[-1, -1, 0]
    dark = replace(case.volume, lowest_is_white=False)
    assert render(dark, Answer(()), case.sources)[0].plain[0, 0, 0] == 0


def test_the_head_is_on_top_of_a_cut_across_axial_slices():
    case = ct_case()
    cut = render(case.volume, case.answer, case.sources)[-1]
    rows = np.nonzero(cut.regions[0])[0]
    assert rows.mean() > cut.plain.shape[0] / 2


def test_a_picture_comes_as_jpeg_too():
    case = cr_case()
    data = annotated_picture(case.volume, case.answer, case.sources, "x 1", "JPEG")
    with Image.open(BytesIO(data)) as image:
        assert image.format == "JPEG"


@pytest.mark.feature("P18")
@pytest.mark.parametrize("longest", [THUMBNAIL, PREVIEW])
def test_the_source_alone_comes_in_the_size_asked_for(longest):
    case = ct_case(shape=(4, 10, 13), spacing=(5.0, 1.0, 2.0))
    with Image.open(BytesIO(source_picture(case.volume, case.sources, longest=longest))) as image:
        assert image.width == longest
        assert image.height == round(longest * 10 / 26)
        assert len(set(image.convert("L").tobytes())) > 2


def test_the_source_alone_is_the_slice_asked_for():
    case = ct_case()
    pictures = {source_picture(case.volume, case.sources, index=index) for index in range(4)}
    assert len(pictures) > 1
    with pytest.raises(IndexError):
        source_picture(case.volume, case.sources, index=4)


def test_the_bar_says_when_its_millimetres_are_those_of_the_detector():
    case = cr_case()
    case = replace(case, volume=replace(case.volume, spacing=(None, 0.2, 0.2)))
    case.sources[0].ImagerPixelSpacing = ["0.2", "0.2"]
    (panel,) = render(case.volume, case.answer, case.sources)
    assert panel.pixels_per_mm is not None
    assert panel.on_detector
    case.sources[0].PixelSpacing = ["0.2", "0.2"]
    (panel,) = render(case.volume, case.answer, case.sources)
    assert not panel.on_detector


def test_the_legend_says_how_sure_the_model_is_and_what_it_leaves_out():
    case = cr_case()
    assert "opacity: Lesion, area 195.5 {pixels}, confidence 87 %" in legend(case.answer)
    many = replace(case.answer, findings=case.answer.findings * 20)
    assert len(legend(many)) == 24
    assert legend(many)[-1] == "and 17 more"
    assert legend(Answer(())) == ["nothing found"]

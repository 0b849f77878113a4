"""The presentation state: outlines where the findings lie, layers, window, references."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.types import Answer, Confidence
from dicomnode.frames import frame_headers
from dicomnode.results.gsps import build_presentation_state, is_possible
from dicomnode.results.voi import FUNCTIONS
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def state_of(case):
    written = to_bytes(
        build_presentation_state(case.answer, case.volume, case.sources, case.provenance)
    )
    return dcmread(BytesIO(written))


def painted(state, uid, layer, shape):
    """What a reader fills of one layer on one image: odd-even over its closed polylines."""
    scale = 4
    inside = np.zeros((shape[0] * scale, shape[1] * scale), bool)
    for item in state.GraphicAnnotationSequence:
        images = item.get("ReferencedImageSequence", ())
        if item.GraphicLayer != layer or uid not in [e.ReferencedSOPInstanceUID for e in images]:
            continue
        for graphic in item.GraphicObjectSequence:
            points = np.array(graphic.GraphicData).reshape(-1, 2)
            assert (points[0] == points[-1]).all()
            assert graphic.NumberOfGraphicPoints == len(points)
            picture = Image.new("1", inside.shape[::-1])
            # A pixel of the enlarged picture belongs to the polygon that its centre lies in.
            corners = [tuple(point) for point in (points * scale - 0.5).tolist()]
            ImageDraw.Draw(picture).polygon(corners, fill=1)
            inside ^= np.asarray(picture)
    return inside[scale // 2 :: scale, scale // 2 :: scale]


@pytest.mark.parametrize(
    ("on_the_detector", "shown"), [(None, None), (["0", "0"], None), (["0.2", "0.3"], [0.2, 0.3])]
)
def test_a_spacing_of_zero_is_none(on_the_detector, shown):
    case = cr_case()
    case.sources[0].PixelSpacing = ["0", "0"]
    case.sources[0].ImagerPixelSpacing = on_the_detector
    (area,) = state_of(case).DisplayedAreaSelectionSequence
    assert area.get("PresentationPixelSpacing") == shown
    assert ("PresentationPixelAspectRatio" in area) == (shown is None)


@pytest.mark.feature("P16")
@given(hnp.arrays(np.uint8, (4, 10, 13), elements=st.integers(0, 1)))
@settings(max_examples=100, deadline=None)
def test_every_segment_is_enclosed_on_the_images_it_lies_on(labels):
    case = ct_case()
    case = replace(case, answer=replace(case.answer, labels=labels))
    state = state_of(case)
    for index, source in enumerate(case.sources):
        for number, finding in enumerate(case.answer.findings):
            found = painted(state, source.SOPInstanceUID, f"FINDING {number + 1}", (10, 13))
            wanted = labels[index] == finding.segment
            # Where pixels touch at corners the enlarged picture joins a pixel of its own.
            assert (found == wanted).mean() > 0.97


def test_a_polygon_lies_half_a_pixel_from_the_centres():
    case = cr_case()
    state = state_of(case)
    (item,) = (each for each in state.GraphicAnnotationSequence if "FINDING" in each.GraphicLayer)
    (graphic,) = item.GraphicObjectSequence
    wanted = case.answer.findings[0].region.points + 0.5
    np.testing.assert_allclose(np.array(graphic.GraphicData).reshape(-1, 2)[:-1], wanted)
    assert (graphic.GraphicAnnotationUnits, graphic.GraphicType) == ("PIXEL", "POLYLINE")
    (text,) = item.TextObjectSequence
    assert text.UnformattedTextValue == "opacity 87 %"


@pytest.mark.feature("P15")
@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_the_layer_of_the_surer_finding_is_no_darker(one, other):
    case = cr_case()
    first = case.answer.findings[0]
    findings = tuple(
        replace(first, name=str(value), confidence=Confidence(value, "model"))
        for value in (one, other)
    )
    state = state_of(replace(case, answer=Answer(findings)))
    shades = [
        each.GraphicLayerRecommendedDisplayGrayscaleValue for each in state.GraphicLayerSequence
    ]
    assert (shades[0] - shades[1]) * (one - other) >= 0


def test_the_most_significant_layer_lies_on_top_and_the_notice_on_all_images():
    state = state_of(ct_case())
    orders = {each.GraphicLayer: each.GraphicLayerOrder for each in state.GraphicLayerSequence}
    assert orders["FINDING 1"] > orders["FINDING 2"] > orders["FINDING 3"]
    assert len(set(orders.values())) == len(orders)
    notice = state.GraphicAnnotationSequence[0]
    assert "ReferencedImageSequence" not in notice
    assert notice.TextObjectSequence[0].UnformattedTextValue == ("AI, unverified: ct-tissue 1.0.0")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_window_and_the_rescale_are_those_of_the_images(function):
    case = ct_case()
    for source in case.sources:
        source.WindowCenter, source.WindowWidth = ["50", "600"], ["350", "1500"]
        source.VOILUTFunction = function
        source.RescaleSlope, source.RescaleIntercept, source.RescaleType = "1", "-1024", "HU"
    state = state_of(case)
    (item,) = state.SoftcopyVOILUTSequence
    assert (item.WindowCenter, item.WindowWidth) == (50, 350)
    assert item.get("VOILUTFunction", "LINEAR") == function
    assert "ReferencedImageSequence" not in item
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    assert state.PresentationLUTShape == "IDENTITY"


def test_images_with_windows_of_their_own_are_named_with_them():
    case = ct_case()
    for index, source in enumerate(case.sources):
        source.WindowCenter, source.WindowWidth = str(50 + index // 2), "100"
    state = state_of(case)
    named = [
        [each.ReferencedSOPInstanceUID for each in item.ReferencedImageSequence]
        for item in state.SoftcopyVOILUTSequence
    ]
    uids = [source.SOPInstanceUID for source in case.sources]
    assert named == [uids[:2], uids[2:]]


def test_the_table_of_the_source_goes_on():
    case = ct_case()
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [3, -10, 12])
    table.add_new("LUTData", "US", [0, 100, 4095])
    for source in case.sources:
        source.VOILUTSequence = [table]
    (item,) = state_of(case).SoftcopyVOILUTSequence
    (lut,) = item.VOILUTSequence
    assert list(lut.LUTDescriptor) == [3, -10, 12]
    np.testing.assert_array_equal(np.frombuffer(lut.LUTData, "<u2"), [0, 100, 4095])


def test_monochrome1_is_said_by_the_presentation_lut():
    assert state_of(cr_case()).PresentationLUTShape == "INVERSE"


def test_images_that_differ_in_their_modality_lut_have_no_common_state():
    case = ct_case()
    assert is_possible(case.sources)
    case.sources[1].RescaleSlope = "2"
    assert not is_possible(case.sources)
    with pytest.raises(ValueError, match="modality LUT"):
        state_of(case)


def test_a_multi_frame_source_is_named_once_with_its_frames():
    case = cr_case()
    case.sources[0].NumberOfFrames = 3
    frames = frame_headers(case.sources[0])[:2]
    volume = replace(case.volume, voxels=np.repeat(case.volume.voxels, 2, axis=0))
    state = state_of(replace(case, sources=frames, volume=volume))
    (series,) = state.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert list(image.ReferencedFrameNumber) == [1, 2]
    drawn = state.GraphicAnnotationSequence[1].ReferencedImageSequence[0]
    assert drawn.ReferencedFrameNumber == 1


def test_images_in_colour_get_a_colour_state_with_a_profile():
    case = cr_case()
    state = state_of(replace(case, volume=replace(case.volume, colour=True)))
    assert state.SOPClassUID.name == "Color Softcopy Presentation State Storage"
    assert state.ICCProfile[36:40] == b"acsp"
    assert state.ICCProfile[24:36] == bytes(12)
    assert "PresentationLUTShape" not in state
    assert "SoftcopyVOILUTSequence" not in state

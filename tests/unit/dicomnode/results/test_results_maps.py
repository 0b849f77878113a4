"""Label maps, fractional segmentations and heat maps: what another reader finds in them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import dcmread

from dicomnode.results.fractional import MAXIMUM, build_fractional
from dicomnode.results.labelmap import build_label_map
from dicomnode.results.saliency import build_saliency
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    cr_case,
    ct_case,
    single_image_segment_case,
    with_probabilities,
    with_saliency,
)

BUILD = {"labelmap": build_label_map, "fractional": build_fractional, "saliency": build_saliency}


def built(kind, case):
    dataset = BUILD[kind](case.answer, case.volume, case.sources, case.provenance)
    return dcmread(BytesIO(to_bytes(dataset)))


def placed(dataset, case):
    """Frames of one channel as another library places them, on the grid of the source."""
    image = highdicom.Image.from_dataset(dataset)
    volume = image.get_volume(
        apply_real_world_transform=False,
        apply_modality_transform=False,
        apply_voi_transform=False,
        apply_palette_color_lut=False,
        apply_icc_profile=False,
    )
    geometry = highdicom.VolumeGeometry(
        case.volume.affine, case.volume.voxels.shape, coordinate_system="PATIENT"
    )
    return volume.match_geometry(geometry).array


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_another_reader_finds_every_label_in_its_place(orientation):
    case = ct_case(orientation)
    np.testing.assert_array_equal(placed(built("labelmap", case), case), case.answer.labels)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_another_reader_finds_every_salient_value_in_its_place(orientation):
    case = with_saliency(ct_case(orientation))
    np.testing.assert_array_equal(
        placed(built("saliency", case), case), case.answer.saliency.values
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_another_reader_finds_every_probability_in_its_place(orientation):
    case = with_probabilities(ct_case(orientation))
    segmentation = highdicom.seg.Segmentation.from_dataset(built("fractional", case))
    volume = segmentation.get_volume(rescale_fractional=True)
    geometry = highdicom.VolumeGeometry(
        case.volume.affine, case.volume.voxels.shape, coordinate_system="PATIENT"
    )
    found = np.moveaxis(volume.match_geometry(geometry).array, -1, 0)
    assert np.abs(found - case.answer.probabilities).max() <= 0.5 / MAXIMUM + 1e-6


def test_a_label_map_describes_its_background_and_keeps_its_numbers():
    case = ct_case()
    segments = tuple(
        replace(each, number=number)
        for each, number in zip(case.answer.segments, (1, 2, 200), strict=True)
    )
    labels = np.where(case.answer.labels == 0, np.uint8(200), case.answer.labels)
    dataset = built(
        "labelmap", replace(case, answer=replace(case.answer, segments=segments, labels=labels))
    )
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [0, 1, 2, 200]
    assert dataset.PixelPaddingValue == 0
    assert dataset.NumberOfFrames == len(case.sources)


def test_a_label_of_no_segment_is_refused():
    case = ct_case()
    segments = (case.answer.segments[0], replace(case.answer.segments[2], number=9))
    with pytest.raises(ValueError, match="belongs to no segment"):
        built("labelmap", replace(case, answer=replace(case.answer, segments=segments)))


@given(
    arrays.arrays(
        np.float32, (3, 2, 3, 5), elements=st.floats(0, 1, width=32, allow_subnormal=False)
    )
)
@settings(max_examples=100, deadline=None)
def test_a_probability_is_kept_to_half_a_step(probabilities):
    case = ct_case(shape=(2, 3, 5))
    case = replace(case, answer=replace(case.answer, probabilities=probabilities))
    pixels = np.frombuffer(built("fractional", case).PixelData, np.uint8)
    stored = pixels[: probabilities.size].reshape(probabilities.shape) / MAXIMUM
    assert np.abs(stored - probabilities).max() <= 0.5 / MAXIMUM + 1e-6


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_what_is_no_probability_is_refused(value):
    case = with_probabilities(ct_case())
    case.answer.probabilities[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="outside 0 to 1"):
        built("fractional", case)


def test_a_heat_map_names_its_finding_and_how_it_was_made():
    case = with_saliency(cr_case())
    dataset = built("saliency", case)
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    quantity, finding = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == "SALIENCY"
    assert finding.ConceptCodeSequence[0].CodeValue == case.answer.findings[0].type.value
    assert mapping.LUTExplanation == "Saliency of opacity"
    assert dataset.ImageComments == case.answer.saliency.method
    values = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(case.volume.voxels.shape)
    np.testing.assert_array_equal(values, case.answer.saliency.values)


def test_a_heat_map_of_an_image_without_a_place_claims_none():
    dataset = built("saliency", with_saliency(cr_case()))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert "PlaneOrientationSequence" not in shared
    assert "PlanePositionSequence" not in dataset.PerFrameFunctionalGroupsSequence[0]
    assert dataset.FrameOfReferenceUID.startswith("2.25.")


def test_a_spacing_of_zero_says_nothing_of_distances():
    case = with_saliency(cr_case())
    case.sources[0].PixelSpacing = ["0", "0"]
    (shared,) = built("saliency", case).SharedFunctionalGroupsSequence
    assert "PixelSpacing" not in shared.PixelMeasuresSequence[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finding": "another"}, "no finding"),
        ({"values": np.zeros((1, 2, 3), np.float32)}, "shape"),
        ({"values": np.full((1, 24, 36), np.inf, np.float32)}, "not finite"),
    ],
)
def test_a_heat_map_that_does_not_fit_is_refused(change, message):
    case = with_saliency(cr_case())
    saliency = replace(case.answer.saliency, **change)
    with pytest.raises(ValueError, match=message):
        built("saliency", replace(case, answer=replace(case.answer, saliency=saliency)))


@pytest.mark.parametrize("kind", BUILD)
def test_what_the_answer_lacks_is_not_made(kind):
    case = ct_case()
    bare = replace(case.answer, labels=None)
    with pytest.raises(ValueError, match="to encode"):
        built(kind, replace(case, answer=bare))


@pytest.mark.parametrize("kind", ["labelmap", "fractional"])
def test_an_image_without_a_place_has_its_frames_in_a_stack(kind):
    case = with_probabilities(single_image_segment_case())
    dataset = built(kind, case)
    assert "FrameOfReferenceUID" not in dataset
    content = dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0]
    assert (content.StackID, content.InStackPositionNumber) == ("1", 1)
    assert len(dataset.DimensionIndexSequence) == content["DimensionIndexValues"].VM

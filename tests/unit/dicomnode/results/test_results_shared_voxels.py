"""Segments that overlap: what is written of them, and what the gate says where it is not so."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.results.bundle import FORMS, Sources, build_bundle
from dicomnode.results.content import walk
from dicomnode.results.gate import prove
from dicomnode.results.labelmap import build_label_map
from dicomnode.results.planes import largest_planes
from dicomnode.results.readback import labels_of
from dicomnode.results.received import answer_of
from dicomnode.results.regions import (
    fullest,
    is_located,
    key_slices,
    outlines,
    segment_mask,
    slices_with_findings,
)
from dicomnode.results.seg import build_segmentation
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    ct_case,
    packed,
    single_image_segment_case,
    with_overlap,
    with_probabilities,
    written,
)

KINDS = {kind for kind in FORMS if kind not in ("json", "fhir")}


def overlapping(orientation="axial", **changes):
    return with_overlap(ct_case(ORIENTATIONS[orientation], **changes))


def built(case):
    dataset = build_segmentation(case.answer, case.volume, case.sources, case.provenance)
    return dcmread(BytesIO(to_bytes(dataset)))


def judged(case, files):
    return prove(files, case.answer, case.volume, case.sources, case.provenance)


def masks_of(case):
    return np.stack([case.answer.mask(each.number) for each in case.answer.segments])


def put_frames(dataset, frames):
    packed_bits = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = packed_bits + b"\0" * (len(packed_bits) % 2)


def frames_of(dataset):
    """``(segments, slices, rows, columns)``"""
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = dataset.NumberOfFrames * dataset.Rows * dataset.Columns
    return bits[:size].reshape(3, -1, dataset.Rows, dataset.Columns)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_another_reader_finds_every_segment_whole_and_in_its_place(orientation):
    case = overlapping(orientation)
    masks = masks_of(case)
    assert (masks[0] & masks[1]).any()
    segmentation = highdicom.seg.Segmentation.from_dataset(built(case))
    geometry = highdicom.VolumeGeometry(
        case.volume.affine, case.volume.voxels.shape, coordinate_system="PATIENT"
    )
    for number, mask in enumerate(masks, 1):
        found = segmentation.get_volume(segment_numbers=[number], combine_segments=False)
        placed = found.match_geometry(geometry).array.reshape(mask.shape)
        np.testing.assert_array_equal(placed, mask)


@pytest.mark.parametrize("make", [ct_case, single_image_segment_case])
def test_what_is_written_is_read_back_as_it_was(make):
    case = with_overlap(make())
    written_one = built(case)
    assert written_one.SegmentsOverlap == "YES"
    back = answer_of(written_one, case.volume, case.sources)
    assert back.overlap
    np.testing.assert_array_equal(back.labels, case.answer.labels)
    assert labels_of(written_one, case.volume, case.sources, overlap=True).dtype == np.uint8


def test_where_no_voxel_is_shared_the_object_says_so():
    case = overlapping()
    masks = masks_of(case)
    masks[1] &= ~masks[0]
    apart = replace(case, answer=replace(case.answer, labels=packed(masks)))
    assert built(apart).SegmentsOverlap == "NO"
    assert judged(apart, written(apart)) == ()
    # Then its segments can be read as numbers, as those of any other.
    back = answer_of(built(apart), case.volume, case.sources)
    assert not back.overlap
    np.testing.assert_array_equal(back.labels, masks[0] + 2 * masks[1])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_form_that_can_hold_them_passes_the_gate(orientation):
    case = with_probabilities_of(overlapping(orientation))
    made = build_bundle(KINDS, Sources(case.answer, case.volume, case.sources, case.provenance))
    assert KINDS - set(made) == {"labelmap", "saliency"}
    files = {kind: to_bytes(each) for kind, each in made.items() if isinstance(each, Dataset)}
    assert [str(each) for each in judged(case, files)] == []


def with_probabilities_of(case):
    """Probabilities of the right shape; what they are is not looked at."""
    plain = with_probabilities(ct_case(shape=case.volume.voxels.shape))
    return replace(case, answer=replace(case.answer, probabilities=plain.answer.probabilities))


def test_a_report_has_the_whole_of_each_segment():
    case = overlapping()
    report = dcmread(BytesIO(written(case)["sr"]))
    volumes = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in walk(report)
        if item.get("ValueType") == "NUM"
        and item.ConceptNameCodeSequence[0].CodeMeaning == "Volume"
    ]
    voxel_ml = case.volume.voxel_volume_ml
    assert volumes == pytest.approx([mask.sum() * voxel_ml for mask in masks_of(case)])


def says_no(dataset):
    dataset.SegmentsOverlap = "NO"


def says_nothing(dataset):
    del dataset.SegmentsOverlap


def loses_the_shared_voxels(dataset):
    frames = frames_of(dataset).copy()
    frames[0] &= ~frames[1]
    put_frames(dataset, frames)


def moves_the_second(dataset):
    frames = frames_of(dataset).copy()
    frames[1] = np.roll(frames[1], 1, axis=2)
    put_frames(dataset, frames)


def mirrors_the_second(dataset):
    frames = frames_of(dataset).copy()
    frames[1] = frames[1, :, :, ::-1]
    put_frames(dataset, frames)


def swaps_two(dataset):
    put_frames(dataset, frames_of(dataset)[[1, 0, 2]])


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (says_no, "content", "says of its segments' overlap what is not so"),
        (says_nothing, "content", "says of its segments' overlap what is not so"),
        (loses_the_shared_voxels, "geometry", "segment 1 has another volume"),
        (moves_the_second, "geometry", "segment 2 lies"),
        (mirrors_the_second, "geometry", "segment 2 lies on another side"),
        (swaps_two, "geometry", "segment 1 differs"),
    ],
)
def test_the_gate_names_the_segment_that_is_not_as_it_was(change, code, text):
    case = overlapping()
    files = written(case)
    dataset = dcmread(BytesIO(files["seg"]))
    change(dataset)
    found = judged(case, files | {"seg": to_bytes(dataset)})
    assert any(each.code == code and text in each.text for each in found), found
    if change in (moves_the_second, mirrors_the_second):
        # Each segment is looked at by itself: the one in its place is not blamed.
        assert not any("segment 1 " in each.text for each in found)


def test_an_overlap_that_is_not_there_is_not_claimed():
    case = ct_case()
    files = written(case)
    dataset = dcmread(BytesIO(files["seg"]))
    dataset.SegmentsOverlap = "YES"
    found = judged(case, files | {"seg": to_bytes(dataset)})
    assert ["says of its segments' overlap" in each.text for each in found] == [True]


def test_a_label_map_is_neither_made_nor_let_through():
    case, plain = overlapping(), ct_case()
    with pytest.raises(ValueError, match="no segments that overlap"):
        build_label_map(case.answer, case.volume, case.sources, case.provenance)
    parts = (plain.answer, plain.volume, plain.sources, plain.provenance)
    smuggled = to_bytes(build_label_map(*parts))
    found = judged(case, {"labelmap": smuggled})
    assert any("a label map holds no segments that overlap" in each.text for each in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.astype(np.int16), "must be uint8, not int16"),
        (lambda labels: labels | np.uint8(8), "label 4 belongs to no segment"),
    ],
)
def test_labels_that_do_not_fit_their_segments_are_refused(change, message):
    case = overlapping()
    answer = replace(case.answer, labels=change(case.answer.labels))
    with pytest.raises(ValueError, match=message):
        built(replace(case, answer=answer))


def test_labels_with_too_few_bits_are_refused():
    case = overlapping()
    nine = tuple(replace(case.answer.segments[0], number=number) for number in range(1, 10))
    with pytest.raises(ValueError, match="must be uint16, not uint8"):
        built(replace(case, answer=replace(case.answer, segments=nine)))


def test_more_segments_than_bits_are_not_read():
    case = overlapping()
    dataset = built(case)
    dataset.SegmentSequence[2].SegmentNumber = 65
    with pytest.raises(MalformedError, match="numbered from 1 to 64"):
        labels_of(dataset, case.volume, case.sources, overlap=True)
    dataset.SegmentSequence[2].SegmentNumber = 3
    dataset.SegmentSequence[0].SegmentNumber = 2
    with pytest.raises(MalformedError, match="unknown segment 1"):
        labels_of(dataset, case.volume, case.sources, overlap=True)


def test_the_fullest_cut_shows_most_of_each_segment_and_not_of_their_sharing():
    masks = np.zeros((3, 4, 10, 13), bool)
    masks[0, 0, 2, :10] = True
    masks[1, 1, 2, :5] = True
    masks[:2, 2, 5, :5] = True  # half of the first and all of the second
    answer = replace(overlapping().answer, labels=packed(masks))
    assert fullest(answer, 0, 4) == 2
    assert fullest(answer, 1, 10) == 2  # there the first is whole, and the second as large


def test_pictures_show_a_segment_that_lies_within_another():
    case = overlapping()
    masks, answer = masks_of(case), case.answer
    masks[1] = masks[0]
    masks[1, 1:] = False
    inside = replace(answer, labels=packed(masks))
    assert [is_located(inside, each) for each in inside.findings] == [True, True, False]
    assert slices_with_findings(inside) == np.flatnonzero(masks[0].any(axis=(1, 2))).tolist()
    located = replace(inside, findings=inside.findings[:2])
    assert slices_with_findings(located) == slices_with_findings(inside)
    assert fullest(inside, 0, 4) == 0  # the one slice of the second, and a fair one of the first
    assert {number for index in key_slices(inside, 4) for number, _ in outlines(inside, index)} == {
        0,
        1,
    }
    for finding, mask in zip(inside.findings, masks, strict=True):
        np.testing.assert_array_equal(segment_mask(inside, finding), mask)
        np.testing.assert_array_equal(segment_mask(inside, finding, 2, axis=1), mask[:, 2])
    areas = {plane.finding.segment: plane.pixels for plane in largest_planes(inside, case.volume)}
    assert areas == {
        number: masks[number - 1].sum(axis=(1, 2)).max() for number in (1, 2)
    }  # fmt: skip

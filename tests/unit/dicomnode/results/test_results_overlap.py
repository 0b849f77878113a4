"""Segmentations of the same images are held against each other voxel by voxel."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.results.overlap import Overlap, overlaps
from dicomnode.results.seg import build_segmentation
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import SEGMENTS, ct_case, single_image_segment_case

CASES = (ct_case(), single_image_segment_case())


def segmentation(case, labels: NDArray[np.uint8], segments=SEGMENTS, **provenance) -> Dataset:
    answer = replace(case.answer, labels=labels, segments=segments)
    origin = replace(case.provenance, **provenance)
    made = build_segmentation(answer, case.volume, case.sources, origin)
    return dcmread(BytesIO(to_bytes(made)))


@pytest.mark.parametrize("case", CASES, ids=["ct", "one image"])
def test_every_voxel_of_every_label_is_counted(case) -> None:
    mine = case.answer.labels
    theirs = mine.copy()
    theirs[0, 2] = 2
    theirs[-1, :, -6:] = 0
    found = overlaps(segmentation(case, mine), segmentation(case, theirs, identity="f" * 64))
    assert found == {
        segment.label: Overlap(
            int((mine == segment.number).sum()),
            int((theirs == segment.number).sum()),
            int(((mine == segment.number) & (theirs == segment.number)).sum()),
        )
        for segment in SEGMENTS
    }
    assert any(0 < overlap.both < overlap.one for overlap in found.values())
    assert found["muscle"].dice is None


def test_labels_are_matched_by_name_and_not_by_number() -> None:
    case = CASES[0]
    labels = case.answer.labels
    turned = np.choose(labels, [0, 2, 1, 3]).astype(np.uint8)
    swapped = tuple(
        replace(SEGMENTS[index], number=number) for index, number in ((1, 1), (0, 2), (2, 3))
    )
    answer = replace(case.answer, findings=())
    found = overlaps(
        segmentation(replace(case, answer=answer), labels),
        segmentation(replace(case, answer=answer), turned, swapped, identity="e" * 64),
    )
    assert (found["fat"].dice, found["bone"].dice) == (1.0, 1.0)


def test_pairs_add_up() -> None:
    overlap = Overlap(4, 2, 1)
    overlap.add(Overlap(0, 2, 0))
    assert (overlap, overlap.dice) == (Overlap(4, 4, 1), 0.25)


def test_what_cannot_be_compared_is_refused() -> None:
    ct, cr = (segmentation(case, case.answer.labels) for case in CASES)
    with pytest.raises(MalformedError, match="another matrix size"):
        overlaps(ct, cr)
    fractional = segmentation(CASES[0], CASES[0].answer.labels)
    fractional.SegmentationType = "FRACTIONAL"
    nowhere = segmentation(CASES[0], CASES[0].answer.labels)
    for groups in nowhere.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence
    short = segmentation(CASES[0], CASES[0].answer.labels)
    short.PixelData = short.PixelData[:8]
    for broken in (fractional, nowhere, short):
        with pytest.raises(MalformedError):
            overlaps(ct, broken)

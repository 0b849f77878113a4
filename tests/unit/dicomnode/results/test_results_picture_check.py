"""The gate on what is made to be looked at: good objects pass, each damage is found."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dicomnode.results.bundle import Sources, build_bundle
from dicomnode.results.gate import prove
from dicomnode.results.provenance import WARNING
from dicomnode.results.write import to_bytes
from tests.unit.dicomnode.results.cases import (
    ORIENTATIONS,
    cr_case,
    ct_case,
    single_image_segment_case,
)

KINDS = ("overlay", "gsps", "ko", "pdf")


def made_of(case, kinds=KINDS):
    return build_bundle(kinds, Sources(case.answer, case.volume, case.sources, case.provenance))


def proved(case, made):
    written = {kind: to_bytes(dataset) for kind, dataset in made.items()}
    found = prove(written, case.answer, case.volume, case.sources, case.provenance)
    return [str(finding) for finding in found]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_kind_passes_however_the_slices_lie(orientation):
    case = ct_case(ORIENTATIONS[orientation])
    assert proved(case, made_of(case)) == []


@pytest.mark.parametrize("case", [cr_case(), single_image_segment_case()])
def test_every_kind_of_a_single_image_passes(case):
    assert proved(case, made_of(case)) == []


def test_an_image_larger_and_one_with_other_proportions_than_a_frame_pass():
    case = ct_case(shape=(2, 1400, 900), spacing=(5.0, 0.5, 1.5))
    assert proved(case, made_of(case, ("overlay", "gsps", "ko"))) == []


@given(hnp.arrays(np.uint8, (4, 10, 13), elements=st.integers(0, 3)))
@settings(max_examples=10, deadline=None)
def test_whatever_the_segments_look_like_the_objects_pass(labels):
    case = ct_case()
    case = replace(case, answer=replace(case.answer, labels=labels))
    assert proved(case, made_of(case)) == []


def turned(dataset, axis):
    size = (dataset.NumberOfFrames, dataset.Rows, dataset.Columns, 3)
    frames = np.frombuffer(dataset.PixelData, np.uint8).reshape(size)
    dataset.PixelData = np.ascontiguousarray(np.flip(frames, axis)).tobytes()


def graphics(dataset):
    for item in dataset.GraphicAnnotationSequence:
        yield from item.get("GraphicObjectSequence", ())


def moved(dataset, right, down):
    for graphic in graphics(dataset):
        points = np.array(graphic.GraphicData).reshape(-1, 2) + np.array([right, down])
        graphic.GraphicData = points.ravel().tolist()


def transposed(dataset):
    for graphic in graphics(dataset):
        points = np.array(graphic.GraphicData).reshape(-1, 2)[:, ::-1]
        graphic.GraphicData = points.ravel().tolist()


def on_another_image(dataset):
    first, *_ = (
        item for item in dataset.GraphicAnnotationSequence if "ReferencedImageSequence" in item
    )
    last = dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[-1]
    first.ReferencedImageSequence[0].ReferencedSOPInstanceUID = last.ReferencedSOPInstanceUID


def swap_sources(dataset):
    items = list(dataset.SourceImageSequence)
    dataset.SourceImageSequence = items[::-1]


def speckle(dataset):
    pixels = bytearray(dataset.PixelData)
    place = 3 * (dataset.Columns * 250 + 400)  # low and far right in the image
    pixels[place : place + 30] = bytes(range(30))
    dataset.PixelData = bytes(pixels)


def without_warning(dataset):
    for item in dataset.ContentSequence:
        if "TextValue" in item:
            item.TextValue = item.TextValue.replace(WARNING, "Fine.")


def other_words(old, new):
    def change(dataset):
        pages = dataset.EncapsulatedDocument
        assert old in pages
        dataset.EncapsulatedDocument = pages.replace(old, new, 1)

    return change


def setting(keyword, value):
    return lambda dataset: setattr(dataset, keyword, value)


DAMAGES = {
    "overlay turned over": ("overlay", lambda each: turned(each, 1), "geometry"),
    "overlay mirrored": ("overlay", lambda each: turned(each, 2), "geometry"),
    "overlay of other slices": ("overlay", swap_sources, "geometry"),
    "overlay with a speckle": ("overlay", speckle, "geometry"),
    "overlay without warning": ("overlay", setting("ImageComments", "x"), "label"),
    "overlay as original": ("overlay", setting("ImageType", ["ORIGINAL", "PRIMARY"]), "label"),
    "overlay of nothing": ("overlay", setting("SourceImageSequence", []), "reference"),
    "graphics moved": ("gsps", lambda each: moved(each, 1.0, 0.0), "geometry"),
    "graphics moved down": ("gsps", lambda each: moved(each, 0.0, 1.0), "geometry"),
    "graphics outside": ("gsps", lambda each: moved(each, 20.0, 0.0), "coordinates"),
    "graphics transposed": ("gsps", transposed, "geometry"),
    "graphics on another image": ("gsps", on_another_image, "geometry"),
    "state without notice": (
        "gsps",
        lambda each: each.GraphicAnnotationSequence.pop(0),
        "label",
    ),
    "state of fewer images": (
        "gsps",
        lambda each: each.ReferencedSeriesSequence[0].ReferencedImageSequence.pop(),
        "reference",
    ),
    "key image left out": ("ko", lambda each: each.ContentSequence.pop(), "content"),
    "key images without warning": ("ko", without_warning, "label"),
    "key image of nobody": (
        "ko",
        lambda each: setattr(
            each.ContentSequence[-1].ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "1.2"
        ),
        "reference",
    ),
    "key images with another title": (
        "ko",
        lambda each: setattr(each.ConceptNameCodeSequence[0], "CodeValue", "113003"),
        "template",
    ),
    "pages verified": ("pdf", setting("VerificationFlag", "VERIFIED"), "label"),
    "pages cut off": (
        "pdf",
        lambda each: setattr(each, "EncapsulatedDocument", each.EncapsulatedDocument[:900]),
        "structure",
    ),
    "a page without warning": ("pdf", other_words(b"(AI output", b"(MD output"), "label"),
    "pages without a finding": ("pdf", other_words(b"2. bone", b"2. tone"), "content"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found(name):
    kind, damage, code = DAMAGES[name]
    case = ct_case()
    made = made_of(case, (kind,))
    assert proved(case, made) == []
    damage(made[kind])
    found = proved(case, made)
    assert any(each.startswith(f"{code}: {kind}: ") for each in found), found


def test_an_overlay_that_denies_burned_in_names_is_found():
    case = ct_case()
    made = made_of(case, ("overlay",))
    sources = deepcopy(case.sources)
    sources[0].BurnedInAnnotation = "YES"
    found = proved(replace(case, sources=sources), made)
    assert any("denies the burned-in annotation" in each for each in found)

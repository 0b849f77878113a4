"""The window of an image: the three functions, the table, and what counts when it is broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi_lut

from dicomnode.results.voi import FUNCTIONS, Table, Window, as_shown, slice_grey, voi_of
from tests.unit.dicomnode.results.cases import cr_case, ct_case


def image(**attributes: object) -> Dataset:
    header = Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.BitsAllocated, header.PixelRepresentation = 12, 16, 0
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


def table(first: int, bits: int, entries: list[int]) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


@pytest.mark.parametrize("function", FUNCTIONS)
@given(
    st.lists(st.integers(0, 4095), min_size=1, max_size=50),
    st.integers(-100, 5000),
    st.integers(2, 4000),
)
@settings(max_examples=100, deadline=None)
def test_each_function_gives_what_an_independent_reader_gives(function, values, centre, width):
    stored = np.array(values, np.uint16)
    header = image(WindowCenter=str(centre), WindowWidth=str(width), VOILUTFunction=function)
    with np.errstate(over="ignore"):
        theirs = apply_voi_lut(stored, header) * (255 / 4095)
    ours = Window(float(centre), float(width), function).grey(stored)
    assert np.abs(ours - theirs).max() <= 0.51


@given(
    st.lists(st.integers(-50, 400), min_size=1, max_size=50),
    st.integers(0, 200),
    st.lists(st.integers(0, 4095), min_size=2, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_a_table_is_looked_up_and_its_ends_reach_on(values, first, entries):
    header = image(VOILUTSequence=[table(first, 12, entries)])
    voi = voi_of(header, ct_case().volume)
    shown = voi.grey(np.array(values, np.int16))
    wanted = [entries[min(max(value - first, 0), len(entries) - 1)] for value in values]
    assert np.abs(shown - np.array(wanted) * (255 / 4095)).max() <= 0.51


def test_the_table_of_the_source_counts_before_its_window_and_that_before_ours():
    volume = ct_case().volume
    both = image(WindowCenter="40", WindowWidth="80", VOILUTSequence=[table(0, 8, [0, 255])])
    assert isinstance(voi_of(both, volume), Table)
    assert voi_of(image(WindowCenter=["40", "600"], WindowWidth=["80", "2000"]), volume) == (
        Window(40.0, 80.0)
    )
    assert voi_of(image(), volume) == Window(40.0, 400.0)
    spanning = voi_of(image(), replace(volume, units="1"))
    assert isinstance(spanning, Window)
    assert spanning.function == "LINEAR_EXACT"


def test_what_was_in_colour_is_shown_over_its_whole_range():
    volume = replace(ct_case().volume, colour=True, value_range=(0.0, 255.0))
    voi = voi_of(image(WindowCenter="40", WindowWidth="80"), volume)
    np.testing.assert_array_equal(voi.grey(np.arange(256)), np.arange(256))


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": "40", "WindowWidth": "0"},
        {"WindowCenter": "40"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": "40", "WindowWidth": "80", "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [table(0, 3, [1, 2])]},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_a_broken_wish_counts_as_none(attributes):
    assert voi_of(image(**attributes), ct_case().volume) == Window(40.0, 400.0)


def test_a_window_of_one_is_a_threshold():
    np.testing.assert_array_equal(Window(10.0, 1.0).grey(np.array([9, 10, 11])), [0, 255, 255])


def test_what_no_number_is_becomes_black():
    np.testing.assert_array_equal(Window(10.0, 10.0).grey(np.array([np.nan, np.inf])), [0, 255])


def test_slices_have_windows_of_their_own_and_monochrome1_is_turned_over():
    case = ct_case()
    for number, source in enumerate(case.sources):
        source.WindowCenter, source.WindowWidth = str(10 * number), "50"
    shown = [slice_grey(case.volume, case.sources, index) for index in range(4)]
    assert shown[0].mean() > shown[3].mean()
    film = cr_case()
    voi = voi_of(film.sources[0], film.volume)
    grey = voi.grey(film.volume.voxels[0])
    np.testing.assert_array_equal(as_shown(film.volume, voi, film.volume.voxels[0]), 255 - grey)

"""Pixels of every format: floating point, 32 and 8 bits, colour of every kind, palettes."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import HTJ2KLossless

from config.errors import SeriesError
from dicomnode.sample import set_pixels
from dicomnode.series.quality import assess
from dicomnode.series.volume import LoadedSeries, load_series
from tests import factories


def load(image: Dataset, folder: Path) -> LoadedSeries:
    return load_series(factories.write(image, folder))


def luminance(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114]))


def in_colour(image: Dataset, folder: Path) -> np.ndarray:
    """Red, green and blue of an image."""
    rgb = load_series(factories.write([image], folder / "colour"), colour=True).volume.rgb
    assert rgb is not None
    return rgb


def colours() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, 8, 10, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("keyword", "bits"), [("FloatPixelData", 32), ("DoubleFloatPixelData", 64)]
)
def test_floating_point_pixels_are_taken_with_their_own_range(
    tmp_path: Path, keyword: str, bits: int
) -> None:
    image = factories.cr_image()
    values = np.linspace(-2.5, 1e6, 32 * 24).reshape(32, 24).astype(f"<f{bits // 8}")
    for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(image, gone)
    image.BitsAllocated = bits
    setattr(image, keyword, values.tobytes())
    volume = load(image, tmp_path).volume
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels[0], values.astype(np.float32))
    assert volume.value_range == pytest.approx((-2.5, 1e6))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_whole_numbers_of_every_size_keep_their_values(tmp_path: Path, dtype: type) -> None:
    image = factories.cr_image()
    info = np.iinfo(dtype)
    values = np.linspace(info.min, info.max, 32 * 24).reshape(32, 24).astype(dtype)
    set_pixels(image, values, bits_stored=info.bits)
    volume = load(image, tmp_path).volume
    np.testing.assert_array_equal(volume.voxels[0], values.astype(volume.voxels.dtype))
    fits = info.min >= -(1 << 15) and info.max < 1 << 15
    assert (volume.voxels.dtype == np.int16) == fits
    assert volume.value_range == (info.min, info.max)


@pytest.mark.parametrize(("bits", "high"), [(10, 0xFC00), (12, 0xF000), (16, 0)])
def test_signed_values_of_few_bits_are_extended(tmp_path: Path, bits: int, high: int) -> None:
    image = factories.cr_image()
    values = np.linspace(-(1 << bits - 1), (1 << bits - 1) - 1, 32 * 24).astype(np.int16)
    stored = values.view(np.uint16) & np.uint16(~high & 0xFFFF)
    set_pixels(image, stored.reshape(32, 24).view(np.int16), bits_stored=bits)
    volume = load(image, tmp_path).volume
    np.testing.assert_array_equal(volume.voxels.reshape(-1), values)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
def test_colour_becomes_luminance_and_says_so(
    tmp_path: Path, photometric: str, planar: int
) -> None:
    image = factories.us_image(colour=True)
    (rgb,) = colours()
    stored = rgb if photometric == "RGB" else convert_color_space(rgb, "RGB", "YBR_FULL")
    set_pixels(image, stored, bits_stored=8, photometric=photometric)
    if planar:
        image.PlanarConfiguration = 1
        image.PixelData = np.moveaxis(stored, -1, 0).tobytes()
    volume = load(image, tmp_path).volume
    assert np.abs(volume.voxels[0] - luminance(rgb)).max() <= 1  # YBR_FULL rounds
    assert volume.colour
    assert volume.value_range == (0.0, 255.0)
    verdict = assess([image])
    assert [note.code for note in verdict.notes] == ["luminance"]
    assert volume.rgb is None
    seen = in_colour(image, tmp_path)
    assert seen.shape == (1, 8, 10, 3)
    assert np.abs(seen[0].astype(int) - rgb).max() <= (0 if photometric == "RGB" else 2)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = factories.us_image()
    (rgb,) = colours()
    index = np.arange(80, dtype=np.uint8).reshape(8, 10)
    set_pixels(image, index, bits_stored=8)
    image.PhotometricInterpretation = "PALETTE COLOR"
    for at, colour in enumerate(("Red", "Green", "Blue")):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [80, 0, 8])
        entries = rgb[..., at].astype(np.uint8).tobytes()
        setattr(image, f"{colour}PaletteColorLookupTableData", entries)
    volume = load(image, tmp_path).volume
    np.testing.assert_array_equal(volume.voxels[0], luminance(rgb))
    assert volume.value_range == (0.0, 255.0)
    np.testing.assert_array_equal(in_colour(image, tmp_path)[0], rgb)


def test_a_grey_image_has_no_colours(tmp_path: Path) -> None:
    paths = factories.write([factories.us_image()], tmp_path)
    assert load_series(paths, colour=True).volume.rgb is None


def test_slices_in_colour_are_no_measured_values(tmp_path: Path) -> None:
    (image,) = factories.ct_series(1)
    set_pixels(image, colours()[0], bits_stored=8, photometric="RGB")
    with pytest.raises(SeriesError) as caught:
        load(image, tmp_path)
    assert caught.value.reason == "colour"


# The image of the test below as OpenJPH 0.26 encodes it, losslessly; no decoder here encodes it.
HTJ2K = (
    "/0//UQApQAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUE"
    "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAy4AAf+TwAAm"
    "+fgFB3QAwAASwAATQAASgDgCB3QAmPgDB3QA/gCHdADAABUQAAVEAAFQMHr23ADCtABYBECMAUS0AJ4lxusAhrQA"
    "wAAWvAABa8AAFqjjAoIKQLg9LkniYoCNQuIAqScAAFqYADJyySY+m8GIFis5JLAw8gAAAGOyAzgAs0ulHek0s7VT"
    "bgUIzFIPmIAAIrcAwAAXqkAAF6JAABehgB49pMGnP5oOgIDc4bpXYi/4hSa2df1IIFLn+FhXFPFC+Ow7J8mHxfvt"
    "eyiBgBBS8SGEAcELA+K64UfCwswAMuMA1aOrD5x2LJ3od5OEIGKCEDGUAYqBC3HtKAChGvvGh48z3rI2apYYbIAC"
    "Ir5yXRSQQ6VkZqAAlgKeAVcLEguaAh8C1geOFSBJJR6qVK1SHXhrJGAQRLIBgcZmiNM+AIhm34PXDgMSrBVrwIAv"
    "iKhNwg4RBqWFGiPYiCJqBeMyGD5iR7QhBL7E7/QAV+rgqMga16oVwIIQCBORAcAAL7EgABfQEAAL1QAAAf7/AQAD"
    "BPj/F/gbI0CgHz98gPv5Bwj0mwcPkP9/WOz3HwDg/zf/fQ8A8OOHDzgW+/fxA9CvgwD89/ED8A8AQEzMBzjA/z+A"
    "wD7AAf7/Af3GxAAAffzwAf98BwD07eEB8v9HxX7/AQT4/23j9x8gwI8PcRz/f0B/eYAA/P8H7Kez8wByl0ZvJdE9"
    "LlprKy0Lg+/ynr/fsp9KeR8tNkfB02dXo/v5Or1M5W8/2aVvyXsZciexlgwBxQBA9vjAFAED23EE/3se4PsAft97"
    "/Lr/PB744wf4+f4D+Pv/f/d973/Aj/e9Xw+Pn3+AEhIIBB/BRyAkJBASCD/Cj5BA+MhHFAIQHumIfcvKeYhAeyxC"
    "vHogWCDeAAE8uiLwAAnlAKyRcAH8ESfnAAMAgJ5Yom8cjISUZ/EADeXgMQgN78kbTCRv1gR/AID/H4Df7/v/f/8D"
    "+P9/fwCA/wfg+37/T4AA2Bo4a2IThg/jFYBBYEfwjAvlCAYRgXyjE4EH4CCBfLAYQL5YQgfxwQgelAjArXAIwK1x"
    "gTED2AP/2Q=="
)


@pytest.mark.feature("F19")
def test_high_throughput_jpeg_2000_is_decoded(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(32) * 61, np.arange(32) * 23)
    wanted = ramp + np.arange(1024).reshape(32, 32) * 7919 % 257
    image = factories.cr_image()
    set_pixels(image, wanted.astype(np.uint16), bits_stored=12)
    image.PixelData = encapsulate([base64.b64decode(HTJ2K)])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = HTJ2KLossless
    np.testing.assert_array_equal(load(image, tmp_path).volume.voxels[0], wanted)


@pytest.mark.feature("F19")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb.dcm", 1.0),  # JPEG baseline, YBR_FULL
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb.dcm", 1.0),  # YBR_FULL_422 of a 4:1:1 stream
        ("SC_rgb_rle.dcm", "SC_rgb.dcm", 0),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb.dcm", 0.1),  # JPEG 2000, YBR_RCT
        ("US1_J2KI.dcm", "US1_UNCR.dcm", 3.0),  # JPEG 2000, YBR_ICT, lossy
        ("JPGExtended.dcm", "JPEG-lossy.dcm", 0),  # both JPEG extended, 12 bits
        ("MR_small_jp2klossless.dcm", "MR_small.dcm", 0),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", 0),
        ("MR_small_RLE.dcm", "MR_small.dcm", 0),
        ("MR_small_bigendian.dcm", "MR_small.dcm", 0),
        ("JPEG-LL.dcm", "JPEG-LL.dcm", 0),  # JPEG lossless
        ("image_dfl.dcm", "image_dfl.dcm", 0),  # deflated
    ],
)
def test_real_files_of_every_syntax_are_decoded(
    name: str, reference: str, tolerance: float
) -> None:
    found, wanted = (_real(each).volume.voxels.astype(float) for each in (name, reference))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() <= tolerance


def _real(name: str) -> LoadedSeries:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return load_series([Path(path)])

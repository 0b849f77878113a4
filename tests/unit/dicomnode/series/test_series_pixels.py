"""Pixels of every format: floating point, 32 and 8 bits, colour of every kind, palettes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels.processing import convert_color_space

from config.errors import SeriesError
from dicomnode.sample import set_pixels
from dicomnode.series.quality import assess
from dicomnode.series.volume import LoadedSeries, load_series
from tests import factories


def load(image: Dataset, folder: Path) -> LoadedSeries:
    return load_series(factories.write(image, folder))


def luminance(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114]))


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


def test_slices_in_colour_are_no_measured_values(tmp_path: Path) -> None:
    (image,) = factories.ct_series(1)
    set_pixels(image, colours()[0], bits_stored=8, photometric="RGB")
    with pytest.raises(SeriesError) as caught:
        load(image, tmp_path)
    assert caught.value.reason == "colour"


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

"""A sound series becomes real-world values in slice order, and nothing else becomes anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from config.errors import NotDicomError, SeriesError
from dicomnode.series.quality import assess
from dicomnode.series.volume import LoadedSeries, load_series, outline
from tests import factories


def load(images: list[Dataset], folder: Path) -> LoadedSeries:
    return load_series(factories.write(images, folder))


def test_ct_values_are_hounsfield_units_in_16_bits(tmp_path: Path) -> None:
    images = factories.ct_series(5, slope=2, intercept=-1000)
    series = load(factories.shuffled(images, 3), tmp_path)
    stored = np.stack([image.pixel_array for image in images])
    assert series.volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(series.volume.voxels, stored.astype(int) * 2 - 1000)
    assert series.volume.units == "[hnsf'U]"
    assert series.volume.value_range == (-1000.0, 4095 * 2 - 1000.0)
    assert series.volume.spacing == pytest.approx((5.0, 1.5, 1.25))
    assert series.modality == "CT"
    wanted = [image.SOPInstanceUID for image in images]
    assert [header.SOPInstanceUID for header in series.headers] == wanted


def test_paths_follow_the_slices(tmp_path: Path) -> None:
    images = factories.ct_series(4)
    paths = factories.write(images, tmp_path)
    series = load_series([paths[2], paths[0], paths[3], paths[1]])
    assert list(series.paths) == paths


def test_a_rescale_of_its_own_for_each_slice_is_applied(tmp_path: Path) -> None:
    images = factories.ct_series(3)
    for index, image in enumerate(images):
        image.RescaleSlope = str(index + 1)
        image.RescaleIntercept = str(-100 * index)
    volume = load(images, tmp_path).volume
    for index, image in enumerate(images):
        expected = image.pixel_array.astype(int) * (index + 1) - 100 * index
        np.testing.assert_array_equal(volume.voxels[index], expected)
    assert volume.value_range == (-200.0, 4095 * 3 - 200.0)


def test_values_that_are_not_whole_are_float32(tmp_path: Path) -> None:
    images = factories.ct_series(2, slope=0.5, intercept=-1000.25)
    volume = load(images, tmp_path).volume
    assert volume.voxels.dtype == np.float32
    stored = np.stack([image.pixel_array for image in images]).astype(float)
    np.testing.assert_array_equal(volume.voxels, (stored * 0.5 - 1000.25).astype(np.float32))


def test_whole_values_past_16_bits_are_float32_and_exact(tmp_path: Path) -> None:
    images = factories.ct_series(3, slope=100, intercept=0)
    volume = load(images, tmp_path).volume
    assert volume.voxels.dtype == np.float32
    stored = np.stack([image.pixel_array for image in images]).astype(int)
    np.testing.assert_array_equal(volume.voxels, stored * 100)


def test_a_negative_slope_turns_the_range(tmp_path: Path) -> None:
    volume = load(factories.ct_series(2, slope=-1, intercept=100), tmp_path).volume
    assert volume.value_range == (100.0 - 4095, 100.0)


def test_signed_values_and_mr_without_rescale(tmp_path: Path) -> None:
    images = factories.ct_series(3, signed=True, intercept=0)
    volume = load(images, tmp_path / "ct").volume
    np.testing.assert_array_equal(volume.voxels, [image.pixel_array for image in images])
    assert volume.value_range == (-32768.0, 32767.0)
    images = factories.mr_series(3)
    volume = load(images, tmp_path / "mr").volume
    np.testing.assert_array_equal(volume.voxels, [image.pixel_array for image in images])
    assert volume.units == "1"


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    images = factories.ct_series(2, intercept=0)
    wanted = [image.pixel_array.copy() for image in images]
    for image in images:
        image.PixelData = (image.pixel_array | 0xA000).astype("<u2").tobytes()
    np.testing.assert_array_equal(load(images, tmp_path).volume.voxels, wanted)


@pytest.mark.parametrize(
    ("image", "spacing", "white"),
    [
        (factories.cr_image(), (None, 0.2, 0.15), False),
        (factories.cr_image(photometric="MONOCHROME1"), (None, 0.2, 0.15), True),
        (factories.dx_image(), (None, 0.1, 0.1), False),
        (factories.mg_image(), (None, 0.1, 0.1), False),
        (factories.us_image(), (None, None, None), False),
    ],
)
def test_a_single_image_is_a_volume_of_one_slice(
    tmp_path: Path, image: Dataset, spacing: tuple[float | None, ...], white: bool
) -> None:
    volume = load([image], tmp_path).volume
    assert volume.voxels.shape == (1, image.Rows, image.Columns)
    np.testing.assert_array_equal(volume.voxels[0], image.pixel_array)
    assert volume.affine is None
    assert volume.spacing == spacing
    assert volume.lowest_is_white == white
    assert volume.units == "1"
    assert volume.value_range == (0.0, 2.0**image.BitsStored - 1)


def test_calibrated_spacing_goes_before_that_of_the_detector(tmp_path: Path) -> None:
    image = factories.cr_image()
    image.PixelSpacing = [0.18, 0.14]
    assert load([image], tmp_path).volume.spacing == (None, 0.18, 0.14)


def test_a_modality_lut_is_applied(tmp_path: Path) -> None:
    image = factories.cr_image(bits_stored=12)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.ModalityLUTType = "US"
    values = (np.arange(4096) * 3 + 5).astype(np.uint16)
    table.add_new("LUTData", "OW", values.tobytes())
    image.ModalityLUTSequence = [table]
    volume = load([image], tmp_path).volume
    np.testing.assert_array_equal(volume.voxels[0], image.pixel_array.astype(int) * 3 + 5)
    assert volume.value_range == (5.0, 4095 * 3 + 5.0)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_syntaxes_give_the_same_volume(tmp_path: Path, syntax: UID, signed: bool) -> None:
    images = factories.ct_series(2, signed=signed, rows=32, columns=32)
    plain = load(images, tmp_path / "plain").volume
    for image in images:
        image.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(load(images, tmp_path / "small").volume.voxels, plain.voxels)


def test_big_endian_gives_the_same_volume(tmp_path: Path) -> None:
    images = factories.ct_series(2)
    plain = load(images, tmp_path / "plain").volume
    for image in images:
        image.PixelData = image.pixel_array.astype(">u2").tobytes()
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert np.array_equal(load(images, tmp_path / "big").volume.voxels, plain.voxels)


def _cut(image: Dataset) -> None:
    image.PixelData = image.PixelData[:100]


def _garble(image: Dataset) -> None:
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    image.PixelData = image.PixelData[:20] + b"\x55" * (len(image.PixelData) - 20)


def _unknown_syntax(image: Dataset) -> None:
    image.compress(RLELossless, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")


def _without_pixels(image: Dataset) -> None:
    del image.PixelData


@pytest.mark.parametrize("spoil", [_cut, _garble, _unknown_syntax, _without_pixels])
def test_pixels_that_cannot_be_decoded_are_a_plain_reason(
    tmp_path: Path, spoil: Callable[[Dataset], None]
) -> None:
    images = factories.ct_series(3, rows=64, columns=64)
    spoil(images[1])
    with pytest.raises(SeriesError, match="image 2 of 3") as caught:
        load(images, tmp_path)
    assert caught.value.reason == "pixel-data"


@pytest.mark.parametrize(
    ("reason", "images"),
    [
        ("gap", factories.ct_series(8, drop=[4])),
        ("duplicate", factories.ct_series(4, duplicate=[1])),
        ("no-rescale", [factories.enhanced_ct()]),
        ("not-taken", [factories.segmentation()]),
    ],
)
def test_what_is_not_sound_is_refused(tmp_path: Path, reason: str, images: list[Dataset]) -> None:
    with pytest.raises(SeriesError) as caught:
        load(images, tmp_path)
    assert caught.value.reason == reason


def test_nothing_and_no_dicom_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeriesError):
        load_series([])
    path = tmp_path / "a.dcm"
    path.write_bytes(b"")
    with pytest.raises(NotDicomError):
        load_series([path])


def test_the_outline_is_the_volume_but_for_its_pixels(tmp_path: Path) -> None:
    for images in (factories.ct_series(4), [factories.cr_image(photometric="MONOCHROME1")]):
        volume = load(images, tmp_path / images[0].Modality).volume
        sketch = outline(images, assess(images))
        assert sketch.voxels.shape == volume.voxels.shape
        assert sketch.spacing == volume.spacing
        assert sketch.value_range == volume.value_range
        assert sketch.units == volume.units
        assert sketch.lowest_is_white == volume.lowest_is_white
        assert (sketch.affine is None) == (volume.affine is None)

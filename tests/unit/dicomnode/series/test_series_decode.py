"""Compressed frames come from helper processes as they come from this one, crashes or not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from config.errors import SeriesError
from dicomnode.series.decode import FrameRequest, PixelError, decode_here
from dicomnode.series.decode_pool import DecodePool
from dicomnode.series.volume import load_series
from tests import factories
from tests.volumes import Grid, images_of

GRID = Grid((5, 32, 36))
SYNTAXES = [RLELossless, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian]


def voxels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, GRID.shape).astype(np.uint16)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2)
    yield pool
    pool.close()


@pytest.mark.feature("F19")
@pytest.mark.parametrize("form", ["single-frame", "enhanced"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_volume_from_helpers_is_the_one_decoded_here(
    tmp_path: Path, pool: DecodePool, form: str, syntax: str
) -> None:
    images = images_of(voxels(), GRID, form=form, order="shuffled", syntax=syntax, bits_stored=12)
    paths = factories.write(images, tmp_path)
    for decoder in (decode_here, pool):
        volume = load_series(paths, decoder).volume
        np.testing.assert_array_equal(volume.voxels, voxels().astype(int) - 1024)


def test_native_pixels_start_no_helper(tmp_path: Path) -> None:
    others = helpers()
    pool = DecodePool(1)
    try:
        load_series(factories.write(images_of(voxels(), GRID), tmp_path), pool)
        assert helpers() == others
    finally:
        pool.close()


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path, pool: DecodePool) -> None:
    images = images_of(voxels(), GRID, order="along", syntax=RLELossless)
    images[2].PixelData = images[2].PixelData[:400]
    with pytest.raises(SeriesError, match="image 3 of 5 cannot be decoded"):
        load_series(factories.write(images, tmp_path), pool)


@pytest.mark.parametrize("helpers", [True, False])
def test_a_decoder_that_panics_refuses_the_frame(
    tmp_path: Path, pool: DecodePool, helpers: bool
) -> None:
    grid = Grid((1, 32, 36))
    ramp = np.arange(32 * 36, dtype=np.uint16).reshape(grid.shape)
    (image,) = images_of(ramp, grid, syntax=RLELossless)
    content = bytearray(image.PixelData)
    content[156] = 255  # a run of it ends behind its segment: the decoder in Rust panics
    image.PixelData = bytes(content)
    with pytest.raises(SeriesError, match="image 1 of 1 cannot be decoded"):
        load_series(factories.write(image, tmp_path), pool if helpers else decode_here)


def test_bytes_that_crash_a_codec_are_refused_and_the_others_decoded(
    tmp_path: Path, pool: DecodePool
) -> None:
    images = images_of(voxels(), GRID, order="along", syntax=JPEG2000Lossless)
    good = factories.write(images, tmp_path / "good")
    # These bytes make a decoder of JPEG 2000 end its process by std::terminate.
    images[2].PixelData = images[2].PixelData[:30] + b"\x55" * (len(images[2].PixelData) - 30)
    with pytest.raises(SeriesError, match="the pixels of image 3 of 5") as caught:
        load_series(factories.write(images, tmp_path / "bad"), pool)
    assert caught.value.reason == "pixel-data"
    volume = load_series(good, pool).volume
    np.testing.assert_array_equal(volume.voxels, voxels().astype(int) - 1024)


def test_a_helper_that_hangs_or_dies_ends_alone_and_the_next_frame_is_decoded(
    tmp_path: Path,
) -> None:
    (good,) = factories.write(images_of(voxels()[:1], GRID, syntax=RLELossless), tmp_path)
    endless = tmp_path / "endless"
    os.mkfifo(endless)  # opening it waits for ever, as a codec may
    others = helpers()
    pool = DecodePool(1, frame_seconds=1)
    try:
        (before,) = pool([FrameRequest(good, 0)])
        with pytest.raises(PixelError, match="took too long"):
            list(pool([FrameRequest(endless, 0)]))
        (after,) = pool([FrameRequest(good, 0)])
        killer = threading.Thread(target=kill_when_busy, args=(others,))
        killer.start()
        with pytest.raises(PixelError, match="crashed"):
            list(pool([FrameRequest(endless, 0)]))
        killer.join()
        (last,) = pool([FrameRequest(good, 0)])
    finally:
        pool.close()
    for plane in (before, after, last):
        np.testing.assert_array_equal(plane, voxels()[0])
    assert helpers() == others


def test_a_helper_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    grid = Grid((1, 4000, 4000))
    images = images_of(np.zeros(grid.shape, np.uint16), grid, syntax=RLELossless)
    (path,) = factories.write(images, tmp_path)
    pool = DecodePool(1, memory_bytes=1 << 27)
    try:
        with pytest.raises(PixelError):
            list(pool([FrameRequest(path, 0)]))
    finally:
        pool.close()


def helpers() -> set[int]:
    """Process ids of the helpers that this process has."""
    children = psutil.Process().children()
    return {child.pid for child in children if "spawn_main" in " ".join(child.cmdline())}


def kill_when_busy(others: set[int]) -> None:
    time.sleep(0.2)
    for pid in helpers() - others:
        os.kill(pid, signal.SIGKILL)

"""Pixels of a sound series as one volume of real-world values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from ai.types import Volume
from config.errors import MalformedError, SeriesError
from dicomnode.series.headers import count, number, numbers, read_header, text, value
from dicomnode.series.quality import Quality, assess

HOUNSFIELD = "[hnsf'U]"
NO_UNITS = "1"
_INT16 = np.iinfo(np.int16)

# Distance of pixel centres on the patient where it is calibrated, else on the detector, where
# everything is magnified (PS3.3 10.7.1.3, C.8.11.4), else on the scanned film.
_IMAGE_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class LoadedSeries:
    """A series as arrays and headers, all in slice order.

    Attributes:
        volume: ``(slices, rows, columns)``; see `ai.types.Volume`.
        headers: One a slice, without pixel data.
        paths: One a slice.
        modality: ``CT``, ``MR``, ``CR``, ``DX``, ``MG`` or ``US``.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    paths: tuple[Path, ...]
    modality: str


def outline(headers: Sequence[Dataset], quality: Quality) -> Volume:
    """What a sound series is as a volume, all but its pixels.

    Args:
        headers: As `assess` judged them, in any order.
        quality: Its verdict, without reasons.

    Returns:
        The volume `load_series` will give; its voxels are a zero that takes no memory.

    Raises:
        SeriesError: An attribute is broken.
    """
    geometry = quality.geometry
    try:
        rows, columns = count(headers[0], "Rows") or 0, count(headers[0], "Columns") or 0
        return Volume(
            voxels=np.broadcast_to(np.zeros((), np.int16), (len(headers), rows, columns)),
            units=HOUNSFIELD if quality.modality == "CT" else NO_UNITS,
            affine=geometry.affine if geometry else None,
            spacing=geometry.spacing if geometry else _image_spacing(headers[0]),
            value_range=_value_range(headers),
            lowest_is_white=text(headers[0], "PhotometricInterpretation") == "MONOCHROME1",
        )
    except MalformedError as error:
        raise SeriesError("malformed", f"an attribute is broken: {error}") from error


def load_series(paths: Sequence[Path]) -> LoadedSeries:
    """Read what one model run looks at: a CT or MR series, or one image of another modality.

    Values are int16 where every one of them is a whole number that fits, else float32.

    Args:
        paths: The files, one or more, in any order.

    Raises:
        InputError: A file is no DICOM, is malformed or cannot be read.
        SeriesError: The series is not sound (the first reason of `assess`), or its pixels cannot
            be decoded (``pixel-data``).
    """
    if not paths:
        raise SeriesError("empty", "the series has no images")
    headers = [read_header(path) for path in paths]
    quality = assess(headers)
    if quality.reasons:
        raise SeriesError(quality.reasons[0].code, quality.reasons[0].text)
    empty = outline(headers, quality)
    order = quality.geometry.order if quality.geometry else range(len(headers))
    sorted_headers = tuple(headers[index] for index in order)
    sorted_paths = tuple(paths[index] for index in order)
    try:
        volume = replace(empty, voxels=_voxels(sorted_headers, sorted_paths))
    except MalformedError as error:
        raise SeriesError("malformed", f"an attribute is broken: {error}") from error
    return LoadedSeries(volume, sorted_headers, sorted_paths, quality.modality)


def _voxels(headers: Sequence[Dataset], paths: Sequence[Path]) -> NDArray[Any]:
    shape = (len(headers), count(headers[0], "Rows") or 0, count(headers[0], "Columns") or 0)
    whole = all(map(_stays_whole, headers))
    voxels: NDArray[Any] = np.empty(shape, np.int16 if whole else np.float32)
    for index, (header, path) in enumerate(zip(headers, paths, strict=True)):
        values = _real_world(_stored(path, shape[1:], f"image {index + 1} of {shape[0]}"), header)
        fits = values.min() >= _INT16.min and values.max() <= _INT16.max
        if voxels.dtype == np.int16 and not fits:
            voxels = voxels.astype(np.float32)
        voxels[index] = values
    return voxels


def _stored(path: Path, shape: tuple[int, ...], which: str) -> NDArray[Any]:
    """The stored values of one file, ``(rows, columns)``."""
    try:
        # Given a path, pydicom's `pixel_array` cannot find the pixels of a deflated data set.
        stored: NDArray[Any] = pixel_array(dcmread(path))
    except Exception as error:  # decoders of hostile bytes raise what they like
        raise SeriesError("pixel-data", f"the pixels of {which} cannot be decoded") from error
    if stored.shape != shape:
        raise SeriesError("pixel-data", f"the pixels of {which} have another size than it says")
    return stored


def _stays_whole(header: Dataset) -> bool:
    """Whether the modality LUT gives whole numbers, small enough to compute in 32 bits."""
    if value(header, "ModalityLUTSequence") is not None:
        return True
    slope, intercept = _rescale(header)
    stored = count(header, "BitsStored") or 0
    largest = abs(slope) * 2.0**stored + abs(intercept)
    return slope.is_integer() and intercept.is_integer() and largest < 2**31


def _real_world(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Apply the modality LUT (PS3.3 C.11.1)."""
    if value(header, "ModalityLUTSequence") is not None:
        return _lut(stored, header)
    slope, intercept = _rescale(header)
    if _stays_whole(header):
        whole: NDArray[np.int32] = stored.astype(np.int32)
        return whole * np.int32(slope) + np.int32(intercept)
    # In double precision, so that the one rounding to float32 is the last step.
    return stored.astype(np.float64) * slope + intercept


def _lut(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    try:
        return np.asarray(apply_modality_lut(stored, header)).astype(np.float64)
    except Exception as error:  # the table is a peer's, and pydicom takes it as it comes
        raise SeriesError("modality-lut", "the modality LUT cannot be applied") from error


def _rescale(header: Dataset) -> tuple[float, float]:
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _value_range(headers: Sequence[Dataset]) -> tuple[float, float]:
    """Lowest and highest value that the stored bits can hold, after the modality LUT."""
    ends: list[float] = []
    for header in headers:
        bits = count(header, "BitsStored") or 0
        signed = count(header, "PixelRepresentation") == 1
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if value(header, "ModalityLUTSequence") is not None:
            dtype = np.int64 if bits > 16 else np.int32
            table = _lut(np.linspace(low, high, min(high - low + 1, 65536)).astype(dtype), header)
            ends += [float(np.min(table)), float(np.max(table))]
        else:
            slope, intercept = _rescale(header)
            ends += [low * slope + intercept, high * slope + intercept]
    return min(ends), max(ends)


def _image_spacing(header: Dataset) -> tuple[None, float | None, float | None]:
    for keyword in _IMAGE_SPACINGS:
        found = numbers(header, keyword, 2)
        if found and min(found) > 0:
            return None, found[0], found[1]
    return None, None, None

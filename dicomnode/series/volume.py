"""Pixels of a sound series as one volume of real-world values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from ai.types import Volume
from config.errors import MalformedError, SeriesError
from dicomnode.series.decode import Decoder, FrameRequest, PixelError, decode_here
from dicomnode.series.headers import count, numbers, read_image, slices_of, text
from dicomnode.series.pixels import Slice, slices_in, stored_planes
from dicomnode.series.quality import Quality, assess
from dicomnode.series.values import Scale, is_colour, is_float, meaning_of, value_range

_INT16 = np.iinfo(np.int16)

# Distance of pixel centres on the patient where it is calibrated, else on the detector, where
# everything is magnified (PS3.3 10.7.1.3, C.8.11.4), else on the scanned film.
_IMAGE_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class LoadedSeries:
    """A unit as arrays and headers, all in slice order.

    Attributes:
        volume: ``(slices, rows, columns)``; see `ai.types.Volume`.
        headers: One a slice, without pixel data; see `dicomnode.frames`.
        paths: One a slice; the frames of one file share theirs.
        modality: As the headers say, ``CT``.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    paths: tuple[Path, ...]
    modality: str


def outline(headers: Sequence[Dataset], quality: Quality) -> Volume:
    """What a sound unit is as a volume, all but its pixels.

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
        headers = slices_of(headers)
        first = headers[0]
        rows, columns = count(first, "Rows") or 0, count(first, "Columns") or 0
        meaning = meaning_of(headers)
        return Volume(
            voxels=np.broadcast_to(np.zeros((), np.int16), (len(headers), rows, columns)),
            units=meaning.units,
            affine=geometry.affine if geometry else None,
            spacing=geometry.spacing if geometry else _image_spacing(first),
            value_range=value_range(headers, meaning.factor),
            lowest_is_white=text(first, "PhotometricInterpretation") == "MONOCHROME1",
            colour=is_colour(first),
        )
    except MalformedError as error:
        raise SeriesError("malformed", f"an attribute is broken: {error}") from error


def load_series(
    paths: Sequence[Path], decoder: Decoder = decode_here, *, colour: bool = False
) -> LoadedSeries:
    """Read what one model run looks at; see `kinds`.

    Values are int16 where every one of them is a whole number that fits, else float32.

    Args:
        paths: The files, one or more, in any order.
        decoder: For pixels that are compressed, deflated or in colour.
        colour: Read the red, green and blue of colour images too.

    Raises:
        InputError: A file is no DICOM, is malformed or cannot be read.
        SeriesError: The series is not sound (the first reason of `assess`), or its pixels cannot
            be decoded (``pixel-data``).
    """
    if not paths:
        raise SeriesError("empty", "the series has no images")
    images = [read_image(path) for path in paths]
    try:
        slices = slices_in(images)
    except MalformedError as error:
        raise SeriesError("malformed", f"an attribute is broken: {error}") from error
    headers = [entry.header for entry in slices]
    quality = assess(headers)
    if quality.reasons:
        raise SeriesError(quality.reasons[0].code, quality.reasons[0].text)
    empty = outline(headers, quality)
    order = quality.geometry.order if quality.geometry else range(len(slices))
    slices = [slices[index] for index in order]
    try:
        voxels = _voxels(slices, meaning_of(headers).factor, decoder)
        rgb = _colours(slices, decoder) if colour and empty.colour else None
    except MalformedError as error:
        raise SeriesError("malformed", f"an attribute is broken: {error}") from error
    ends = empty.value_range
    if not np.isfinite(ends).all():
        ends = float(voxels.min()), float(voxels.max())
    return LoadedSeries(
        replace(empty, voxels=voxels, value_range=ends, rgb=rgb),
        tuple(entry.header for entry in slices),
        tuple(entry.image.path for entry in slices),
        quality.modality,
    )


def _colours(slices: Sequence[Slice], decoder: Decoder) -> NDArray[Any]:
    """Red, green and blue, ``(slices, rows, columns, 3)``."""
    requests = [FrameRequest(entry.image.path, entry.frame, colour=True) for entry in slices]
    planes = []
    try:
        for plane, entry in zip(decoder(requests), slices, strict=True):
            # Of a palette the decoder gives the indices; an alpha channel is left out.
            seen = apply_color_lut(plane, entry.header) if plane.ndim == 2 else plane
            planes.append(seen[..., :3])
    except PixelError as error:
        text = f"the pixels of image {len(planes) + 1} of {len(slices)} {error}"
        raise SeriesError("pixel-data", text) from error
    return np.stack(planes)


def _voxels(slices: Sequence[Slice], factor: float, decoder: Decoder) -> NDArray[Any]:
    first = slices[0].header
    shape = (len(slices), count(first, "Rows") or 0, count(first, "Columns") or 0)
    scales = [Scale.of(entry.header, factor) for entry in slices]
    whole = all(scale.whole for scale in scales) and not is_float(first)
    voxels: NDArray[Any] = np.empty(shape, np.int16 if whole else np.float32)
    planes = stored_planes(slices, decoder)
    for index, (stored, scale) in enumerate(zip(planes, scales, strict=True)):
        if voxels.dtype == np.int16 and _fill_whole(stored, scale, voxels[index]):
            continue
        if voxels.dtype == np.int16:
            voxels = voxels.astype(np.float32)
        voxels[index] = scale.apply(stored)
    return voxels


def _fill_whole(stored: NDArray[Any], scale: Scale, out: NDArray[np.int16]) -> bool:
    """Fill one slice in 16 bits, or say that its values do not fit."""
    if scale.table is not None:
        values = scale.apply(stored)
        if values.min() < _INT16.min or values.max() > _INT16.max:
            return False
        out[...] = values
        return True
    slope, intercept = int(scale.slope), int(scale.intercept)
    ends = (int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept)
    if min(ends) < _INT16.min or max(ends) > _INT16.max:
        return False
    # Arithmetic in 16 bits wraps around, so that what fits in the end comes out right.
    np.copyto(out, stored, casting="unsafe")
    if slope != 1:
        np.multiply(out, _wrapped(slope), out=out)
    if intercept:
        np.add(out, _wrapped(intercept), out=out)
    return True


def _wrapped(number: int) -> np.int16:
    return np.uint16(number & 0xFFFF).astype(np.int16)


def _image_spacing(header: Dataset) -> tuple[None, float | None, float | None]:
    for keyword in _IMAGE_SPACINGS:
        found = numbers(header, keyword, 2)
        if found and min(found) > 0:
            return None, found[0], found[1]
    return None, None, None

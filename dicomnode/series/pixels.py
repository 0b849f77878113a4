"""The stored values of every slice: read where they are plain numbers, else decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from config.errors import SeriesError
from dicomnode.frames import frame_headers, frame_number
from dicomnode.series.decode import Decoder, FrameRequest, PixelError
from dicomnode.series.headers import ImageFile, count, text
from dicomnode.series.values import is_float

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})

_BYTE_ORDER = {
    str(ImplicitVRLittleEndian): "<",
    str(ExplicitVRLittleEndian): "<",
    str(ExplicitVRBigEndian): ">",
}
_FLOAT_TAGS = {0x7FE00008: 32, 0x7FE00009: 64}
_CUT_OFF = "are cut off"


@dataclass(frozen=True)
class Slice:
    """One slice of a unit: its header, and the file with its pixels."""

    header: Dataset
    image: ImageFile

    @property
    def frame(self) -> int:
        """Which frame of the file, from 0."""
        return (frame_number(self.header) or 1) - 1


def slices_in(images: Sequence[ImageFile]) -> list[Slice]:
    """Every slice of some files, in the order of files and frames; errors as `frame_headers`."""
    return [Slice(header, image) for image in images for header in frame_headers(image.header)]


def stored_planes(slices: Sequence[Slice], decoder: Decoder) -> Iterator[NDArray[Any]]:
    """The stored values of each slice, ``(rows, columns)``; valid until the next is asked for.

    Args:
        slices: All of one size and pixel format.
        decoder: For what is not native, one sample a pixel.

    Raises:
        SeriesError: Pixels are missing, cut off or cannot be decoded (``pixel-data``).
        MalformedError: An attribute is broken.
    """
    total = len(slices)
    layouts = [_layout(entry) for entry in slices]
    requests = [
        FrameRequest(entry.image.path, entry.frame)
        for entry, layout in zip(slices, layouts, strict=True)
        if layout is None
    ]
    decoded = decoder(requests) if requests else iter(())
    for index, (entry, layout) in enumerate(zip(slices, layouts, strict=True)):
        try:
            plane = next(decoded) if layout is None else layout.read(entry.image)
        except PixelError as error:
            raise SeriesError(
                "pixel-data", f"the pixels of image {index + 1} of {total} {error}"
            ) from error
        shape = (count(entry.header, "Rows"), count(entry.header, "Columns"))
        if plane.shape != shape:
            raise SeriesError(
                "pixel-data",
                f"the pixels of image {index + 1} of {total} have another size than it says",
            )
        yield plane if is_float(entry.header) else significant(plane, entry.header)


def significant(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Values without what stands in bits above BitsStored, such as overlays (PS3.5 8.1.1)."""
    bits = count(header, "BitsStored") or 0
    if bits >= stored.dtype.itemsize * 8 or text(header, "PhotometricInterpretation") not in GREY:
        return stored
    if stored.dtype.kind == "u":
        return stored if stored.max() >> bits == 0 else stored & stored.dtype.type((1 << bits) - 1)
    half = 1 << (bits - 1)
    if -half <= stored.min() and stored.max() < half:
        return stored
    spare = stored.dtype.itemsize * 8 - bits
    return (stored << spare) >> spare


@dataclass(frozen=True)
class _Layout:
    """Where the plain numbers of one slice stand in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, int]
    offset: int
    end: int

    def read(self, image: ImageFile) -> NDArray[Any]:
        plane: NDArray[Any] = np.empty(self.shape, self.dtype)
        if self.offset + plane.nbytes > self.end:
            raise PixelError(_CUT_OFF)
        try:
            with image.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                got = file.readinto(plane.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise PixelError("cannot be read") from error
        if got != plane.nbytes:
            raise PixelError(_CUT_OFF)
        return plane if plane.dtype.isnative else plane.astype(plane.dtype.newbyteorder("="))


def _layout(entry: Slice) -> _Layout | None:
    """Where a slice's numbers stand, or None where they must be decoded."""
    header, pixels = entry.header, entry.image.pixels
    syntax = str(entry.image.header.file_meta.get("TransferSyntaxUID", ""))
    bits = count(header, "BitsAllocated") or 0
    if (
        pixels is None
        or pixels.length is None
        or syntax not in _BYTE_ORDER
        or (syntax == ExplicitVRBigEndian and bits == 8)  # swapped or not, by its VR
        or (count(header, "SamplesPerPixel") or 1) != 1
        or text(header, "PhotometricInterpretation") not in GREY
        or (pixels.tag in _FLOAT_TAGS) != is_float(header)
        or _FLOAT_TAGS.get(pixels.tag, bits) != bits
        or bits not in (8, 16, 32, 64)
    ):
        return None
    kind = "f" if is_float(header) else "ui"[count(header, "PixelRepresentation") or 0]
    shape = (count(header, "Rows") or 0, count(header, "Columns") or 0)
    size = shape[0] * shape[1] * bits // 8
    return _Layout(
        np.dtype(f"{_BYTE_ORDER[syntax]}{kind}{bits // 8}"),
        shape,
        pixels.offset + entry.frame * size,
        pixels.offset + pixels.length,
    )

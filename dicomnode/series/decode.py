"""Frames that are not simply numbers in a file: compressed, in colour, deflated, byte-swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGExtended12Bit

# Luma of red, green and blue, the Y of YBR_FULL (PS3.3 C.7.6.3.1.2).
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class FrameRequest:
    """One frame to decode.

    Attributes:
        path: The file.
        frame: Which frame, from 0.
        colour: Give every sample of a colour image, ``(rows, columns, samples)``, instead of its
            luminance.
    """

    path: Path
    frame: int
    colour: bool = False


class PixelError(Exception):
    """A frame cannot be had; the text ends the sentence "the pixels of image 2 of 3 …"."""


Decoder = Callable[[Sequence[FrameRequest]], Iterator[NDArray[Any]]]
"""Gives the stored values of each frame, ``(rows, columns)``, in the order asked for; of a colour
image its luminance. Raises `PixelError` for the first frame that cannot be decoded."""


class FrameReader:
    """Decodes frames in this very process; keeps the last file open for its next frame."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset = Dataset()

    def read(self, request: FrameRequest) -> NDArray[Any]:
        """The stored values of one frame, as `Decoder`."""
        try:
            if request.path != self._path:
                # Given a path, pydicom's `pixel_array` cannot find the pixels of a deflated one.
                self._path, self._dataset = None, dcmread(request.path)
                self._path = request.path
            if _is_twelve_bit_jpeg(self._dataset):
                return _by_gdcm(request, self._dataset)
            stored = pixel_array(self._dataset, index=request.frame)
            return stored if request.colour else _grey(stored, self._dataset)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # decoders raise what they like, those in Rust their panics
            raise PixelError("cannot be decoded") from error


def decode_here(requests: Sequence[FrameRequest]) -> Iterator[NDArray[Any]]:
    """The `Decoder` for a command line: one frame after another, in this process."""
    reader = FrameReader()
    for request in requests:
        yield reader.read(request)


def _is_twelve_bit_jpeg(dataset: Dataset) -> bool:
    return bool(
        dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
        and dataset.BitsStored > 8
        and dataset.SamplesPerPixel == 1
    )


def _by_gdcm(request: FrameRequest, dataset: Dataset) -> NDArray[Any]:
    """JPEG Extended of 12 bits: GDCM decodes it, but pydicom does not ask it to."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(request.path))
    if not reader.Read():
        raise PixelError("cannot be decoded")
    image = reader.GetImage()
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    columns, rows = image.GetDimensions()[:2]
    kind = "i2" if dataset.PixelRepresentation else "u2"
    frame: NDArray[Any] = np.frombuffer(buffer, kind).reshape(-1, rows, columns)[request.frame]
    return frame


def _grey(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 2:
        return stored
    luma: NDArray[Any] = np.rint(stored[..., :3] @ np.array(_LUMA)).astype(stored.dtype)
    return luma

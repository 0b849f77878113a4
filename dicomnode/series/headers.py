"""Headers of DICOM files, and their attributes as plain checked values.

A header comes from a peer, so every attribute may be missing, of the wrong kind or absurd. The
readers here give a value that can be used, None where there is none, or `MalformedError`; the text
of an error names the keyword and never quotes the value.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from config.errors import InputError, MalformedError, NotDicomError, UnreadableError
from dicomnode.frames import frame_headers

# pydicom warns about odd values by quoting them, patients' names among them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_DEFER = 1 << 20
MAX_INFLATED = 1 << 30
_META_BYTES = 1 << 12
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"  # (0002,0000), the first element (PS3.10 7.1)


# Float Pixel Data, Double Float Pixel Data, Pixel Data (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25).
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class PixelElement:
    """Where a file holds its pixels.

    Attributes:
        tag: Which of the three elements of pixels it is.
        offset: Of its value in the file (in the inflated data set where that is deflated), bytes.
        length: Of its value in bytes; None where it is encapsulated.
    """

    tag: int
    offset: int
    length: int | None


@dataclass(frozen=True)
class ImageFile:
    """A file as far as its pixels.

    Attributes:
        path: The file.
        header: Everything before the pixels, with the file meta information.
        pixels: Where they are; None where it has none.
    """

    path: Path
    header: Dataset
    pixels: PixelElement | None


def read_header(path: Path) -> Dataset:
    """Read everything but pixel data, as `read_image`."""
    return read_image(path).header


def read_image(path: Path) -> ImageFile:
    """Read everything up to the pixel data; other values over 1 MiB are read when asked for.

    Args:
        path: A DICOM file (PS3.10).

    Returns:
        The data set with its file meta information; it has a SOP class, a SOP instance, a study
        and a series UID.

    Raises:
        NotDicomError: There is no DICM prefix.
        MalformedError: The encoding is broken, or one of those UIDs is missing.
        UnreadableError: The file cannot be opened or read.
        InputError: It is not there, or a DICOMDIR.
    """
    try:
        with path.open("rb") as file:
            header, pixels = _read(file)
    except MalformedError:
        raise
    except InvalidDicomError as error:
        raise NotDicomError("it is not a DICOM file: there is no DICM prefix") from error
    except OSError as error:
        if error.errno is None:  # no refusal of the system: pydicom says so of damaged bytes
            raise MalformedError("its DICOM encoding is broken") from error
        why = error.strerror or "reading failed"
        gone = isinstance(error, FileNotFoundError)
        raise (InputError if gone else UnreadableError)(f"it cannot be opened: {why}") from error
    except Exception as error:  # a parser of hostile bytes raises what it likes
        raise MalformedError("its DICOM encoding is broken") from error
    if "DirectoryRecordSequence" in header:
        raise InputError("it is a DICOMDIR, a table of contents and not an object")
    missing = [keyword for keyword in REQUIRED if not text(header, keyword)]
    if missing:
        raise MalformedError(f"it has no {', '.join(missing)}")
    return ImageFile(path, header, pixels)


def _refuse_bombs(file: BinaryIO) -> None:
    """Inflate a deflated data set (PS3.5 A.5) in steps, since pydicom does at one stroke.

    What a peer sends has file meta information that the node wrote, which is short.

    Raises:
        MalformedError: It is longer than `MAX_INFLATED`, or where it begins is not said.
    """
    head = file.read(_META_BYTES)
    if DeflatedExplicitVRLittleEndian.encode() in head:
        if head[132:140] != _GROUP_LENGTH:
            raise MalformedError("its file meta information does not begin with its length")
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while deflated := inflater.unconsumed_tail or file.read(_META_BYTES):
            inflated += len(inflater.decompress(deflated, _DEFER))
            if inflated > MAX_INFLATED:
                raise MalformedError(f"it is deflated from more than {MAX_INFLATED >> 20} MiB")
    file.seek(0)


def _read(file: BinaryIO) -> tuple[Dataset, PixelElement | None]:
    found: list[PixelElement] = []
    _refuse_bombs(file)

    def at_pixels(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag not in _PIXEL_TAGS:
            return False
        # Where reading stands: behind tag, value representation and length.
        found.append(PixelElement(int(tag), file.tell(), None if length == _UNDEFINED else length))
        return True

    header = read_partial(file, stop_when=at_pixels, defer_size=_DEFER)
    return header, found[0] if found else None


def slices_of(headers: Iterable[Dataset]) -> tuple[Dataset, ...]:
    """One header a slice: that of each single-frame object and of each frame of the others.

    Raises:
        MalformedError: An object contradicts itself about its frames.
    """
    return tuple(view for header in headers for view in frame_headers(header))


def value(header: Dataset, keyword: str) -> object:
    """The value as pydicom gives it, or None where it is absent or empty.

    Raises:
        MalformedError: Its bytes do not fit its value representation.
    """
    try:
        tag = _tag(keyword)
        found: object = header[tag].value if tag in header else None
        empty = found is None or (isinstance(found, Sized) and len(found) == 0)
    except Exception as error:  # see read_header; values are parsed when first asked for
        raise MalformedError(f"{keyword} cannot be read") from error
    return None if empty else found


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def values(header: Dataset, keyword: str) -> tuple[object, ...]:
    """All values of an attribute, empty where it is absent or empty; errors as `value`."""
    found = value(header, keyword)
    if found is None:
        return ()
    return tuple(found) if isinstance(found, MultiValue | list) else (found,)


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """All values as text without padding; errors as `value`."""
    return tuple(str(found).strip() for found in values(header, keyword))


def text(header: Dataset, keyword: str) -> str:
    """The first value as text without padding, "" where there is none; errors as `value`."""
    return next(iter(texts(header, keyword)), "")


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None where the attribute is absent or empty.

    Raises:
        MalformedError: There are more or fewer, or one is no finite number.
    """
    found = values(header, keyword)
    if not found:
        return None
    try:
        result = tuple(float(entry) for entry in found)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedError(f"{keyword} is not a number") from error
    if len(result) != count or not all(map(math.isfinite, result)):
        raise MalformedError(f"{keyword} does not hold {count} finite numbers")
    return result


def number(header: Dataset, keyword: str) -> float | None:
    """One finite number, or None; errors as `numbers`."""
    found = numbers(header, keyword, 1)
    return found[0] if found else None


def count(header: Dataset, keyword: str) -> int | None:
    """One whole number of 0 or more, or None where the attribute is absent or empty.

    Raises:
        MalformedError: It is no such number.
    """
    found = number(header, keyword)
    if found is None:
        return None
    if found < 0 or found != int(found):
        raise MalformedError(f"{keyword} is not a whole number of 0 or more")
    return int(found)


def distinct(found: Iterable[object]) -> int:
    """How many different values there are."""
    return len(set(found))

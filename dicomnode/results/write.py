"""Part 10 bytes of a result, the same for the same data set; kept deflated, sent as accepted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from io import BytesIO
from typing import Final

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config.errors import MalformedError
from dicomnode.results.characters import recode
from storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# Best first: what a result may be sent in. The first two hold the same data set byte for byte.
SENDABLE: Final = (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

_PREAMBLE: Final = b"\0" * 128
_LEVEL: Final = 6
_RAW: Final = -zlib.MAX_WBITS  # PS3.5 A.5: RFC 1951, without the header of zlib
# PS3.10 7.1: File Meta Information Group Length, and the head of Transfer Syntax UID.
_GROUP_LENGTH: Final = struct.Struct("<132x4s2sHI")
_TRANSFER_SYNTAX: Final = struct.pack("<HH2s", 0x0002, 0x0010, b"UI")


def to_bytes(dataset: Dataset) -> bytes:
    """A data set as a Part 10 file in Explicit VR Little Endian (PS3.10 7.1).

    The data set itself is left as it is; its own file meta information, if any, is not used. Where
    it states another character set than the file it was read from, its text is written in that one.

    Args:
        dataset: With SOPClassUID and SOPInstanceUID; native pixel data, if any, little endian.

    Returns:
        Preamble, file meta information and data set; equal for equal data sets.

    Raises:
        AttributeError: The data set has no SOP class or instance UID.
        ValueError: The character set that it states now is none, or does not contain its text.
    """
    if dataset.original_character_set not in ("", dataset._character_set):
        recode(dataset)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    # A shallow copy, since pydicom writes the file meta that hangs on the data set.
    written = Dataset(dict(dataset.items()))
    written.file_meta = meta
    written.preamble = _PREAMBLE
    if dataset.original_encoding == (None, None):  # made here, not read from a file
        _keep_encoded(written)
    buffer = BytesIO()
    dcmwrite(buffer, written, enforce_file_format=True, little_endian=True, implicit_vr=False)
    return buffer.getvalue()


def _keep_encoded(dataset: Dataset) -> None:
    """Have elements that are in Explicit VR Little Endian already written as they are.

    pydicom does so in a data set that was read in the transfer syntax it is written in; in any
    other it decodes all of them and encodes them again.
    """
    encoded = {
        element.tag: element
        for element in dataset.elements()
        if isinstance(element, RawDataElement)
        and element.is_little_endian
        and not element.is_implicit_VR
    }
    for tag in encoded:
        del dataset[tag]
    correct_ambiguous_vr(dataset, True)
    for tag, element in encoded.items():
        dataset[tag] = element
    dataset.set_original_encoding(False, True, dataset._character_set)  # the target's


def deflated(part10: bytes) -> bytes:
    """A file in Explicit VR Little Endian as one in Deflated Explicit VR Little Endian (PS3.5 A.5).

    Args:
        part10: As `to_bytes` made it.

    Returns:
        The same data set, deflated at a level that is always the same.

    Raises:
        MalformedError: It is no such file.
    """
    head, syntax, data = _parts(part10)
    if syntax != ExplicitVRLittleEndian:
        raise MalformedError("the file is not in Explicit VR Little Endian")
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
    return _joined(head, DeflatedExplicitVRLittleEndian, packer.compress(data) + packer.flush())


def as_accepted(part10: bytes, transfer_syntaxes: Collection[str]) -> bytes:
    """A stored result in the smallest of the transfer syntaxes that a destination accepted.

    Deflated and Explicit VR Little Endian are derived from each other without being decoded: the
    data set is the same byte for byte. Implicit VR Little Endian, which every destination must
    accept (PS3.5 10.1), is encoded anew, element by element.

    Args:
        part10: A result as it is stored, in any of `SENDABLE` but the last or in a syntax of its
            own.
        transfer_syntaxes: UIDs that were accepted for its SOP class.

    Raises:
        MalformedError: The file is cut or damaged.
        ValueError: It can be sent in none of them.
    """
    head, syntax, data = _parts(part10)
    if syntax in transfer_syntaxes and syntax != ExplicitVRLittleEndian:
        return part10
    if syntax not in SENDABLE:
        raise ValueError(f"a file in {UID(syntax).name} is sent in that transfer syntax alone")
    wanted = next((each for each in SENDABLE if each in transfer_syntaxes), None)
    if wanted is None:
        raise ValueError("the result can be sent in none of the accepted transfer syntaxes")
    if syntax == DeflatedExplicitVRLittleEndian:
        part10 = _joined(head, ExplicitVRLittleEndian, _inflated(data))
    if wanted == DeflatedExplicitVRLittleEndian:
        return deflated(part10)
    return part10 if wanted == ExplicitVRLittleEndian else _implicit(part10)


def _inflated(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(_RAW)
    try:
        plain = unpacker.decompress(data)
    except zlib.error as error:
        raise MalformedError("the deflated data set is damaged") from error
    if not unpacker.eof:
        raise MalformedError("the deflated data set is cut off")
    return plain


def _implicit(part10: bytes) -> bytes:
    dataset = dcmread(BytesIO(part10))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True, little_endian=True, implicit_vr=True)
    return buffer.getvalue()


def _parts(part10: bytes) -> tuple[bytes, str, bytes]:
    """File meta information with what stands before it, transfer syntax UID, data set."""
    if len(part10) < _GROUP_LENGTH.size or part10[128:132] != b"DICM":
        raise MalformedError("the file is not DICOM: it has no DICM prefix")
    tag, vr, _, length = _GROUP_LENGTH.unpack_from(part10)
    head, data = (
        part10[: _GROUP_LENGTH.size + length],
        part10[_GROUP_LENGTH.size + length :],
    )
    at = head.find(_TRANSFER_SYNTAX)
    if (tag, vr) != (b"\x02\x00\x00\x00", b"UL") or at < 0:
        raise MalformedError("the file has no transfer syntax where one should be")
    start, size = at + 8, int.from_bytes(head[at + 6 : at + 8], "little")
    return head, head[start : start + size].rstrip(b"\0").decode("latin-1"), data


def _joined(head: bytes, syntax: str, data: bytes) -> bytes:
    at = head.index(_TRANSFER_SYNTAX)
    size = int.from_bytes(head[at + 6 : at + 8], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = (
        head[_GROUP_LENGTH.size : at + 6]
        + len(value).to_bytes(2, "little")
        + value
        + head[at + 8 + size :]
    )
    length = len(meta).to_bytes(4, "little")
    return b"".join((head[: _GROUP_LENGTH.size - 4], length, meta, data, b"\0" * (len(data) % 2)))

"""The head of a Part 10 file: written without building a data set, and found again.

A stored object is a Part 10 file (PS3.10 7): preamble, prefix, File Meta Information and then the
data set's bytes exactly as they were received, so that any DICOM tool reads it.
"""

from __future__ import annotations

import functools
import struct

from config.errors import NotDicomError

IMPLEMENTATION_CLASS_UID = "2.25.206744913866474019153180217415853286211"
IMPLEMENTATION_VERSION_NAME = "MEDAI_NODE_0_1"

_PREAMBLE = bytes(128) + b"DICM"
_GROUP_LENGTH = struct.Struct("<4s2sHI")
_GROUP_LENGTH_HEAD = (b"\x02\x00\x00\x00", b"UL", 4)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    padding = b"\x00" if vr == b"UI" else b" "
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 0x0002, tag, vr, len(value)) + value


_TAIL = _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()) + _element(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()
)
# (0002,0001) File Meta Information Version, the one long-form element of the group.
_VERSION = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"


def file_head(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str = ""
) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1).

    Args:
        sop_class_uid: Media Storage SOP Class UID.
        sop_instance_uid: Media Storage SOP Instance UID.
        transfer_syntax_uid: How the data set that follows is encoded.
        source_ae: Source Application Entity Title; left out when empty.

    Returns:
        The bytes that stand before the data set.
    """
    before, after = _around(sop_class_uid, transfer_syntax_uid, source_ae)
    instance = _element(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    length = len(before) + len(instance) + len(after)
    return b"".join(
        (_PREAMBLE, _GROUP_LENGTH.pack(*_GROUP_LENGTH_HEAD, length), before, instance, after)
    )


@functools.lru_cache(maxsize=256)
def _around(sop_class_uid: str, transfer_syntax_uid: str, source_ae: str) -> tuple[bytes, bytes]:
    """The group's elements before and after that of the instance: the same for many objects."""
    after = _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")) + _TAIL
    if source_ae:
        after += _element(0x0016, b"AE", source_ae.encode("ascii"))
    return _VERSION + _element(0x0002, b"UI", sop_class_uid.encode("ascii")), after


def data_set_offset(head: bytes) -> int:
    """Where the data set begins in a Part 10 file.

    Args:
        head: The file's first 144 bytes or more.

    Raises:
        NotDicomError: The prefix or the File Meta Information Group Length is missing.
    """
    if head[128:132] != b"DICM" or len(head) < 144:
        raise NotDicomError("this is not a DICOM Part 10 file")
    *found, length = _GROUP_LENGTH.unpack_from(head, 132)
    if tuple(found) != _GROUP_LENGTH_HEAD:
        raise NotDicomError("the file has no File Meta Information Group Length")
    return 144 + int(length)

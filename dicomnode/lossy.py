"""Whether the pixels of an image were ever compressed with loss, and how (PS3.3 C.7.6.1.1.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom import uid
from pydicom.dataset import Dataset

_H264: Final = "ISO_14496_10"
_MPEG2: Final = "ISO_13818_2"

# PS3.3 C.7.6.1.1.5.1: the defined terms of what transfer syntaxes may have lost.
_METHODS: Final[Mapping[str, str]] = {
    uid.JPEGBaseline8Bit: "ISO_10918_1",
    uid.JPEGExtended12Bit: "ISO_10918_1",
    uid.JPEGLSNearLossless: "ISO_14495_1",
    uid.JPEG2000: "ISO_15444_1",
    uid.JPEG2000MC: "ISO_15444_1",
    uid.HTJ2K: "ISO_15444_15",
    **dict.fromkeys(("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.100.1"), _MPEG2),
    **dict.fromkeys(("1.2.840.10008.1.2.4.101", "1.2.840.10008.1.2.4.101.1"), _MPEG2),
    **{
        f"1.2.840.10008.1.2.4.{number}{fragmented}": _H264
        for number in range(102, 107)
        for fragmented in ("", ".1")
    },
    **dict.fromkeys(("1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.108"), "ISO_23008_2"),
}
# PS3.5 A.4.4 and A.4.6: these hold images that were compressed without loss, too.
_EITHER_WAY: Final = frozenset({uid.JPEG2000, uid.JPEG2000MC, uid.HTJ2K})


def is_lossy(header: Dataset) -> bool:
    """Whether an image says that it lost something, or lies in a transfer syntax that always does.

    Args:
        header: With its file meta information, where it was read from a file.
    """
    if str(header.get("LossyImageCompression")) == "01":
        return True
    return loses(header)


def loses(header: Dataset) -> bool:
    """Whether a file lies in a transfer syntax of nothing but images compressed with loss.

    Args:
        header: Without file meta information it was read from no file, and does not.
    """
    syntax = _transfer_syntax(header)
    return syntax in _METHODS and syntax not in _EITHER_WAY


def lossy_method(header: Dataset) -> str | None:
    """The method by which the transfer syntax of a lossy image lost something, as a defined term.

    Args:
        header: Of an image for which `is_lossy` holds.

    Returns:
        None where it is not compressed any more: the method cannot be told then.
    """
    return _METHODS.get(_transfer_syntax(header))


def _transfer_syntax(header: Dataset) -> str:
    return str(getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", ""))

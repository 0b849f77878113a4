"""Is this data set well-formed? Answered from the raw bytes, while they stream in.

`DatasetWalk` follows element headers (tag, VR, length) by PS3.5 7.1 without building anything:
values of defined length are skipped, sequences and items of undefined length are entered, and only
the few values that the node needs before it may answer are kept. Memory is constant. What real
devices do and every reader copes with is let through: odd lengths, tags out of order, group length
elements, private elements, elements after the pixel data, VRs this release does not know.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from config.errors import MalformedError
from dicomnode.net.pixels import pixel_length_fault

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95"})
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG}) | DEFLATED

MAX_DEPTH = 64
MAX_INFLATED = 1 << 30
"""Bytes a deflated data set may grow to: a bound on a peer's power to keep us busy."""

UNDEFINED = 0xFFFFFFFF
_INFLATE_STEP = 1 << 20
_MAX_KEPT = 1024
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)*")

# PS3.5 7.1.2: these VRs have a 16-bit length, all others two reserved bytes and a 32-bit length.
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
MODALITY = 0x00080060
STUDY_INSTANCE = 0x0020000D
SERIES_INSTANCE = 0x0020000E
SAMPLES_PER_PIXEL = 0x00280002
PHOTOMETRIC = 0x00280004
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
_KEPT = frozenset(
    {SOP_CLASS, SOP_INSTANCE, STUDY_INSTANCE, SERIES_INSTANCE, MODALITY}
    | {SAMPLES_PER_PIXEL, PHOTOMETRIC, NUMBER_OF_FRAMES, ROWS, COLUMNS, BITS_ALLOCATED}
)
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_NAMES = {
    SOP_CLASS: "SOP Class UID",
    SOP_INSTANCE: "SOP Instance UID",
    STUDY_INSTANCE: "Study Instance UID",
    SERIES_INSTANCE: "Series Instance UID",
}
# Command sets (PS3.7 E.1) and file meta information (PS3.10 7.1): a reader takes these bytes for
# the file's own, and little endian, so group 0200 of a big endian data set is among them.
_NOT_IN_DATA_SETS = frozenset({b"\x00\x00", b"\x02\x00", b"\x00\x02"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True, kw_only=True)
class WalkedHeader:
    """What a well-formed data set says of itself.

    Attributes:
        sop_class_uid: (0008,0016), without padding.
        sop_instance_uid: (0008,0018).
        study_instance_uid: (0020,000D).
        series_instance_uid: (0020,000E).
        modality: (0008,0060), empty when absent.
        size: Bytes walked, as received: deflated bytes for a deflated data set.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    size: int


class _Coding:
    """How tags, VRs and lengths lie in the bytes of one transfer syntax."""

    def __init__(self, order: str, implicit: bool) -> None:
        self.implicit = implicit
        self.tag = struct.Struct(order + "HH")
        self.short = struct.Struct(order + "4s2sH")
        self.plain = struct.Struct(order + "4sI")
        self.long_length = struct.Struct(order + "I")
        self.number = struct.Struct(order + "H")
        wanted = _KEPT | _PIXELS
        self.wanted = {self.tag.pack(tag >> 16, tag & 0xFFFF): tag for tag in wanted}

    def tag_of(self, raw: bytes) -> int:
        group, element = self.tag.unpack(raw)
        return int(group) << 16 | int(element)


_IMPLICIT = _Coding("<", True)
_EXPLICIT = _Coding("<", False)
_BIG = _Coding(">", False)


@dataclass
class _Level:
    """One thing of undefined length that is open: a sequence, its item, or encapsulated pixels."""

    kind: str
    coding: _Coding


class DatasetWalk:
    """A walk over one data set, fed piece by piece.

    Args:
        transfer_syntax_uid: How the data set is encoded; anything but the native syntaxes is
            explicit little endian with encapsulated pixel data (PS3.5 A.4).
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._native = transfer_syntax_uid in NATIVE
        self._coding = {IMPLICIT_LITTLE: _IMPLICIT, EXPLICIT_BIG: _BIG}.get(
            transfer_syntax_uid, _EXPLICIT
        )
        self._inflate = (
            zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid in DEFLATED else None
        )
        self._levels: list[_Level] = []
        self._values: dict[int, bytes] = {}
        self._pixels: tuple[int, int] | None = None
        self._at = 0
        self._skip = 0
        self._rest = b""
        self._after_deflated = 0
        self._walked = 0
        self._received = 0

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Walk on over the next bytes.

        Raises:
            MalformedError: They break PS3.5; the offset is that of the element at fault.
        """
        self._received += len(chunk)
        if self._inflate is None:
            self._feed(chunk)
            return
        pending: bytes | bytearray | memoryview = chunk
        if self._inflate.eof:
            self._after_deflated += len(chunk)
        try:
            while pending and not self._inflate.eof:
                self._feed(self._inflate.decompress(pending, _INFLATE_STEP))
                pending = self._inflate.unconsumed_tail
                if self._walked > MAX_INFLATED:
                    raise MalformedError(f"inflates to more than {MAX_INFLATED} bytes")
        except zlib.error as error:
            raise MalformedError("the deflated bytes are damaged", self._received) from error

    def _feed(self, chunk: bytes | bytearray | memoryview) -> None:
        length = len(chunk)
        if self._skip >= length and not self._rest:
            self._skip -= length
            self._walked += length
            return
        data = self._rest + bytes(chunk) if self._rest else chunk
        start = self._walked - len(self._rest)
        at = self._walk(data, self._skip, start)
        self._walked += length
        end = len(data)
        self._skip = max(0, at - end)
        self._rest = bytes(data[at:]) if at < end else b""

    def _walk(self, data: bytes | bytearray | memoryview, at: int, start: int) -> int:
        """Walk whole headers in `data` from `at`.

        Returns:
            Where the next header begins: beyond the end of `data` while a value is skipped.
        """
        end = len(data)
        self._at = 0
        try:
            if start == at == 0 and bytes(data[:2]) in _NOT_IN_DATA_SETS:
                raise MalformedError("the data set begins with group 0000 or 0002")
            while at < end:
                level = self._levels[-1] if self._levels else None
                coding = level.coding if level else self._coding
                if level is not None and level.kind != "item":
                    step = self._item(data, at, level)
                elif coding.implicit:
                    step = self._implicit(data, at, coding)
                else:
                    at, step = self._explicit(data, at, end, coding)
                if not step:
                    break
                at += step
        except MalformedError as error:
            # Inside `_explicit` the element at fault may lie beyond `at`.
            raise MalformedError(str(error), start + max(at, self._at)) from None
        return at

    def _explicit(
        self, data: bytes | bytearray | memoryview, at: int, end: int, coding: _Coding
    ) -> tuple[int, int]:
        """Run over explicit VR elements until one needs care.

        This loop is where the time of the walk goes. Returns where it stands and the step that
        finishes the element there, 0 when more bytes are wanted.
        """
        unpack, long_length = coding.short.unpack_from, coding.long_length.unpack_from
        wanted = coding.wanted
        last = end - 12
        while at <= last:
            tag, vr, length = unpack(data, at)
            if vr in _SHORT:
                if tag in wanted:
                    self._at = at
                    step = self._element(wanted[tag], data, at, 8, length, coding=coding, vr=vr)
                    if not step:
                        return at, 0
                    at += step
                else:
                    at += 8 + length
            elif vr in _LONG:
                (length,) = long_length(data, at + 8)
                if length == UNDEFINED or tag in wanted:
                    self._at = at
                    number = coding.tag_of(tag)
                    step = self._element(number, data, at, 12, length, coding=coding, vr=vr)
                    return at, step
                at += 12 + length
            else:
                break
        self._at = at
        if at >= end or end - at < 8:
            return at, 0
        tag, vr, length = unpack(data, at)
        if vr in _SHORT:
            number = coding.tag_of(tag)
            return at, self._element(number, data, at, 8, length, coding=coding, vr=vr)
        # A long form that is not whole yet, or no VR that is known.
        return at, self._unusual(data, at, coding) if vr not in _LONG else 0

    def _implicit(self, data: bytes | bytearray | memoryview, at: int, coding: _Coding) -> int:
        if len(data) - at < 8:
            return 0
        raw, length = coding.plain.unpack_from(data, at)
        if raw[:2] == b"\xfe\xff":
            return self._delimiter(coding.tag_of(raw), length)
        tag = coding.tag_of(raw)
        return self._element(tag, data, at, 8, length, coding=coding, vr=b"")

    def _unusual(self, data: bytes | bytearray | memoryview, at: int, coding: _Coding) -> int:
        """An element of no known VR: the end of an item, a VR of a later edition, or rubbish."""
        raw, length = coding.plain.unpack_from(data, at)
        tag = coding.tag_of(raw)
        if tag >> 16 == 0xFFFE:
            return self._delimiter(tag, length)
        vr = bytes(data[at + 4 : at + 6])
        if not (vr.isalpha() and vr.isupper() and vr.isascii()):
            raise MalformedError(f"{_shown(tag)} has no value representation")
        if len(data) - at < 12:
            return 0
        (length,) = coding.long_length.unpack_from(data, at + 8)
        return self._element(tag, data, at, 12, length, coding=coding, vr=vr)

    def _delimiter(self, tag: int, length: int) -> int:
        if tag == _ITEM_END and self._levels and self._levels[-1].kind == "item":
            if length:
                raise MalformedError("an item delimiter has a length")
            self._levels.pop()
            return 8
        raise MalformedError(f"{_shown(tag)} stands where no item is open")

    def _item(self, data: bytes | bytearray | memoryview, at: int, level: _Level) -> int:
        """A header inside a sequence or encapsulated pixel data (PS3.5 7.5, A.4)."""
        if len(data) - at < 8:
            return 0
        coding = level.coding
        raw, length = coding.plain.unpack_from(data, at)
        tag = coding.tag_of(raw)
        if tag == _SEQUENCE_END:
            if length:
                raise MalformedError("a sequence delimiter has a length")
            self._levels.pop()
        elif tag != _ITEM:
            raise MalformedError(f"{_shown(tag)} stands where an item should begin")
        elif length != UNDEFINED:
            return 8 + int(length)
        elif level.kind == "pixels":
            raise MalformedError("a fragment of the pixel data has no length")
        else:
            self._open("item", coding)
        return 8

    def _open(self, kind: str, coding: _Coding) -> None:
        if len(self._levels) >= MAX_DEPTH:
            raise MalformedError(f"sequences are nested deeper than {MAX_DEPTH}")
        self._levels.append(_Level(kind, coding))

    def _element(
        self,
        tag: int,
        data: bytes | bytearray | memoryview,
        at: int,
        header: int,
        length: int,
        *,
        coding: _Coding,
        vr: bytes,
    ) -> int:
        """An element that is kept, checked or entered; how far it reaches, 0 for more bytes."""
        if tag in _PIXELS and not self._levels:
            self._note_pixels(tag, length)
        if length == UNDEFINED:
            self._enter(tag, coding, vr)
            return header
        if tag in _KEPT and not self._levels:
            if length > _MAX_KEPT:
                raise MalformedError(f"{_shown(tag)} is {length} bytes long")
            if at + header + length > len(data):
                return 0
            self._keep(tag, bytes(data[at + header : at + header + length]))
        return header + length

    def _enter(self, tag: int, coding: _Coding, vr: bytes) -> None:
        if tag in _PIXELS:
            self._open("pixels", coding)
        elif vr == b"UN":
            # PS3.5 6.2.2 note 2: a sequence of unknown VR is implicit little endian inside.
            self._open("sequence", _IMPLICIT)
        elif vr in (b"SQ", b""):
            self._open("sequence", coding)
        else:
            raise MalformedError(f"{_shown(tag)} of VR {vr.decode()} has no length")

    def _keep(self, tag: int, value: bytes) -> None:
        if self._values.setdefault(tag, value) != value:
            raise MalformedError(f"{_shown(tag)} appears twice and differs")

    def _note_pixels(self, tag: int, length: int) -> None:
        if self._pixels is not None:
            raise MalformedError("there is pixel data twice")
        if length == UNDEFINED and self._native:
            raise MalformedError("the pixel data has no length in an uncompressed transfer syntax")
        if length != UNDEFINED and not self._native:
            raise MalformedError("the pixel data is not compressed as the transfer syntax says")
        self._pixels = (tag, length)

    def finish(self) -> WalkedHeader:
        """The data set has ended; is it whole and consistent?

        Raises:
            MalformedError: It ends in the middle, or its pixel data or UIDs are wrong.
        """
        inflate = self._inflate
        if inflate is not None:
            self._feed(inflate.flush())
            if not inflate.eof:
                raise MalformedError("the deflated data set is cut off", self._received)
            # PS3.5 A.5: one zero byte may pad the deflated bytes to an even length.
            if len(inflate.unused_data) + self._after_deflated > 1:
                raise MalformedError("bytes follow the deflated data set", self._received)
        if self._skip or self._rest:
            raise MalformedError("the data set ends inside an element", self._walked)
        if self._levels:
            raise MalformedError("the data set ends inside a sequence", self._walked)
        self._check_pixels()
        return WalkedHeader(
            sop_class_uid=self._uid(SOP_CLASS),
            sop_instance_uid=self._uid(SOP_INSTANCE),
            study_instance_uid=self._uid(STUDY_INSTANCE),
            series_instance_uid=self._uid(SERIES_INSTANCE),
            modality=self._text(MODALITY),
            size=self._received,
        )

    def _text(self, tag: int) -> str:
        return self._values.get(tag, b"").strip(b" \x00").decode("ascii", "replace")

    def _uid(self, tag: int) -> str:
        value = self._values.get(tag)
        if value is None:
            raise MalformedError(f"{_NAMES[tag]} {_shown(tag)} is missing")
        # PS3.5 9.1, 6.2: one trailing NULL pads; a trailing space is a common mistake.
        uid = value.rstrip(b"\x00 ")
        if len(uid) > 64 or not _UID.fullmatch(uid):
            raise MalformedError(f"{_NAMES[tag]} {_shown(tag)} is not a UID")
        return uid.decode("ascii")

    def _number(self, tag: int) -> int | None:
        value = self._values.get(tag)
        if value is None or len(value) < 2:
            return None
        return int(self._coding.number.unpack_from(value)[0])

    def _check_pixels(self) -> None:
        if self._pixels is None or not self._native:
            return
        tag, length = self._pixels
        fault = pixel_length_fault(
            length,
            rows=self._number(ROWS),
            columns=self._number(COLUMNS),
            samples=self._number(SAMPLES_PER_PIXEL),
            bits={0x7FE00008: 32, 0x7FE00009: 64}.get(tag) or self._number(BITS_ALLOCATED),
            frames=self._text(NUMBER_OF_FRAMES),
            photometric=self._text(PHOTOMETRIC),
        )
        if fault:
            raise MalformedError(fault)


def _shown(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def is_uid(value: str) -> bool:
    """Whether a text is a UID: digits in components parted by dots, at most 64 characters.

    Leading zeros, which PS3.5 9.1 forbids and devices write, are let through.
    """
    return len(value) <= 64 and value.isascii() and bool(_UID.fullmatch(value.encode("ascii")))

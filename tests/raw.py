"""Data sets written byte by byte, right and wrong, for what reads raw bytes.

Every object is synthetic: values are invented and name no one.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG, JPEG, RLE)

CT = "1.2.840.10008.5.1.4.1.1.2"
UNDEFINED = 0xFFFFFFFF
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


@dataclass(frozen=True)
class Coding:
    """Writes elements as one transfer syntax wants them."""

    syntax: str = EXPLICIT

    @property
    def order(self) -> str:
        return ">" if self.syntax == BIG else "<"

    @property
    def native(self) -> bool:
        return self.syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG)

    def tag(self, tag: int) -> bytes:
        return struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)

    def head(self, tag: int, vr: str, length: int) -> bytes:
        if self.syntax == IMPLICIT:
            return self.tag(tag) + struct.pack("<I", length)
        if vr in LONG:
            return self.tag(tag) + vr.encode() + struct.pack(self.order + "HI", 0, length)
        return self.tag(tag) + vr.encode() + struct.pack(self.order + "H", length)

    def element(self, tag: int, vr: str, value: bytes | str | int, *, pad: bool = True) -> bytes:
        if isinstance(value, int):
            value = struct.pack(self.order + {"US": "H", "UL": "I"}[vr], value)
        if isinstance(value, str):
            value = value.encode("ascii")
        if pad and len(value) % 2:
            value += b"\x00" if vr in ("UI", "OB", "UN") else b" "
        return self.head(tag, vr, len(value)) + value

    def item_head(self, length: int) -> bytes:
        return self.tag(0xFFFEE000) + struct.pack(self.order + "I", length)

    def item(self, content: bytes) -> bytes:
        return self.item_head(len(content)) + content

    def open_item(self, content: bytes) -> bytes:
        return self.item_head(UNDEFINED) + content + self.tag(0xFFFEE00D) + bytes(4)

    def open_sequence(self, tag: int, *items: bytes, vr: str = "SQ") -> bytes:
        end = self.tag(0xFFFEE0DD) + bytes(4)
        return self.head(tag, vr, UNDEFINED) + b"".join(items) + end

    def pixels(self, length: int) -> bytes:
        if self.native:
            return self.element(0x7FE00010, "OW", bytes(length))
        fragments = (self.item(b""), self.item(bytes(length // 2)), self.item(bytes(10)))
        return self.open_sequence(0x7FE00010, *fragments, vr="OB")

    def finish(self, elements: bytes) -> bytes:
        if self.syntax != DEFLATED:
            return elements
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(elements) + deflate.flush()
        return packed + bytes(len(packed) % 2)


def parts(
    coding: Coding,
    *,
    sop_instance: str = "1.2.3.4",
    sop_class: str = CT,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    name: str = "Phantom^One",
    rows: int = 4,
    columns: int = 6,
) -> dict[str, bytes]:
    """The elements of a small CT image, by name and in order, so that a test may change one."""
    element = coding.element
    private = element(0x00091001, "LO", "private")
    return {
        "group_length": element(0x00080000, "UL", 0),
        "charset": element(0x00080005, "CS", "ISO_IR 100"),
        "sop_class": element(0x00080016, "UI", sop_class),
        "sop_instance": element(0x00080018, "UI", sop_instance),
        "modality": element(0x00080060, "CS", "CT"),
        "sequence": coding.open_sequence(
            0x00081140,
            coding.open_item(
                element(0x00080018, "UI", "9.9.9")
                + coding.open_sequence(0x0040A170, coding.item(element(0x00080100, "SH", "A")))
            ),
            coding.item(element(0x00080018, "UI", "9.9.8")),
        ),
        "private_creator": element(0x00090010, "LO", "MAKER"),
        "private": private,
        "name": element(0x00100010, "PN", name),
        "study": element(0x0020000D, "UI", study),
        "series": element(0x0020000E, "UI", series),
        "samples": element(0x00280002, "US", 1),
        "photometric": element(0x00280004, "CS", "MONOCHROME2"),
        "rows": element(0x00280010, "US", rows),
        "columns": element(0x00280011, "US", columns),
        "bits": element(0x00280100, "US", 16),
        "pixels": coding.pixels(rows * columns * 2),
    }


def ct(syntax: str = EXPLICIT, **values: str | int) -> bytes:
    """The bytes of a small well-formed CT image."""
    coding = Coding(syntax)
    return coding.finish(b"".join(parts(coding, **values).values()))  # type: ignore[arg-type]

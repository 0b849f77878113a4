"""What is sent: synthetic images of a few shapes, as files and as the bytes of a C-STORE."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from storage.part10 import file_head
from tests.contract.wire import pdu, pdv, store_rq
from tests.raw import CT, EXPLICIT, ct

PDU_LENGTH = 16382
"""Variable field of a P-DATA-TF: the longest that every receiver here takes as it comes."""

_TILE = Random(7).randbytes(1 << 20)  # noqa: S311 - pixels that do not compress
_UID = "2.25.{kind}{root:012d}{number:08d}"


@dataclass(frozen=True)
class Shape:
    """Images of one kind.

    Attributes:
        images: How many in a run, over all associations.
        rows: Of each image.
        columns: Of each image; 16 bits a pixel.
    """

    images: int
    rows: int
    columns: int

    @property
    def bytes(self) -> int:
        """Pixel bytes of one image."""
        return self.rows * self.columns * 2

    def of(self, images: int) -> Shape:
        """The same images, another number of them."""
        return replace(self, images=images)

    def shares(self, senders: int) -> list[int]:
        """How many images each of so many senders sends; at least one."""
        images = max(self.images, senders)
        return [len(range(sender, images, senders)) for sender in range(senders)]


SHAPES = {
    "small": Shape(1000, 128, 128),  # 33 kB
    "ct": Shape(200, 512, 512),  # 0.5 MB
    "ct-long": Shape(3000, 512, 512),  # more than a burst: the journal fills up
    "large": Shape(20, 2560, 2560),  # 13 MB
    "huge": Shape(2, 12248, 12248),  # 300 MB
}


def _uid(kind: int, root: int, number: int) -> str:
    return _UID.format(kind=kind, root=root, number=number)


def data_set(shape: Shape, root: int, number: int) -> bytearray:
    """A CT image that no other call gives; UIDs are as long in each."""
    data = bytearray(
        ct(
            rows=shape.rows,
            columns=shape.columns,
            sop_instance=_uid(1, root, number),
            study=_uid(2, root, 0),
            series=_uid(3, root, 0),
        )
    )
    pixels = memoryview(data)[len(data) - shape.bytes :]
    for at in range(0, len(pixels), len(_TILE)):
        pixels[at : at + len(_TILE)] = _TILE[: len(pixels) - at]
    return data


def write_files(folder: Path, shape: Shape, senders: int) -> list[Path]:
    """Write the images as Part 10 files, a folder for each sender.

    Returns:
        The folders.
    """
    folders = []
    for sender, count in enumerate(shape.shares(senders)):
        data = data_set(shape, sender, 0)
        first = _uid(1, sender, 0).encode()
        at = data.index(first)
        folders.append(folder / f"sender{sender}")
        folders[-1].mkdir(parents=True)
        for number in range(count):
            uid = _uid(1, sender, number)
            data[at : at + len(first)] = uid.encode()
            path = folders[-1] / f"{number:05d}.dcm"
            path.write_bytes(file_head(CT, uid, EXPLICIT) + data)
    return folders


class Stream:
    """The PDUs of one C-STORE-RQ with its data set, made once; only the UID changes.

    Args:
        shape: What image.
        root: Tells the instances of one sender and run from all others.
    """

    def __init__(self, shape: Shape, root: int) -> None:
        self._root = root
        uid = _uid(1, root, 0)
        data = memoryview(data_set(shape, root, 0))
        piece = PDU_LENGTH - 6
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
        self._bytes = bytearray(pdu(4, pdv(1, 3, store_rq(CT, uid))))
        for part in pieces[:-1]:
            self._bytes += _DATA.pack(4, 0, len(part) + 6, len(part) + 2, 1, 0)
            self._bytes += part
        self._bytes += _DATA.pack(4, 0, len(pieces[-1]) + 6, len(pieces[-1]) + 2, 1, 2)
        self._bytes += pieces[-1]
        in_command = self._bytes.index(uid.encode())
        in_data = self._bytes.index(uid.encode(), in_command + 1)
        self._places = [slice(at, at + len(uid)) for at in (in_command, in_data)]

    def image(self, number: int) -> bytearray:
        """All that is sent for that image; good until the next call."""
        uid = _uid(1, self._root, number).encode()
        for place in self._places:
            self._bytes[place] = uid
        return self._bytes


# A P-DATA-TF header and that of its one presentation data value (PS3.8 9.3.5).
_DATA = struct.Struct(">BBLLBB")

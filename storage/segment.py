"""How the intake journal lies on disk: segments of records, each proved by itself.

A segment is a file of `SEGMENT_BYTES`, in blocks of `BLOCK` bytes. Its first block says whose it
is and its generation; records follow, one after the other. A record is a block that describes an
object (CRC-32) and then the Part 10 file as it will lie in the store, filled up to whole blocks;
its data set is proved by the SHA-256 that was made while it came in.

Raising the generation in the first block voids all records before. A record also says where the
batch began that it was written with: everything before that place had been acknowledged when it was
written, so that damage can be told from what a power loss cut off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from storage.index import Arrival

BLOCK = 4096
SEGMENT_BYTES = 16 << 20
RECORD_BYTES = 1 << 20
"""Longest record: what is larger is written to a file of its own while it comes in."""

Buffer = mmap.mmap
"""Room for one record; begins on a page, so that it can be written past the page cache."""

Bytes = bytes | bytearray | memoryview

_PIECE = 1 << 20
_SEGMENT = struct.Struct("<8s8sII")  # magic, run, number, generation
_RECORD = struct.Struct("<8s8sQIIIIQ32s")  # magic, run, number, generation, batch, lengths, digest
_CRC = struct.Struct("<I")
_SEGMENT_MAGIC, _RECORD_MAGIC = b"MEDAIJS1", b"MEDAIJR1"


@dataclass(frozen=True)
class Place:
    """Where a record stands, and of which journal.

    Attributes:
        token: The run that writes the journal.
        generation: Of the segment, when the record was written.
        at: Byte of the segment where the record begins.
        batch_at: Byte where the batch begins that it was written with.
    """

    token: str
    generation: int
    at: int
    batch_at: int


@dataclass(frozen=True)
class Record:
    """A whole record, read back.

    Attributes:
        place: Where it stood.
        number: Records of a run are counted over all its segments.
        arrival: The row to write; it has no key yet.
        content: The Part 10 file.
        head_length: Bytes of it before the data set.
    """

    place: Place
    number: int
    arrival: Arrival
    content: memoryview
    head_length: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.place.at + extent(len(self.content))


@dataclass
class Scan:
    """What a segment holds.

    Attributes:
        records: The records that are in force, in their order.
        damaged: Where acknowledged records lay that cannot be read: (from, to) in bytes.
        head_is_damaged: Whether the first block cannot be read though something was written.
    """

    records: list[Record] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)
    head_is_damaged: bool = False


def extent(content_length: int) -> int:
    """Bytes that a record takes for a Part 10 file of that length."""
    return BLOCK + -(-content_length // BLOCK) * BLOCK


def new_buffer() -> Buffer:
    """Room for the longest record; its pages cost memory when they are first written to."""
    return mmap.mmap(-1, RECORD_BYTES)


def segment_head(token: str, number: int, generation: int) -> bytes:
    """The first block of a segment."""
    fixed = _SEGMENT.pack(_SEGMENT_MAGIC, bytes.fromhex(token), number, generation)
    return (fixed + _CRC.pack(zlib.crc32(fixed))).ljust(BLOCK, b"\x00")


def fill(fd: int, head: bytes, length: int) -> None:
    """Write every block: those that are only reserved would be allocated when they are written.

    Args:
        fd: Of the new segment.
        head: Its first block.
        length: Of the segment, whole pieces of a MiB if it is longer than one.

    Raises:
        OSError: The disk refused.
    """
    piece = min(_PIECE, length)
    with mmap.mmap(-1, piece) as page:
        page[: len(head)] = head
        for at in range(0, length, piece):
            if os.pwritev(fd, [page], at) < piece:
                raise OSError(errno.ENOSPC, "it was cut short")
            page[: len(head)] = bytes(len(head))


def write_head(fd: int, head: bytes) -> None:
    """Write the first block of a segment, durably.

    Raises:
        OSError: The disk refused.
    """
    with mmap.mmap(-1, BLOCK) as page:  # begins on a page, as writing past the page cache wants
        page[:] = head
        os.pwritev(fd, [page], 0, os.RWF_DSYNC)


def seal_record(
    buffer: Buffer, length: int, head_length: int, *, place: Place, number: int, arrival: Arrival
) -> memoryview:
    """Describe the object that lies in a buffer from its second block on.

    Args:
        buffer: Holds the Part 10 file from `BLOCK` on.
        length: Bytes of that file.
        head_length: Bytes of it before the data set.
        place: Where the record will stand.
        number: Its number in the run.
        arrival: Its row; the key is not kept.

    Returns:
        The record, whole blocks.
    """
    # As JSON, which UIDs need no encoder for.
    meta = (
        f'["{arrival.sop_instance_uid}", "{arrival.sop_class_uid}", '
        f'"{arrival.transfer_syntax_uid}", "{arrival.study_instance_uid}", '
        f'"{arrival.series_instance_uid}", {arrival.association_id}, {arrival.received_at!r}]'
    ).encode()
    fixed = _RECORD.pack(
        _RECORD_MAGIC,
        bytes.fromhex(place.token),
        number,
        place.generation,
        place.batch_at,
        len(meta),
        head_length,
        length - head_length,
        bytes.fromhex(arrival.digest),
    )
    crc = zlib.crc32(buffer[BLOCK : BLOCK + head_length], zlib.crc32(meta, zlib.crc32(fixed)))
    first = fixed + _CRC.pack(crc) + meta
    end = BLOCK + length
    whole = extent(length)
    buffer[:BLOCK] = first.ljust(BLOCK, b"\x00")
    buffer[end:whole] = bytes(whole - end)  # what an object before left there is nobody's business
    return memoryview(buffer)[:whole]


def scan(data: Bytes, token: str) -> Scan:
    """Read a whole segment, as far as it goes.

    Every block is looked at, so that a record that is damaged hides none behind it. Only what is
    proved is given: a record whose description or data set is not as it was written is none.

    Args:
        data: The segment.
        token: The run that wrote it.
    """
    view = memoryview(data)
    generation = _generation(view, token)
    records = list(_records(view, token))
    found = Scan(head_is_damaged=generation is None and any(view[:BLOCK]))
    if generation is None:
        generation = max((record.place.generation for record in records), default=0)
        found.head_is_damaged |= bool(records)
    found.records = [record for record in records if record.place.generation >= generation]
    expected = BLOCK
    acknowledged = max((record.place.batch_at for record in found.records), default=0)
    for record in found.records:
        if expected < min(record.place.at, acknowledged):
            found.damaged.append((expected, record.place.at))
        expected = record.end
    return found


def _generation(view: memoryview, token: str) -> int | None:
    size = _SEGMENT.size
    if len(view) < size + _CRC.size:
        return None
    magic, run, _, generation = _SEGMENT.unpack_from(view)
    (crc,) = _CRC.unpack_from(view, size)
    valid = (magic, run.hex(), crc) == (_SEGMENT_MAGIC, token, zlib.crc32(view[:size]))
    return int(generation) if valid else None


def _records(view: memoryview, token: str) -> Iterator[Record]:
    at = BLOCK
    while at + BLOCK < len(view):
        record = _record_at(view, at, token)
        if record is not None:
            yield record
        at = at + BLOCK if record is None else record.end


def _record_at(view: memoryview, at: int, token: str) -> Record | None:
    magic, run, number, generation, batch_at, meta_length, head_length, body_length, digest = (
        _RECORD.unpack_from(view, at)
    )
    if magic != _RECORD_MAGIC or run.hex() != token:
        return None
    meta_at, content_at = at + _RECORD.size + _CRC.size, at + BLOCK
    end = content_at + head_length + body_length
    if meta_at + meta_length > content_at or end > len(view):
        return None
    meta = view[meta_at : meta_at + meta_length]
    head = view[content_at : content_at + head_length]
    crc = zlib.crc32(head, zlib.crc32(meta, zlib.crc32(view[at : at + _RECORD.size])))
    if _CRC.unpack_from(view, at + _RECORD.size) != (crc,):
        return None
    if hashlib.sha256(view[content_at + head_length : end]).digest() != digest:
        return None
    sop_instance, sop_class, transfer_syntax, study, series, association, moment = json.loads(
        bytes(meta)
    )
    arrival = Arrival(
        sop_instance_uid=sop_instance,
        sop_class_uid=sop_class,
        transfer_syntax_uid=transfer_syntax,
        study_instance_uid=study,
        series_instance_uid=series,
        digest=digest.hex(),
        size=body_length,
        object_key="",
        association_id=association,
        received_at=moment,
    )
    place = Place(token, generation, at, batch_at)
    return Record(place, number, arrival, view[content_at:end], head_length)

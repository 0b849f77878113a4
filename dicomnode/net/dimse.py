"""The few messages of the short path, read and written without building data sets (PS3.7, PS3.8).

Command sets are implicit little endian (PS3.7 6.3.1); responses go out as one P-DATA-TF.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

from dicomnode.net.status import Answer

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
NO_DATA_SET = 0x0101

P_DATA_TF = 0x04
PDU_HEADER = struct.Struct(">BBL")
PDV_HEADER = struct.Struct(">LBB")
IS_COMMAND, IS_LAST = 1, 2
"""Bits of the message control header (PS3.8 E.2)."""

_ELEMENT = struct.Struct("<HHI")
_NUMBER = struct.Struct("<H")


@dataclass(frozen=True)
class Command:
    """What the short path needs of a C-STORE-RQ or C-ECHO-RQ.

    Attributes:
        field: Command Field (0000,0100).
        message_id: Message ID (0000,0110).
        sop_class_uid: Affected SOP Class UID (0000,0002).
        sop_instance_uid: Affected SOP Instance UID (0000,1000), empty for C-ECHO.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def read_command(data: bytes) -> Command | None:
    """Read a command set; None for whatever the short path leaves to the long one."""
    values: dict[int, bytes] = {}
    at, end = 0, len(data)
    while end - at >= 8:
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += 8 + length
        if group or at > end:
            return None
        values[element] = data[at - length : at]
    field, message_id = _number(values, 0x0100), _number(values, 0x0110)
    data_set_type = _number(values, 0x0800)
    sop_class, instance = _uid(values, 0x0002), _uid(values, 0x1000)
    if at != end or field is None or message_id is None or not sop_class:
        return None
    if field == C_STORE_RQ and instance and data_set_type not in (None, NO_DATA_SET):
        return Command(field, message_id, sop_class, instance)
    if field == C_ECHO_RQ and data_set_type == NO_DATA_SET:
        return Command(field, message_id, sop_class, "")
    return None


def _number(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(values: dict[int, bytes], element: int) -> str:
    value = values.get(element, b"").rstrip(b"\x00 ")
    return value.decode("ascii") if value.isascii() and len(value) <= 64 else ""


def _text(element: int, value: str, padding: bytes) -> bytes:
    data = value.encode("ascii")
    if len(data) % 2:
        data += padding
    return _ELEMENT.pack(0, element, len(data)) + data


def response(command: Command, context_id: int, answer: Answer) -> bytes:
    """The P-DATA-TF that answers a C-STORE-RQ or C-ECHO-RQ (PS3.7 9.3.1.2, 9.3.5.2)."""
    instance = _text(0x1000, command.sop_instance_uid, b"\x00") if command.sop_instance_uid else b""
    begin, end = _around(
        command.field | 0x8000, command.sop_class_uid, context_id, answer, len(instance)
    )
    return begin + _NUMBER.pack(command.message_id) + end + instance


@functools.lru_cache(maxsize=256)
def _around(
    field: int, sop_class_uid: str, context_id: int, answer: Answer, more: int
) -> tuple[bytes, bytes]:
    """A response up to the Message ID Being Responded To, and from there to the last element.

    It is the same for one object after the other.

    Args:
        field: Command Field.
        sop_class_uid: Affected SOP Class UID.
        context_id: Presentation context.
        answer: Its status and comment.
        more: Bytes of the element that comes last.
    """
    # (0000,0100) Command Field, (0000,0120) Message ID Being Responded To
    begin = _text(0x0002, sop_class_uid, b"\x00") + _us(0x0100, field) + _ELEMENT.pack(0, 0x0120, 2)
    # (0000,0800) Command Data Set Type, (0000,0900) Status, (0000,0902) Error Comment
    end = _us(0x0800, NO_DATA_SET) + _us(0x0900, answer.status)
    if answer.comment:
        end += _text(0x0902, answer.comment, b" ")
    body = len(begin) + _NUMBER.size + len(end) + more
    group_length = _ELEMENT.pack(0, 0, 4) + struct.pack("<I", body)
    length = len(group_length) + body
    heads = PDU_HEADER.pack(P_DATA_TF, 0, length + 6) + PDV_HEADER.pack(
        length + 2, context_id, IS_COMMAND | IS_LAST
    )
    return heads + group_length + begin, end


def _us(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + _NUMBER.pack(value)

"""Associations gone wrong: good ones, written byte by byte, damaged at random and repeatably.

Damage is done at the level where it tells: inside a data set or a command set whose fragments are
then framed as they should be, inside one PDU, to the order of PDUs, or to the whole stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tests.contract.wire import ECHO, Context, associate_rq, echo_rq, pdu, pdv, store_rq
from tests.raw import CT, SYNTAXES, ct

CANARY = "Canary^Zebedee"
"""The patient's name in every data set: nothing that is logged may hold it."""

CONTEXTS: tuple[Context, ...] = (
    ECHO,
    *((5 + 2 * number, CT, (syntax,)) for number, syntax in enumerate(SYNTAXES)),
)
SYNTAX_OF = {number: syntaxes[0] for number, _, syntaxes in CONTEXTS}
A_ASSOCIATE_RQ, P_DATA_TF, A_RELEASE_RQ, A_ABORT = 0x01, 0x04, 0x05, 0x07
RELEASE, ABORT = pdu(A_RELEASE_RQ, bytes(4)), pdu(A_ABORT, bytes(4))
REQUEST = associate_rq("MEDAI", "TESTER", CONTEXTS)


def damage(data: bytes, random: Random) -> bytes:
    """One to three faults in some bytes."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice((_flip, _cut, _length, _splice, _overwrite))(data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 16)) if data else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _length(data: bytes, random: Random) -> bytes:
    """A number of two or four bytes anywhere: nought, the largest, one more, one less."""
    form = random.choice(("<H", "<I", ">H", ">I"))
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    at = random.randrange(len(data) - size + 1)
    (value,) = struct.unpack_from(form, data, at)
    most = (1 << 8 * size) - 1
    value = random.choice((0, most, most - 1, (value + 1) & most, (value - 1) & most))
    return data[:at] + struct.pack(form, value) + data[at + size :]


def _splice(data: bytes, random: Random) -> bytes:
    low, high = sorted(random.randrange(len(data) + 1) for _ in range(2))
    to = random.randrange(len(data) + 1)
    return data[:to] + data[low:high] + data[random.choice((to, high)) :]


def _overwrite(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    rubbish = random.randbytes(random.choice((1, 2, 8, 64)))
    return data[:at] + rubbish + data[at + random.choice((0, len(rubbish))) :]


def _fragments(context: int, control: int, content: bytes, random: Random) -> Iterator[bytes]:
    size = random.choice((30, 500, 16000)) if control & 1 == 0 else 16000
    for at in range(0, len(content), size) or (0,):
        last = 2 if at + size >= len(content) else 0
        yield pdu(P_DATA_TF, pdv(context, control | last, content[at : at + size]))


def good_session(case: int, random: Random, fault: str = "") -> list[bytes]:
    """The PDUs of a whole association; its data sets or command sets damaged if asked for."""
    pdus = [REQUEST]
    for message in range(random.choice((1, 1, 2, 3))):
        if random.random() < 0.2:
            pdus += _fragments(ECHO[0], 1, echo_rq(message), random)
            continue
        context, *_ = random.choice(CONTEXTS[1:])
        uid = f"1.2.{case}.{message}"
        command = store_rq(CT, uid, message)
        data = ct(
            SYNTAX_OF[context],
            sop_instance=uid,
            study=f"1.3.{case}",
            series=f"1.4.{case}",
            name=CANARY,
            rows=random.randrange(1, 9),
        )
        if fault == "command set":
            command = damage(command, random)
        elif fault == "data set":
            data = damage(data, random)
        pdus += _fragments(context, 1, command, random)
        pdus += _fragments(context, 0, data, random)
    return [*pdus, random.choice((RELEASE, RELEASE, RELEASE, ABORT))]


def _one_pdu(pdus: list[bytes], random: Random) -> list[bytes]:
    at = random.randrange(1, len(pdus))
    return [*pdus[:at], damage(pdus[at], random), *pdus[at + 1 :]]


def _pdu_length(pdus: list[bytes], random: Random) -> list[bytes]:
    at = random.randrange(len(pdus))
    kind, reserved, length = struct.unpack_from(">BBL", pdus[at])
    length = random.choice((0, 1, length - 1, length + 1, 0x7FFFFFFF, 0xFFFFFFFF))
    return [*pdus[:at], struct.pack(">BBL", kind, reserved, length) + pdus[at][6:], *pdus[at + 1 :]]


def _request(pdus: list[bytes], random: Random) -> list[bytes]:
    damaged = damage(pdus[0], random)
    if random.random() < 0.7 and len(damaged) >= 6:  # then what it holds is read at all
        damaged = struct.pack(">BBL", A_ASSOCIATE_RQ, 0, len(damaged) - 6) + damaged[6:]
    return [damaged, *pdus[1:]]


def _order(pdus: list[bytes], random: Random) -> list[bytes]:
    pdus = list(pdus)
    one, other = random.randrange(len(pdus)), random.randrange(len(pdus))
    what = random.randrange(4)
    if what == 0:
        pdus.insert(one, pdus[other])
    elif what == 1:
        pdus[one], pdus[other] = pdus[other], pdus[one]
    elif what == 2:
        del pdus[one]
    else:
        pdus.insert(one, random.choice((RELEASE, ABORT, REQUEST)))
    return pdus


def _halves(pdus: list[bytes], random: Random) -> list[bytes]:
    other = b"".join(good_session(random.randrange(1 << 30), random))
    whole = b"".join(pdus[1:])
    return [
        pdus[0],
        whole[: random.randrange(len(whole))],
        other[random.randrange(len(REQUEST), len(other)) :],
    ]


def _rubbish(pdus: list[bytes], random: Random) -> list[bytes]:
    rubbish = random.randbytes(random.choice((1, 5, 6, 100, 5000)))
    return random.choice(([rubbish], [pdus[0], rubbish], [*pdus[:2], rubbish]))


ON_PDUS: dict[str, Callable[[list[bytes], Random], list[bytes]]] = {
    "one PDU": _one_pdu,
    "the length of a PDU": _pdu_length,
    "the request": _request,
    "the order": _order,
    "two halves": _halves,
    "rubbish": _rubbish,
}
FAULTS = ("data set", "data set", "data set", "command set", "command set", *ON_PDUS)


@dataclass(frozen=True)
class Mutant:
    """A damaged association.

    Attributes:
        fault: What is wrong with it, and its number: enough to make it again.
        first: The first bytes to send; an answer is waited for when they are a whole PDU.
        rest: What follows.
    """

    fault: str
    first: bytes
    rest: bytes

    @property
    def asks(self) -> bool:
        """Whether the first PDU is framed as one, so that it must be answered."""
        return len(framed(self.first)) == 1

    @property
    def whole(self) -> bool:
        """Whether all that was announced is there, so that the end must be answered.

        What follows may have filled up a P-DATA-TF that was cut off: then nobody asked for an end.
        """
        kinds = [stream[0] for stream in framed(self.first + self.rest)]
        return bool(kinds) and kinds[-1] != P_DATA_TF


def mutant(seed: int, case: int) -> Mutant:
    """Case `case` of the corpus `seed`: the same each time."""
    random = Random(f"{seed} {case}")  # noqa: S311 - draws test data
    fault = FAULTS[case % len(FAULTS)]
    pdus = good_session(case, random, fault)
    if fault in ON_PDUS:
        pdus = ON_PDUS[fault](pdus, random)
    if not pdus or pdus[-1] not in (RELEASE, ABORT):
        pdus = [*pdus, RELEASE]
    return Mutant(f"case {case}: {fault}", pdus[0], b"".join(pdus[1:]))


def _length_of(data: bytes, at: int = 0) -> int:
    return int(struct.unpack_from(">L", data, at + 2)[0])


def framed(stream: bytes) -> list[bytes]:
    """The PDUs of a stream; none when it does not end where a PDU ends."""
    found, at = [], 0
    while at + 6 <= len(stream):
        end = at + 6 + _length_of(stream, at)
        found.append(stream[at:end])
        at = end
    return found if at == len(stream) else []


def data_sets(stream: bytes) -> list[bytes]:
    """Every data set that a stream of PDUs holds, put together from its fragments (PS3.8 E).

    Fragments that a command set interrupts are put together both ways: from there, and whole.
    """
    found, parts, whole, at = [], b"", b"", 0
    while at + 6 <= len(stream):
        end = at + 6 + _length_of(stream, at)
        inner = at + 6
        while stream[at] == P_DATA_TF and inner + 6 <= end <= len(stream):
            length, _, control = struct.unpack_from(">LBB", stream, inner)
            if control & 1:
                parts = b""
            else:
                parts += stream[inner + 6 : inner + 4 + length]
                whole += stream[inner + 6 : inner + 4 + length]
                if control & 2:
                    found += [parts, whole]
                    parts = whole = b""
            inner += 4 + length
        at = end
    return found

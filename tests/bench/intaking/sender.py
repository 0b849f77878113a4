"""A sender without Nagle's algorithm that costs little and times every C-STORE.

``python -m tests.bench.intaking.sender`` is one such sender in a process of its own: it reads a job
as a line of JSON, prepares its PDUs, says ``ready``, waits for a line, sends, and says what it saw
as JSON. Every receiver gets the same bytes; one C-STORE is under way at a time.
"""

from __future__ import annotations

import gc
import json
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.bench.intaking.images import Shape, Stream
from tests.contract.wire import Wire

CALLING_AE = "BENCHSCU"


@dataclass(frozen=True)
class Job:
    """What one sender is to do.

    Attributes:
        port: Of the receiver, on this machine.
        called_ae: Its AE title.
        images: How many to send.
        rows: Of each image.
        columns: Of each image.
        root: Tells this sender's instances from all others.
    """

    port: int
    called_ae: str
    images: int
    rows: int
    columns: int
    root: int


@dataclass(frozen=True)
class Sent:
    """What one sender saw.

    Attributes:
        images: How many it sent; each was answered 0x0000.
        begun: When it began, seconds of the machine's monotonic clock.
        ended: When the last was answered.
        cpu: Seconds of processor time that it used itself.
        round_trips: Of each C-STORE, from its first byte to its response, in seconds; empty where
            the sender does not tell.
    """

    images: int
    begun: float
    ended: float
    cpu: float
    round_trips: list[float] = field(default_factory=list)


class RefusedError(Exception):
    """A receiver answered a C-STORE with something else than 0x0000."""


def read_status(sock: socket.socket) -> int:
    """The Status (0000,0900) of the next C-STORE-RSP."""
    data = b""
    while len(data) < 6 or len(data) < 6 + _LENGTH.unpack_from(data, 2)[0]:
        more = sock.recv(4096)
        if not more:
            raise ConnectionResetError("the receiver closed the connection")
        data += more
    at = data.find(_STATUS)
    if data[0] != 4 or at < 0:
        raise RefusedError(f"PDU type {data[0]} in place of a response")
    return int.from_bytes(data[at + 8 : at + 10], "little")


_LENGTH = struct.Struct(">L")
_STATUS = struct.pack("<HHI", 0x0000, 0x0900, 2)


def send(job: Job, stream: Stream) -> Sent:
    """Send a job's images over one association.

    Raises:
        RefusedError: One was not answered 0x0000.
        OSError: The connection broke.
    """
    clock, round_trips = time.perf_counter, []
    begun, cpu = time.monotonic(), time.process_time()
    with Wire.associate(job.port, called=job.called_ae, calling=CALLING_AE) as wire:
        sock = wire.sock
        sock.settimeout(None)
        for number in range(job.images):
            data = stream.image(number)
            start = clock()
            sock.sendall(data)
            status = read_status(sock)
            round_trips.append(clock() - start)
            if status:
                raise RefusedError(f"status 0x{status:04X}")
        ended, cpu = time.monotonic(), time.process_time() - cpu
        wire.release()
    return Sent(job.images, begun, ended, cpu, round_trips)


def main() -> None:
    """Be one sender."""
    job = Job(**json.loads(sys.stdin.readline()))
    stream = Stream(Shape(job.images, job.rows, job.columns), job.root)
    gc.disable()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(send(job, stream))), flush=True)


if __name__ == "__main__":
    main()

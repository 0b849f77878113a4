"""How much memory an association takes in the middle of a large object."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from dicomnode.net.shortpath import MIN_PEER_PDU
from tests.bench.intaking.bench import Bench
from tests.bench.intaking.images import Shape, Stream
from tests.bench.intaking.receivers import NO_DELAY, Listening, Start, warm
from tests.bench.intaking.sender import CALLING_AE
from tests.bench.processes import processes_of, pss_mib
from tests.contract.wire import Wire

FEW, MANY = 1, 8
PATHS = {"short path": 16384, "pynetdicom's path": MIN_PEER_PDU - 2}
"""The longest PDU that the sender takes: the node leaves one that takes only short ones to
pynetdicom."""

_STEADY_SECONDS, _STEADY_MIB = 0.3, 0.5
_PATIENCE = 60.0


@dataclass(frozen=True)
class Held:
    """Memory of the node's receivers while associations stand in the middle of an object.

    Attributes:
        path: Which path of the node serves them.
        object_megabytes: Size of each object; half of it was sent.
        pss: Sum of PSS of the receivers in MiB, by number of associations.
    """

    path: str
    object_megabytes: float
    pss: dict[int, float]

    @property
    def each(self) -> float:
        """MiB of one more association."""
        return (self.pss[MANY] - self.pss[FEW]) / (MANY - FEW)


def held(bench: Bench, start: Start, shape: Shape, path: str) -> Held:
    """Hold associations in the middle of an object each, and measure a fresh node.

    Raises:
        TimeoutError: Its memory does not come to rest.
    """
    half = memoryview(Stream(shape, 0).image(0))[: shape.bytes // 2]
    pss = {}
    with start(bench.folder(), NO_DELAY) as receiver, contextlib.ExitStack() as wires:
        warm(receiver)
        for associations in (0, FEW, MANY):
            for _ in range(associations - max(pss, default=0)):
                wire = wires.enter_context(
                    Wire.associate(
                        receiver.port,
                        called=receiver.called_ae,
                        calling=CALLING_AE,
                        max_length=PATHS[path],
                    )
                )
                wire.sock.sendall(half)
            pss[associations] = _steady_pss(receiver)
    return Held(path, shape.bytes / 1e6, pss)


def _steady_pss(receiver: Listening) -> float:
    """When all that was sent is taken in, memory stays as it is."""
    patience = time.monotonic() + _PATIENCE
    last = -1.0
    while time.monotonic() < patience:
        time.sleep(_STEADY_SECONDS)
        now = sum(map(pss_mib, processes_of(receiver.pids)))
        if abs(now - last) < _STEADY_MIB:
            return now
        last = now
    raise TimeoutError("the memory of the node does not come to rest")

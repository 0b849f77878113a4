"""What one association costs does not depend on what it brings, and it gives all of it back."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.contract.conftest import Node
from tests.contract.wire import Wire, echo_rq, pdu, pdv, store_rq
from tests.raw import CT, Coding, parts

BOUND = 32 << 20
FRAMES, EDGE = 96, 1024
"""An image of 192 MiB."""

PIECE = 1_000_000
"""Bytes in one PDU: about the longest that the node takes."""


def test_an_object_of_many_times_the_memory_of_an_association(node: Node) -> None:
    coding = Coding()
    elements = parts(coding, rows=EDGE, columns=EDGE)
    elements["photometric"] += coding.element(0x00280008, "IS", str(FRAMES))
    length = FRAMES * EDGE * EDGE * 2
    elements["pixels"] = coding.head(0x7FE00010, "OW", length)
    nothing = bytes(PIECE)
    with Wire.associate(node.port) as wire:
        tracemalloc.start()
        try:
            wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1.2.3.4"))))
            wire.data(b"".join(elements.values()), last=False)
            for at in range(0, length, PIECE):
                piece = nothing[: length - at]
                wire.data(piece, piece=PIECE, last=at + PIECE >= length)
            status = wire.response().status
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        wire.release()
    assert status == 0
    assert peak < BOUND
    assert node.rows()[0]["size"] > length


@pytest.mark.feature("P02")
@pytest.mark.parametrize(("context", "control"), [(1, 0), (3, 1)])
def test_fragments_that_never_become_a_message(node: Node, context: int, control: int) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(pdu(4, pdv(3, 1, echo_rq()[:20])))
        one = pdu(4, pdv(context, control, bytes(PIECE)))
        with pytest.raises(ConnectionError):
            wire.sock.sendall(one * 100)
    assert node.outcomes() == ["aborted"]
    assert node.files() == []


@pytest.mark.feature("P02")
def test_a_connection_that_is_lost_in_the_middle_of_a_pdu_is_closed_at_once(node: Node) -> None:
    Wire.connect(node.port).sock.close()  # whatever the first connection sets up
    gc.collect()
    gc.disable()
    try:
        before = sockets()
        for _ in range(5):
            with Wire.associate(node.port) as wire:
                wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1.2.3.4")))[:-7])
        assert node.outcomes() == ["lost"] * 5
        assert sockets() == before
    finally:
        gc.enable()


def sockets() -> int:
    """Sockets that this process holds."""
    names = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return len([name for name in names if name.startswith("socket:")])

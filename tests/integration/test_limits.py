"""What a peer meets at the border of a real node: a full disk, closed doors, garbage."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import PeerError
from dicomnode.net.scu import Peer, echo, send
from tests import factories
from tests.harness import NodeUnderTest
from tests.integration.looks import assert_chain_is_intact, events, send_all

MIB = 1 << 20

PEERS = """\
[[peers]]
ae_title = "CT1"
hosts = ["127.0.0.1/32"]

[[peers]]
ae_title = "ELSEWHERE"
hosts = ["192.0.2.0/24"]

[[peers]]
ae_title = "ECHOONLY"
hosts = ["127.0.0.1/32"]
may = ["echo"]
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: no other test fills it, and a file takes its room at once."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="medai-test-") as folder:
        yield Path(folder)


def free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


@pytest.mark.feature("P02", "P32", "P41")
def test_a_full_disk_is_said_nothing_is_lost_and_the_node_goes_on(
    memory: Path, tmp_path: Path
) -> None:
    first = factories.write(factories.ct_series(4, seed=1), tmp_path / "first")
    second = factories.write(factories.ct_series(4, seed=2), tmp_path / "second")
    ballast = memory / "ballast"
    with NodeUnderTest(memory / "node", min_free=free_bytes(memory) - 16 * MIB) as node:
        send_all(node, first)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 24 * MIB)
        answers = send(second, node.peer)
        assert {answer.status for answer in answers} == {0xA700}
        status, body = node.get("/health/ready")
        assert status == 503
        assert "the disk is below its free-space mark" in body
        assert node.json("status")["problems"] == ["the disk is below its free-space mark"]
        kept = node.rows("SELECT object_key FROM instance")
        assert len(kept) == len(first)
        ballast.unlink()
        assert node.get("/health/ready")[0] == 200
        send_all(node, second)
        node.wait_until(node.at_rest, "rest")
        assert len(node.rows("SELECT 1 FROM instance WHERE state = 'indexed'")) == 8
        (refused,) = [event for event in events(node) if event["action"] == "object.refused"]
        assert refused["detail"]["status"] == "0xA700"
        assert_chain_is_intact(node)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    with NodeUnderTest(tmp_path_factory.mktemp("guarded") / "node", PEERS) as node:
        yield node


@pytest.mark.feature("P25", "P41")
@pytest.mark.parametrize(
    ("called", "calling", "said", "why"),
    [
        ("MEDAI", "STRANGER", "does not know our AE title STRANGER", "calling-ae-not-recognised"),
        ("MEDAI", "ELSEWHERE", "not from this address", "address-not-allowed"),
        ("PACS", "CT1", "it is not called PACS", "called-ae-not-recognised"),
    ],
    ids=["calling AE", "address", "called AE"],
)
def test_a_caller_without_the_right_is_rejected_with_the_reason(
    guarded: NodeUnderTest, called: str, calling: str, said: str, why: str
) -> None:
    host, port = guarded.state.dicom
    before = len(events(guarded))
    with pytest.raises(PeerError, match=said):
        echo(Peer(called, host, port, calling))
    (noted,) = guarded.wait_until(
        lambda: [event for event in events(guarded)[before:] if event["outcome"] == "refused"],
        "the rejection is on record",
    )
    assert noted["detail"]["why"] == why
    assert echo(Peer("MEDAI", host, port, "CT1")) == 0


@pytest.mark.feature("P25")
def test_a_peer_that_may_only_echo_stores_nothing(guarded: NodeUnderTest, tmp_path: Path) -> None:
    host, port = guarded.state.dicom
    peer = Peer("MEDAI", host, port, "ECHOONLY")
    assert echo(peer) == 0
    paths = factories.write(factories.us_image(seed=1), tmp_path)
    try:
        taken = [answer.accepted for answer in send(paths, peer)]
    except PeerError:
        taken = []  # no presentation context for storage was accepted
    assert not any(taken)
    assert not guarded.rows("SELECT 1 FROM instance")


GARBAGE = {
    "web browser": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(64),
    "noise": random.Random(7).randbytes(4096),  # noqa: S311 - any bytes will do
    "endless request": b"\x01\x00\xff\xff\xff\xff" + bytes(64),
    "request of nothing": b"\x01\x00\x00\x00\x00\x00",
    "half a request": b"\x01\x00\x00\x00\x01\x00" + b"\x00\x01\x00\x00MEDAI",
    "P-DATA first": b"\x04\x00\x00\x00\x00\x04\x00\x00\x00\x00",
    "nothing": b"",
}


@pytest.mark.feature("P01", "P02")
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_on_the_port_does_not_disturb_the_next_peer(
    guarded: NodeUnderTest, garbage: bytes
) -> None:
    host, port = guarded.state.dicom
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(garbage)
        with contextlib.suppress(OSError):  # the node may have closed it by now
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                continue
    assert echo(Peer("MEDAI", host, port, "CT1")) == 0
    assert guarded.state.processes["receiver-0"] == 0
    assert "Traceback" not in guarded.log.read_text()

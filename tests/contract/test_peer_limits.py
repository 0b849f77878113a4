"""The limits of a peer: how many associations, and how fast its bytes are taken."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.conftest import StartNode
from tests.contract.test_intake import ECHO, STORE
from tests.contract.wire import Wire
from tests.raw import ct


def peer(ae_title: str, **limits: int) -> dict[str, Any]:
    return {"ae_title": ae_title, "hosts": ["127.0.0.1"]} | limits


def test_a_peer_over_its_limit_waits_and_others_do_not(start: StartNode) -> None:
    node = start(
        node={"max_associations": 3}, peers=[peer("CT1", max_associations=1), peer("TESTER")]
    )
    with Wire.associate(node.port, calling="CT1") as first:
        for _ in range(4):  # a rejected one gives its places back
            with Wire.associate(node.port, calling="CT1") as second:
                assert second.rejected == (2, 3, 2)
        with Wire.associate(node.port) as other:
            assert other.store(ct()).status == 0
            other.release()
        first.release()
    assert node.receiver.wait_until_quiet(20)
    with Wire.associate(node.port, calling="CT1") as again:
        assert again.rejected is None
        again.release()
    assert {event["why"] for event in node.events("association.rejected")} == {
        "peer-limit-exceeded"
    }


def test_as_many_associations_are_open_at_once_as_the_settings_say(start: StartNode) -> None:
    node = start(node={"max_associations": 24})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Wire.associate(node.port)) for _ in range(25)]
        assert [wire.rejected for wire in held] == [None] * 24 + [(2, 3, 2)]
        for wire in held[:-1]:
            assert wire.echo().status == 0
            wire.release()
    assert node.outcomes() == ["released"] * 24


def test_descriptors_beyond_a_thousand_serve_as_well(start: StartNode) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    node = start()
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Wire.associate(node.port) as wire:
            assert wire.sock.fileno() > 1024
            assert wire.echo().status == 0
            assert wire.store(ct()).status == 0
            wire.release()
        assert node.outcomes() == ["released"]
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.feature("P26")
def test_rejected_associations_cost_no_thread_and_few_events(start: StartNode) -> None:
    node = start(peers=[peer("CT1")])
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stranger = stack.enter_context(Wire.associate(node.port, calling="STRANGER"))
            assert stranger.rejected == (1, 1, 3)
        (first,) = node.events("association.rejected")
        assert (first["object"], first["count"]) == ("ae:STRANGER", 1)
        assert threading.active_count() <= before + 2
        with Wire.associate(node.port, calling="CT1") as wire:
            assert wire.store(ct()).status == 0
            wire.release()
    node.stop()
    events = node.events("association.rejected")
    assert [event["count"] for event in events] == [1, 39]
    assert {event["address"] for event in events} == {"127.0.0.1"}


def test_connections_that_say_nothing_leave_descriptors_for_others(start: StartNode) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        node = start()
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", node.port)
            idle = [stack.enter_context(socket.create_connection(address)) for _ in range(300)]
            with Wire.associate(node.port) as wire:
                assert wire.store(ct()).status == 0
                wire.release()
            assert node.outcomes() == ["released"]
            for sock in idle:
                sock.settimeout(5)
            assert [sock.recv(1) for sock in idle[:40]] == [b""] * 40  # 256 may wait, no more
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_title_for_any_shares_one_limit(start: StartNode) -> None:
    node = start(peers=[peer("*", max_associations=1)])
    with Wire.associate(node.port, calling="CT1") as first:
        with Wire.associate(node.port, calling="CT2") as second:
            assert second.rejected == (2, 3, 2)
        first.release()


RATE = 1 << 19


@pytest.mark.parametrize("senders", [1, 3])
def test_bytes_are_taken_at_the_rate_of_the_peer_and_none_is_lost(
    start: StartNode, senders: int
) -> None:
    node = start(peers=[peer("TESTER", max_bytes_per_second=RATE), peer("OTHER")])
    rows = 600 // senders

    def send(number: int) -> bytes:
        uid = f"1.2.{number}"
        data = ct(sop_instance=uid, rows=rows, columns=500)
        with Wire.associate(node.port) as wire:
            assert wire.store(data, uid).status == 0
            wire.release()
        return data

    with ThreadPoolExecutor(senders) as pool:
        began = time.monotonic()
        sending = [pool.submit(send, number) for number in range(senders)]
        with Wire.associate(node.port, [STORE, ECHO], calling="OTHER") as other:
            assert other.echo().status == 0
            other.release()
        sent = [each.result() for each in sending]
        took = time.monotonic() - began
    assert sorted(node.stored()) == sorted(sent)
    # What comes last is paid for by whoever reads next.
    assert took > (sum(map(len, sent)) / RATE) - 0.1 * senders - 0.1


def test_a_slowed_association_is_broken_off_at_a_stop(start: StartNode) -> None:
    node = start(peers=[peer("TESTER", max_bytes_per_second=1 << 16)])
    with Wire.associate(node.port) as wire:
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(wire.store, ct(rows=3000, columns=1000))
            node.stop(0.0)
            assert time.monotonic() - began < 15  # the object takes 90 s at that rate
            with contextlib.suppress(OSError):  # the node may have closed it
                wire.sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises((OSError, AssertionError)):
                sending.result()
    assert len(node.outcomes()) == 1
    assert node.rows() == []

"""What intake promises a sender, on the short path and on pynetdicom's alike."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import OutOfSpaceError
from tests.contract.conftest import Node, StartNode
from tests.contract.wire import (
    ECHO,
    STORE,
    VERIFICATION,
    Wire,
    associate_rq,
    command,
    pdu,
    pdv,
    store_rq,
    store_until_refused,
)
from tests.raw import BIG, CT, DEFLATED, EXPLICIT, JPEG, SYNTAXES, Coding, ct, parts
from tests.storage_rows import ready_job, some_jobs

ON_ONE_NODE = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MR = "1.2.840.10008.5.1.4.1.1.4"


def without(name: str, syntax: str = EXPLICIT) -> bytes:
    elements = parts(Coding(syntax))
    del elements[name]
    return Coding(syntax).finish(b"".join(elements.values()))


@pytest.mark.feature("P03", "P05")
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_sent_is_stored_byte_for_byte(node: Node, syntax: str) -> None:
    data = ct(syntax)
    with Wire.associate(node.port, [(1, CT, (syntax,))]) as wire:
        assert wire.accepted == {1: syntax}
        answer = wire.store(data, message_id=7)
        wire.release()
    assert (answer.field, answer.message_id, answer.status) == (0x8001, 7, 0x0000)
    assert (answer.comment, answer.instance) == ("", "1.2.3.4")
    assert node.stored() == [data]
    (row,) = node.rows()
    assert row["transfer_syntax_uid"] == syntax
    assert (row["study_instance_uid"], row["series_instance_uid"]) == ("1.2.3", "1.2.3.1")
    assert node.outcomes() == ["released"]


@pytest.mark.feature("P03", "P05")
@ON_ONE_NODE
@given(
    syntax=st.sampled_from(SYNTAXES),
    private=st.binary(max_size=3000),
    rows=st.integers(1, 40),
    piece=st.integers(20, 20_000),
)
def test_any_object_comes_back_identical(
    node: Node, syntax: str, private: bytes, rows: int, piece: int
) -> None:
    uid = f"1.8.{len(node.rows())}"
    coding = Coding(syntax)
    elements = parts(coding, sop_instance=uid, rows=rows)
    elements["private"] = coding.element(0x00091001, "OB", private)
    data = coding.finish(b"".join(elements.values()))
    with Wire.associate(node.port, [(1, CT, (syntax,))]) as wire:
        assert wire.store(data, uid, piece=piece).status == 0
        wire.release()
    key = node.rows()[-1]["object_key"]
    assert node.receiver.store.path(key).read_bytes().endswith(data)


@pytest.mark.feature("P26")
def test_an_association_is_covered_in_the_audit_chain(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        for number in range(3):
            wire.store(ct(sop_instance=f"1.2.{number}"), f"1.2.{number}")
        wire.release()
    assert node.outcomes() == ["released"]
    (event,) = node.events("instances.received")
    assert (event["count"], event["ended"]) == (3, "released")


@pytest.mark.parametrize("piece", [40, 333, 16000])
def test_how_the_message_is_cut_into_pdus_does_not_matter(node: Node, piece: int) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(), piece=piece).status == 0
        everything = pdu(4, pdv(1, 3, store_rq(CT, "1.2.9")) + pdv(1, 2, ct(sop_instance="1.2.9")))
        for at in range(0, len(everything), 11):
            wire.sock.sendall(everything[at : at + 11])
        assert wire.response().status == 0
        wire.release()
    assert len(node.stored()) == 2


def test_an_object_larger_than_every_buffer(node: Node) -> None:
    data = ct(rows=1500, columns=1000)
    with Wire.associate(node.port) as wire:
        assert wire.store(data, piece=900_000).status == 0
        assert wire.store(ct()).status == 0
    assert node.stored()[0] == data


def test_echo_before_between_and_after(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        for message_id in (1, 3):
            answer = wire.echo(message_id)
            assert (answer.field, answer.message_id, answer.status) == (0x8030, message_id, 0)
            assert wire.store(ct(sop_instance=f"1.{message_id}"), f"1.{message_id}").status == 0
        wire.echo()
        wire.release()
    assert node.outcomes() == ["released"]


@pytest.mark.feature("P04")
def test_the_same_bytes_twice_are_stored_once(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct()).status == 0
        assert wire.store(ct()).status == 0
    assert len(node.stored()) == 1
    assert len(node.files()) == 1


def test_the_same_uid_with_other_bytes_is_a_revision(node: Node) -> None:
    corrected = ct(name="Phantom^Two")
    with Wire.associate(node.port, [STORE, (5, CT, (JPEG,))]) as wire:
        assert wire.store(ct()).status == 0
        assert wire.store(corrected).status == 0
        assert wire.store(ct(JPEG), context=5).status == 0
    assert node.stored() == [ct(), corrected, ct(JPEG)]
    assert [row["revision"] for row in node.rows()] == [0, 1, 2]


@pytest.mark.feature("P04")
def test_four_associations_send_the_same_instance_at_once(node: Node) -> None:
    together = threading.Barrier(4)

    def send(_: int) -> list[int]:
        with Wire.associate(node.port) as wire:
            statuses = []
            for number in range(10):
                uid = f"1.2.3.{number}"
                together.wait()
                statuses.append(wire.store(ct(sop_instance=uid), uid).status)
            wire.release()
            return statuses

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send, range(4))) == [[0] * 10] * 4
    assert len(node.stored()) == 10
    assert len(node.files()) == 10


@pytest.mark.feature("P04")
@ON_ONE_NODE
@given(data=st.data())
def test_a_batch_ends_with_each_object_stored_once(node: Node, data: st.DataObject) -> None:
    before = len(node.rows())
    fresh = [f"1.9.{before}.{number}" for number in range(data.draw(st.integers(1, 4)))]
    order = data.draw(st.lists(st.sampled_from(fresh), max_size=4)) + fresh
    order = data.draw(st.permutations(order))
    cut = data.draw(st.integers(0, len(order)))
    for part in (order[:cut], order[cut:]):
        if part:
            with Wire.associate(node.port) as wire:
                assert {wire.store(ct(sop_instance=uid), uid).status for uid in part} == {0}
                wire.release()
    stored = [row["sop_instance_uid"] for row in node.rows()[before:]]
    assert sorted(stored) == sorted(fresh)


REFUSALS = {
    "cut off": (0xC000, ct()[:-9], "ends inside an element"),
    "rubbish": (0xC000, b"\x89PNG\r\n\x1a\n" + bytes(30), ""),
    "empty": (0xC000, b"", "missing"),
    "no study": (0xC000, without("study"), "Study Instance UID (0020,000D) is missing"),
    "no series": (0xC000, without("series"), "Series Instance UID"),
    "no rows": (0xC000, without("rows"), "pixel data without Rows"),
    "wrong pixels": (
        0xC000,
        b"".join((parts(Coding()) | {"pixels": Coding().pixels(50)}).values()),
        "pixel data has 50 bytes",
    ),
    "implicit as explicit": (0xC000, ct("1.2.840.10008.1.2"), "value representation"),
    "bytes after": (0xC000, ct() + b"\x00\x01", "ends inside"),
    "other instance": (0xA900, ct(sop_instance="1.2.3.5"), "differ"),
    "other class": (0xA900, ct(sop_class=MR), "differ"),
}


@pytest.mark.feature("P01", "P02", "P41")
@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_object_is_refused_quarantined_and_explained(node: Node, case: str) -> None:
    status, data, comment = REFUSALS[case]
    with Wire.associate(node.port) as wire:
        answer = wire.store(data)
        assert answer.status == status
        assert comment in answer.comment
        assert 0 < len(answer.comment) <= 64
        assert wire.store(ct()).status == 0  # the association goes on
        wire.release()
    assert node.stored() == [ct()]
    assert len(node.files()) == 1
    (note,) = node.quarantined()
    assert note["status"] == f"0x{status:04X}"
    (event,) = node.events("object.refused")
    assert event["digest"] == note["digest"]


@pytest.mark.feature("P01", "P02")
def test_a_small_object_cut_off_at_every_byte(node: Node) -> None:
    pieces = list(parts(Coding()).values())
    whole = {len(b"".join(pieces[:count])) for count in range(11, len(pieces) + 1)}
    data = ct()
    accepted = set()
    with Wire.associate(node.port) as wire:
        for length in range(len(data) + 1):
            if wire.store(data[:length]).status == 0:
                accepted.add(length)
    assert accepted == whole
    assert len(node.stored()) == len(whole)


@pytest.mark.feature("P01", "P02")
@ON_ONE_NODE
@given(at=st.integers(0, 500), value=st.integers(0, 255), size=st.integers(0, 600))
def test_no_wrong_success_for_damaged_bytes(node: Node, at: int, value: int, size: int) -> None:
    data = bytearray(ct())
    data[at % len(data)] = value
    data = data[: max(size, 1)]
    before = len(node.rows())
    with Wire.associate(node.port) as wire:
        answer = wire.store(bytes(data))
        wire.release()
    assert answer.status in (0x0000, 0xA900, 0xC000)
    if answer.status == 0:
        assert bytes(data) in node.stored()
    else:
        assert len(node.rows()) == before


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, on its own path
@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2\x01.3", "..", "a"])
@pytest.mark.feature("P51")
def test_a_command_with_something_else_than_a_uid(node: Node, uid: str) -> None:
    with Wire.associate(node.port) as wire:
        answer = wire.store(ct(), uid)
        assert answer.status == 0xC000
        assert "not a UID" in answer.comment
    assert node.files() == []


@pytest.mark.filterwarnings("ignore:.*UI")
def test_a_command_that_lacks_the_uid_ends_the_association_at_once(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.settimeout(5)
        wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, ""))))
        wire.data(ct())
        assert wire.read()[0] == 0x07
    assert node.outcomes() == ["aborted"]
    assert node.rows() == []


def test_a_uid_longer_than_a_uid_ends_the_association(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1" * 500))))
        wire.data(ct())
        assert wire.closed()
    assert node.outcomes() == ["aborted"]


def test_a_sop_class_that_is_not_the_contexts(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        answer = wire.store(ct(sop_class=MR), sop_class=MR)
        assert answer.status == 0x0122
        assert wire.store(ct()).status == 0


@pytest.mark.feature("P25")
def test_a_peer_that_may_not_store(start: StartNode) -> None:
    node = start(peers=[{"ae_title": "TESTER", "hosts": ["127.0.0.1"], "may": ["echo"]}])
    with Wire.associate(node.port) as wire:
        assert wire.echo().status == 0
        for _ in range(3):
            answer = wire.store(ct())
            assert answer.status == 0x0124
            assert answer.comment
    assert node.files() == []
    assert len(node.events("object.refused")) == 1


@pytest.mark.parametrize(("own_results", "status"), [("store", 0x0000), ("refuse", 0x0122)])
def test_a_result_of_this_node_sent_back(start: StartNode, own_results: str, status: int) -> None:
    node = start(storage={"own_results": own_results})
    (job,) = some_jobs(node.ledger, 1)
    deliveries = ready_job(node.ledger, job, kinds=["sr"])
    uid = deliveries[0].result.sop_instance_uid
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(sop_instance=uid), instance=uid).status == status
        assert wire.store(ct()).status == 0


@pytest.mark.feature("P02")
def test_below_the_free_space_mark_nothing_is_written(start: StartNode) -> None:
    node = start(storage={"min_free": 1 << 60}, journal=False)
    with Wire.associate(node.port) as wire:
        answer = wire.store(ct())
        assert answer.status == 0xA700
        assert "space" in answer.comment
        wire.release()
    assert node.files() == []
    assert node.events("object.refused")[0]["reason"] == "space"


@pytest.mark.feature("P02")
@pytest.mark.parametrize("call", [("write", "writev", "pwritev"), ("fsync", "pwritev")])
def test_a_disk_that_fills_in_the_middle(
    node: Node, monkeypatch: pytest.MonkeyPatch, call: tuple[str, ...]
) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(sop_instance="1.1"), "1.1").status == 0
        with monkeypatch.context() as full:

            def refuse(fd: int, *_: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            for name in call:
                full.setattr(os, name, refuse)
            assert wire.store(ct(rows=300, columns=300), piece=90_000).status == 0xA700
        assert len(node.files()) == 1
        assert wire.store(ct()).status == 0  # there is room again
    assert len(node.stored()) == 2
    assert node.quarantined() == []


@pytest.mark.feature("P02")
def test_the_free_space_mark_holds_in_the_middle_of_an_object(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.net.intake.LOOK_BYTES", 1 << 16)
    looks = iter([True])

    def look() -> None:
        if not next(looks, False):
            raise OutOfSpaceError("the disk is below its free-space mark")

    with Wire.associate(node.port) as wire:
        monkeypatch.setattr(node.receiver.store, "check_room", look)
        answer = wire.store(ct(rows=300, columns=300), piece=9000)
        assert answer.status == 0xA700
        assert "space" in answer.comment
        wire.release()
    assert node.files() == []


def test_a_database_that_cannot_be_written(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        assert wire.store(ct(sop_instance="1.1"), "1.1").status == 0
        node.ledger.database.execute_sql("ALTER TABLE instance RENAME TO away")
        acknowledged, refused = store_until_refused(wire)
        node.ledger.database.execute_sql("ALTER TABLE away RENAME TO instance")
        assert wire.store(ct()).status == 0
        wire.release()
    kept = {row["sop_instance_uid"] for row in node.rows()}
    assert {"1.1", "1.2.3.4", *acknowledged} <= kept <= {"1.1", "1.2.3.4", *acknowledged, refused}
    assert len(node.stored()) == len(kept)
    assert len(node.files()) == len(kept)


@pytest.mark.feature("P25")
@pytest.mark.parametrize(
    ("called", "calling", "peers", "rejection"),
    [
        ("OTHER", "TESTER", [], (1, 1, 7)),
        ("MEDAI", "STRANGER", [("TESTER", "127.0.0.1")], (1, 1, 3)),
        ("MEDAI", "TESTER", [("TESTER", "10.0.0.0/8")], (1, 1, 3)),
        ("MEDAI", "TESTER", [("TESTER", "10.0.0.0/8"), ("TESTER", "127.0.0.0/8")], None),
        ("MEDAI", "ANYONE", [("*", "127.0.0.0/8")], None),
        ("MEDAI", "ANYONE", [], None),
    ],
)
def test_who_may_call(
    start: StartNode,
    called: str,
    calling: str,
    peers: list[tuple[str, str]],
    rejection: tuple[int, int, int] | None,
) -> None:
    node = start(peers=[{"ae_title": title, "hosts": [host]} for title, host in peers])
    with Wire.associate(node.port, called=called, calling=calling) as wire:
        assert wire.rejected == rejection
        if rejection is None:
            wire.release()
    assert node.receiver.wait_until_quiet(20)
    assert len(node.events("association.rejected")) == (rejection is not None)


def test_more_associations_than_allowed(start: StartNode) -> None:
    node = start(node={"max_associations": 1})
    with Wire.associate(node.port) as first:
        with Wire.associate(node.port) as second:
            assert second.rejected == (2, 3, 2)
        first.release()
    assert node.receiver.wait_until_quiet(20)
    with Wire.associate(node.port) as third:
        assert third.rejected is None
        third.release()


def test_what_is_negotiated(start: StartNode) -> None:
    node = start(node={"private_sop_classes": ["1.2.840.113619.4.30"]})
    label_map, private, unknown = "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.113619.4.30", "1.9.9"
    asked = [
        (1, CT, (JPEG, EXPLICIT)),
        (3, label_map, (DEFLATED,)),
        (5, private, (BIG, EXPLICIT)),
        (7, unknown, (EXPLICIT,)),
        (9, CT, ("1.9.9.9",)),
        (11, VERIFICATION, ("1.2.840.10008.1.2",)),
    ]
    with Wire.associate(node.port, asked) as wire:
        assert wire.accepted == {1: JPEG, 3: DEFLATED, 5: BIG, 11: "1.2.840.10008.1.2"}
        for context, sop_class, syntax in ((3, label_map, DEFLATED), (5, private, BIG)):
            data = ct(syntax, sop_class=sop_class)
            assert wire.store(data, sop_class=sop_class, context=context).status == 0
        wire.release()


def test_a_context_that_was_not_accepted(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(pdu(4, pdv(99, 3, store_rq(CT, "1.2.3.4"))))
        wire.data(ct(), 99)
        assert wire.closed()
    assert node.files() == []
    assert node.outcomes() == ["aborted"]


def test_a_service_that_is_not_offered(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        find = command(sop_class=CT, field=0x0020, message_id=1, priority=0, data_set=0x0001)
        wire.sock.sendall(pdu(4, pdv(1, 3, find)))
        wire.data(ct())
        # Ignored by pynetdicom's storage service or aborted; never stored, and then it ends.
        wire.sock.sendall(pdu(5, bytes(4)))
        wire.closed()
    assert node.files() == []
    assert len(node.outcomes()) == 1


def test_a_command_set_in_two_fragments(node: Node) -> None:
    asked = store_rq(CT, "1.2.3.4")
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(pdu(4, pdv(1, 1, asked[:30])) + pdu(4, pdv(1, 3, asked[30:])))
        wire.data(ct())
        assert wire.response().status == 0
        assert wire.store(ct(sop_instance="1.5"), "1.5").status == 0
        wire.release()
    assert len(node.stored()) == 2
    assert node.outcomes() == ["released"]


def test_a_peer_killed_in_mid_object(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1.2.3.4"))))
        wire.data(ct()[:100], last=False)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert node.outcomes() == ["lost"]
    assert node.files() == []
    assert node.rows() == []


@pytest.mark.parametrize("middle", [False, True])
def test_an_abort(node: Node, middle: bool) -> None:
    with Wire.associate(node.port) as wire:
        wire.store(ct())
        if middle:
            wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1.2.3.5"))))
            wire.data(ct(sop_instance="1.2.3.5")[:100], last=False)
        wire.sock.sendall(pdu(7, bytes(4)))
        wire.closed()
    assert node.outcomes() == ["aborted"]
    assert len(node.files()) == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
        pdu(4, pdv(1, 3, b"")),
        b"\x01\x00\xff\xff\xff\xff" + bytes(100),
        b"\xff" * 4096,
    ],
)
def test_rubbish_in_place_of_a_request(node: Node, rubbish: bytes) -> None:
    with Wire.connect(node.port) as wire:
        wire.sock.sendall(rubbish)
        assert wire.closed()
    with Wire.associate(node.port) as wire:
        assert wire.store(ct()).status == 0


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 64, b"\x04\x00\xff\xff\xff\xff", pdu(4, b"\x00\x00\x00\xff\x01\x03")]
)
def test_rubbish_after_the_request(node: Node, rubbish: bytes) -> None:
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(rubbish)
        assert wire.closed()
    with Wire.associate(node.port) as wire:
        assert wire.store(ct()).status == 0
        wire.release()
    assert node.outcomes()[1] == "released"


def test_connections_that_never_ask_are_dropped(start: StartNode) -> None:
    node = start(artim_seconds=0.3)
    with Wire.connect(node.port) as silent, Wire.connect(node.port) as half:
        half.sock.sendall(associate_rq("MEDAI", "TESTER", [STORE])[:50])
        with Wire.connect(node.port):
            pass  # a probe of a load balancer
        assert not silent.closed()
        assert not half.closed()
    assert node.ledger.database.execute_sql("SELECT count(*) FROM association").fetchone()[0] == 0


@pytest.mark.parametrize("half", [b"", pdu(4, pdv(1, 3, store_rq(CT, "1.2")))[:20]])
def test_an_association_that_falls_silent_is_aborted(start: StartNode, half: bytes) -> None:
    node = start(idle_seconds=0.4)
    with Wire.associate(node.port) as wire:
        wire.sock.sendall(half)
        wire.closed()
    assert len(node.outcomes()) == 1
    assert node.files() == []


def test_a_drain_lets_running_associations_finish(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.store(ct(sop_instance="1.1"), "1.1")
        stopping = threading.Thread(target=node.stop, args=(20.0,))
        stopping.start()
        assert wire.store(ct()).status == 0
        wire.release()
        stopping.join()
    assert len(node.stored()) == 2


def test_after_the_drain_objects_are_refused_and_the_association_released(node: Node) -> None:
    with Wire.associate(node.port) as wire:
        wire.store(ct(sop_instance="1.1"), "1.1")
        stopping = threading.Thread(target=node.stop, args=(0.0,))
        stopping.start()
        while (answer := wire.store(ct())).status == 0:
            pass  # the drain has not begun at this very moment
        assert answer.status == 0xA700
        assert "shutting down" in answer.comment
        kind, _ = wire.read()
        assert kind == 0x05  # A-RELEASE-RQ
        wire.sock.sendall(pdu(6, bytes(4)))
        stopping.join()
    assert node.outcomes() == ["released"]


def test_a_stop_does_not_wait_for_a_peer_that_is_silent(node: Node) -> None:
    with Wire.associate(node.port, [STORE, ECHO]) as wire:
        wire.sock.sendall(pdu(4, pdv(1, 3, store_rq(CT, "1.2.3.4"))))
        wire.data(ct()[:50], last=False)
        node.stop(0.0)
        wire.closed()
    assert len(node.outcomes()) == 1
    assert node.files() == []

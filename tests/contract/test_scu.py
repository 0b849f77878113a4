"""The node as requestor, against its own receiver: bytes go out as they lie on disk."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path

import pytest

from config.errors import NotDicomError, PeerError
from dicomnode.net.scu import (
    Peer,
    Sent,
    contexts_for,
    echo,
    file_facts,
    open_association_to,
    send,
)
from storage.part10 import file_head
from tests.contract.conftest import Node, StartNode
from tests.raw import CT, EXPLICIT, SYNTAXES, ct


def write(folder: Path, uid: str, syntax: str = EXPLICIT, sop_class: str = CT) -> Path:
    path = folder / f"{uid}.dcm"
    data = ct(syntax, sop_instance=uid, sop_class=sop_class)
    path.write_bytes(file_head(sop_class, uid, syntax) + data)
    return path


def peer(node: Node, ae_title: str = "MEDAI") -> Peer:
    return Peer(ae_title, "127.0.0.1", node.port, calling_ae="TESTER")


def test_echo(node: Node) -> None:
    assert echo(peer(node)) == 0
    assert node.outcomes() == ["released"]


@pytest.mark.feature("P03", "P05")
def test_files_of_every_kind_arrive_byte_for_byte(node: Node, tmp_path: Path) -> None:
    paths = [write(tmp_path, f"1.2.{number}", syntax) for number, syntax in enumerate(SYNTAXES)]
    seen: list[Sent] = []
    results = send(paths, peer(node), seen.append)
    assert [result.path for result in results] == paths
    assert all(result.accepted for result in results)
    assert seen == results
    expected = [ct(syntax, sop_instance=f"1.2.{n}") for n, syntax in enumerate(SYNTAXES)]
    assert node.stored() == expected


def test_a_refusal_and_what_is_no_dicom_are_reported(node: Node, tmp_path: Path) -> None:
    good, broken, other = write(tmp_path, "1.1"), write(tmp_path, "1.2"), tmp_path / "notes.txt"
    broken.write_bytes(broken.read_bytes()[:-8])
    other.write_text("hello")
    results = {result.path: result for result in send([good, broken, other], peer(node))}
    assert results[good].accepted
    assert (results[broken].status, results[broken].accepted) == (0xC000, False)
    assert results[other].status is None
    assert "not a DICOM" in results[other].why


def test_more_contexts_than_an_association_holds(start: StartNode, tmp_path: Path) -> None:
    classes = [f"1.9.8.{number}" for number in range(130)]
    node = start(node={"private_sop_classes": classes})
    paths = [write(tmp_path, f"1.7.{n}", sop_class=uid) for n, uid in enumerate(classes)]
    assert all(result.accepted for result in send(paths, peer(node)))
    assert node.outcomes() == ["released", "released"]


def test_one_association_for_many_files(node: Node, tmp_path: Path) -> None:
    paths = [write(tmp_path, f"1.3.{number}") for number in range(3)]
    (contexts,) = contexts_for(file_facts(path) for path in paths)
    with open_association_to(peer(node), contexts) as link:
        assert [link.store(path) for path in paths] == [0, 0, 0]
        with pytest.raises(PeerError, match="no presentation context"):
            link.store(write(tmp_path, "1.4", sop_class="1.2.840.10008.5.1.4.1.1.4"))
        with pytest.raises(NotDicomError):
            link.store(tmp_path / "missing.dcm")
    assert node.outcomes() == ["released"]


@pytest.mark.feature("P41")
def test_a_rejection_is_said_in_words(start: StartNode) -> None:
    node = start(peers=[{"ae_title": "OTHER", "hosts": ["127.0.0.1"]}])
    with pytest.raises(PeerError, match="does not know our AE title TESTER"):
        echo(peer(node))
    with pytest.raises(PeerError, match="it is not called NOBODY"):
        echo(peer(node, "NOBODY"))


@pytest.mark.feature("P41")
def test_nobody_there_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerError, match="cannot be reached"):
        echo(Peer("MEDAI", "127.0.0.1", port))


@pytest.mark.feature("P41")
def test_what_goes_wrong_is_raised_and_not_logged_by_the_library(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("pynetdicom"), "level", logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(PeerError):
        echo(Peer("NOBODY", "127.0.0.1", port))
    assert caplog.records == []


def test_a_peer_that_takes_no_context_is_said_in_words(node: Node, tmp_path: Path) -> None:
    path = write(tmp_path, "1.5", sop_class="1.9.9.9")
    with pytest.raises(PeerError, match="none of the presentation contexts"):
        send([path], peer(node))


def test_a_peer_that_hangs_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(PeerError, match="aborted the association"):
            echo(Peer("MEDAI", "127.0.0.1", listener.getsockname()[1]))
        thread.join()

"""A receiver on a free port, with what it stored in plain sight."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.schema import Settings
from dicomnode.net.scp import Limits, Receiver
from storage.db import Ledger, open_ledger
from storage.part10 import data_set_offset
from tests.certificates import Authority, client_side
from tests.contract import wire


@dataclass
class Node:
    """A running receiver and its data folder."""

    data_dir: Path
    receiver: Receiver
    ledger: Ledger
    listener: socket.socket
    stopped: bool = False

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def settle(self) -> None:
        """Have files and rows made of what lies in the intake journal."""
        patience = time.monotonic() + 20
        while not self.receiver.intake.settler.wait_until_settled(None, 1):
            assert time.monotonic() < patience

    def rows(self) -> list[dict[str, Any]]:
        self.settle()
        cursor = self.ledger.database.execute_sql("SELECT * FROM instance ORDER BY id")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def stored(self) -> list[bytes]:
        """The data sets that rows name, checked against their digests."""
        found = []
        for row in self.rows():
            data = self.receiver.store.path(row["object_key"]).read_bytes()
            data = data[data_set_offset(data) :]
            assert hashlib.sha256(data).hexdigest() == row["digest"]
            assert len(data) == row["size"]
            found.append(data)
        return found

    def files(self) -> list[Path]:
        """Every file of an object, named by a row or not."""
        self.settle()
        return [
            path
            for folder in ("objects", "spool")
            for path in (self.data_dir / folder).rglob("*")
            if path.is_file() and re.fullmatch(r"[0-9]+(\.dcm)?", path.name)
        ]

    def quarantined(self) -> list[dict[str, Any]]:
        folder = self.data_dir / "quarantine"
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    def events(self, action: str) -> list[dict[str, Any]]:
        if not self.stopped:
            self.receiver.rejections.wait()
        cursor = self.ledger.database.execute_sql(
            "SELECT object, outcome, detail FROM audit_event WHERE action = ? ORDER BY seq",
            (action,),
        )
        return [
            {"object": subject, "outcome": outcome, **json.loads(detail)}
            for subject, outcome, detail in cursor.fetchall()
        ]

    def outcomes(self) -> list[str]:
        """How the associations ended, once all have."""
        assert self.receiver.wait_until_quiet(20)
        cursor = self.ledger.database.execute_sql("SELECT outcome FROM association ORDER BY id")
        return [row[0] for row in cursor.fetchall()]

    def stop(self, drain_seconds: float = 0.0) -> None:
        if not self.stopped:
            self.stopped = True
            self.receiver.stop(drain_seconds)


StartNode = Callable[..., Node]


def wait_for_journal(receiver: Receiver) -> None:
    """Wait until small objects go to the intake journal."""
    patience = time.monotonic() + 20
    settler = receiver.intake.settler
    while settler.journal is None or not settler.journal.segments():
        assert time.monotonic() < patience
        time.sleep(0.001)


@pytest.fixture(params=["short", "pynetdicom"])
def path(request: pytest.FixtureRequest) -> str:
    """Each test runs on both paths of the receiver."""
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path, path: str) -> Iterator[StartNode]:
    """Start a receiver; its settings and limits as keyword arguments."""
    nodes: list[Node] = []

    def begin(
        *,
        artim_seconds: float = 20,
        idle_seconds: float = 20,
        journal: bool = True,
        **settings: Any,
    ) -> Node:
        node = {"ae_title": "MEDAI", "data_dir": tmp_path} | settings.pop("node", {})
        listener = socket.create_server(("127.0.0.1", 0))
        if path.endswith("over TLS"):
            authority = Authority(tmp_path)
            identity = authority.issue("node")
            node["tls"] = vars(identity)
            wire.TLS_PORTS[listener.getsockname()[1]] = client_side(authority.path)
        ledger = open_ledger(tmp_path)
        limits = Limits(artim_seconds, idle_seconds, short_path=path.startswith("short"))
        receiver = Receiver(
            Settings(node=node, **settings), tmp_path, listener, 0, ledger=ledger, limits=limits
        )
        receiver.start()
        nodes.append(Node(tmp_path, receiver, ledger, listener))
        if journal and not path.endswith("without journal"):
            wait_for_journal(receiver)
        return nodes[-1]

    yield begin
    wire.TLS_PORTS.clear()
    for node in nodes:
        node.stop()
        node.listener.close()
        node.ledger.close()
    assert [thread.name for thread in threading.enumerate() if "door" in thread.name] == []


@pytest.fixture
def node(start: StartNode) -> Node:
    """A receiver with the settings as they come."""
    return start()

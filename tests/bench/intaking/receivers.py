"""Who receives: the node, and programs of other makers beside it, each on a free loopback port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.schema import Settings
from storage.db import open_ledger
from tests.bench.intaking.sender import CALLING_AE
from tests.bench.intaking.serve import AE_TITLE
from tests.bench.processes import cpu_seconds
from tests.contract.wire import Wire
from tests.harness import NodeUnderTest

NO_DELAY = {"TCP_NODELAY": "1"}
"""The environment in which DCMTK sends and answers without Nagle's algorithm."""

PATIENCE = 60.0
WARM_ASSOCIATIONS = 4
_IDLE_SECONDS = 0.15
_IDLE_SHARE = 0.1


@dataclass(frozen=True)
class Listening:
    """A receiver that runs.

    Attributes:
        port: Where it listens, on this machine.
        called_ae: Its AE title.
        pids: Its processes; those that they started are its own too.
        data_dir: Of a node: the folder that its database lies in.
    """

    port: int
    called_ae: str
    pids: tuple[int, ...]
    data_dir: Path | None = None


Start = Callable[[Path, Mapping[str, str]], AbstractContextManager[Listening]]
"""Starts a receiver on a folder, with more environment; it ends with the block."""


@dataclass(frozen=True)
class Receiver:
    """One kind of receiver.

    Attributes:
        start: Starts it.
        program: What must be installed.
    """

    start: Start
    program: str = ""

    @property
    def installed(self) -> bool:
        return not self.program or shutil.which(self.program) is not None


@contextlib.contextmanager
def node(
    folder: Path, env: Mapping[str, str], *, receivers: int = 0, profile: Path | None = None
) -> Iterator[Listening]:
    """The node's receiver processes alone, as many as it starts by itself or as are asked for."""
    count = Settings(node={"receivers": receivers}).node.receiver_processes
    open_ledger(folder).close()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
        (folder / "receivers.log").open("wb") as log,
    ):
        command = (sys.executable, "-m", "tests.bench.intaking.serve", str(folder))
        processes = [
            subprocess.Popen(
                [*command, str(listener.fileno()), str(index), *([profile] if profile else [])],
                env={**os.environ, **env},
                pass_fds=[listener.fileno()],
                stderr=log,
            )
            for index in range(count)
        ]
        try:
            pids = tuple(process.pid for process in processes)
            yield Listening(listener.getsockname()[1], AE_TITLE, pids, folder)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


@contextlib.contextmanager
def whole_node(folder: Path, env: Mapping[str, str]) -> Iterator[Listening]:
    """``medai-node run`` with its settings as they come: worker and web beside the receivers."""
    under_test = NodeUnderTest(folder, receivers=0, quiet=10)
    with under_test as running:
        state = running.state
        yield Listening(state.dicom[1], state.ae_title, (state.pid,), running.data_dir)
        running.stop()


def program(
    *command: str, settings: Callable[[Path, int, int], dict[str, object]] | None = None
) -> Start:
    """A receiver that is a program; PORT, FOLDER and CONFIG in its command are filled in.

    Args:
        command: The program and its arguments.
        settings: Gives what stands in its settings file, from folder, port and a second port.
    """

    @contextlib.contextmanager
    def start(folder: Path, env: Mapping[str, str]) -> Iterator[Listening]:
        with contextlib.ExitStack() as probes:
            ports = [
                probes.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
                for _ in range(2)
            ]
        config = folder / "settings.json"
        if settings is not None:
            config.write_text(json.dumps(settings(folder, *ports)))
        values = {"PORT": str(ports[0]), "FOLDER": str(folder), "CONFIG": str(config)}
        with (folder / "program.log").open("wb") as log:
            process = subprocess.Popen(
                [values.get(part, part) for part in command],
                env={**os.environ, **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Listening(ports[0], AE_TITLE, (process.pid,))
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


def orthanc_settings(folder: Path, port: int, web: int) -> dict[str, object]:
    """Orthanc as Debian ships it, without plugins, for senders of this machine alone.

    Debian's version binds every address whatever it is told.
    """
    return {
        "Name": "receiver of a benchmark",
        "StorageDirectory": str(folder / "objects"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {"bench": [CALLING_AE, "127.0.0.1", 104]},
        "HttpPort": web,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }


ORTHANC = "/usr/sbin/Orthanc"
NODE, WHOLE_NODE = "node", "whole-node"
STORESCP = ("storescp", "--fork", "-od", "FOLDER")
RECEIVERS = {
    NODE: Receiver(node),
    WHOLE_NODE: Receiver(whole_node),
    "storescp": Receiver(program(*STORESCP, "PORT"), "storescp"),
    "storescp+B": Receiver(program(*STORESCP, "+B", "PORT"), "storescp"),
    "Orthanc": Receiver(program(ORTHANC, "CONFIG", settings=orthanc_settings), ORTHANC),
    "pynetdicom": Receiver(
        program(sys.executable, "-m", "pynetdicom", "storescp", "PORT", "-od", "FOLDER", "-q")
    ),
}


def receivers(node_processes: int) -> dict[str, Receiver]:
    """All of them, the node with so many receiver processes; 0 for as many as it starts itself."""
    return {**RECEIVERS, NODE: Receiver(partial(node, receivers=node_processes))}


def warm(receiver: Listening) -> None:
    """Wait until it answers; C-ECHO over a few associations at once; wait until it is idle.

    Raises:
        TimeoutError: It does not answer.
    """
    patience = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as open_wires:
        while True:
            try:
                open_wires.enter_context(_associate(receiver))
                break
            except OSError as error:
                if time.monotonic() > patience:
                    raise TimeoutError("the receiver does not answer") from error
                time.sleep(0.05)
        _wait_until_idle(receiver, patience)
        wires = [
            open_wires.enter_context(_associate(receiver)) for _ in range(WARM_ASSOCIATIONS - 1)
        ]
        for wire in wires:
            assert wire.echo().status == 0
            wire.release()
    _wait_until_idle(receiver, patience)


def _associate(receiver: Listening) -> Wire:
    return Wire.associate(receiver.port, called=receiver.called_ae, calling=CALLING_AE)


def _wait_until_idle(receiver: Listening, patience: float) -> None:
    """Some of its processes may load still while one answers."""
    before = cpu_seconds(receiver.pids)
    while time.monotonic() < patience:
        time.sleep(_IDLE_SECONDS)
        after = cpu_seconds(receiver.pids)
        if after - before < _IDLE_SHARE * _IDLE_SECONDS:
            return
        before = after
    raise TimeoutError("the receiver does not come to rest")

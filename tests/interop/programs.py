"""Programs of other makers, started on free loopback ports and gone when their block ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 30.0
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
NO_DELAY = {"TCP_NODELAY": "1"}
"""The environment in which DCMTK sends and answers without Nagle's algorithm."""


def run(
    *command: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program's exit code and what it said, standard error behind standard output."""
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        env={**os.environ, **(env or {})},
    )


def dciodvfy_errors(path: Path) -> list[str]:
    """The Error lines of ``dciodvfy -new``, without the prefix."""
    done = run("dciodvfy", "-new", path)
    assert done.stdout, f"dciodvfy said nothing of {path.name}"
    return [line for line in done.stdout.splitlines() if line.startswith("Error")]


def pixelmed_errors(path: Path, *, report: bool) -> list[str]:
    """The Error lines of PixelMed's validator of reports, or of the one of other instances."""
    validator = "DicomSRValidator" if report else "DicomInstanceValidator"
    # Its rules are larger than Java allows by default; it does not run for long enough to be
    # compiled with care.
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprGrp", "ExprOp", "TotalOp")]
    options = ["-XX:TieredStopAtLevel=1", *limits, "-cp", "/usr/share/java/pixelmed.jar"]
    lines = run("java", *options, f"com.pixelmed.validate.{validator}", path).stdout.splitlines()
    # It exits with 0 even when it fails itself.
    assert "IOD validation complete" in lines
    return [line for line in lines if line.startswith("Error")]


def dcmsend(port: int, *folders: Path, called_ae: str = "MEDAI", no_delay: bool = False) -> None:
    """Send each folder's files by a ``dcmsend`` of its own, all at once, in their own syntax.

    Args:
        port: The receiver's port on this machine.
        folders: One association each.
        called_ae: Called AE title.
        no_delay: Without Nagle's algorithm; the Debian default is with it.
    """
    command = ["dcmsend", "-v", "-aec", called_ae, "-aet", "DCMTK", "--decompress-never", "+sd"]
    env = {**os.environ, **(NO_DELAY if no_delay else {})}
    senders = [
        subprocess.Popen(
            [*command, "127.0.0.1", str(port), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        for folder in folders
    ]
    said = [sender.communicate(timeout=120)[0] for sender in senders]
    assert not any(sender.returncode for sender in senders), "\n".join(said)


@contextlib.contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        yield [listener.getsockname()[1] for listener in listeners]


class Program:
    """A server in a process group of its own; its output goes to ``folder/NAME.log``."""

    env: Mapping[str, str] = {}

    def __init__(self, folder: Path, ae_title: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ae_title = ae_title
        self.port = 0
        self.log = folder / f"{ae_title}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to start; sets `port`."""
        raise NotImplementedError

    def is_up(self) -> bool:
        """Whether it answers."""
        return run("echoscu", "-aec", self.ae_title, "127.0.0.1", str(self.port)).returncode == 0

    def __enter__(self) -> Any:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, **self.env},
            )
        try:
            wait_until(self.is_up, f"{self.ae_title} answers")
        except AssertionError:
            self.__exit__(None, None, None)
            raise AssertionError(self.log.read_text(errors="replace")) from None
        return self

    def __exit__(self, *why: object) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class StoreScp(Program):
    """DCMTK's ``storescp``: one file a C-STORE, so that an object sent twice is two files."""

    def __init__(self, folder: Path, *, no_delay: bool = False) -> None:
        super().__init__(folder, "STORESCP")
        self.env = NO_DELAY if no_delay else {}
        self._received = folder / "received"
        self._received.mkdir()

    def command(self) -> list[str]:
        with free_ports(1) as (self.port,):
            return [
                *("storescp", "--fork", "--accept-all", "--unique-filenames"),
                *("-aet", self.ae_title, "-od", str(self._received), str(self.port)),
            ]

    def files(self) -> list[Path]:
        """What was stored, one file a C-STORE."""
        return sorted(self._received.iterdir())

    @property
    def stores(self) -> int:
        """How many objects were stored, repeats counted."""
        return len(self.files())


class Orthanc(Program):
    """Orthanc; over DICOM it takes objects from the node's AE title alone.

    Debian's version binds every address whatever it is told; it refuses what does not come from
    this machine by ``RemoteAccessAllowed`` and by its checks of AE title and address.
    """

    def __init__(
        self, folder: Path, client_ae: str = "MEDAI", *, plugins: Sequence[str] = ()
    ) -> None:
        super().__init__(folder, "ORTHANC")
        self._client_ae = client_ae
        self._plugins = list(plugins)
        self._web = 0

    def command(self) -> list[str]:
        with free_ports(2) as (self.port, self._web):
            settings = {
                "Name": "PACS of a test",
                "StorageDirectory": str(self.folder / "objects"),
                "IndexDirectory": str(self.folder / "index"),
                "DicomAet": self.ae_title,
                "DicomPort": self.port,
                "DicomCheckCalledAet": True,
                "DicomCheckModalityHost": True,
                "DicomAlwaysAllowEcho": True,
                "DicomAlwaysAllowStore": False,
                "DicomModalities": {"node": [self._client_ae, "127.0.0.1", 104]},
                "HttpPort": self._web,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "Plugins": self._plugins,
                # A second store of an object replaces the first, and is one more change.
                "OverwriteInstances": True,
                "StoreMD5ForAttachments": True,
            }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        return ["/usr/sbin/Orthanc", "--verbose", str(path)]

    @property
    def web(self) -> int:
        """The port it answers HTTP on."""
        return self._web

    def rest(self, path: str) -> Any:
        """The JSON of a path of its REST interface."""
        return json.loads(self._get(path))

    def put(self, path: Path) -> None:
        """Store a file over its REST interface."""
        where = f"http://127.0.0.1:{self._web}/instances"
        urllib.request.urlopen(where, path.read_bytes(), timeout=10).close()

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._web}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def files(self) -> list[Path]:
        """The stored objects, fetched anew."""
        copies = self.folder / "copies"
        copies.mkdir(exist_ok=True)
        paths = []
        for name in self.rest("/instances"):
            path = copies / f"{name}.dcm"
            path.write_bytes(self._get(f"/instances/{name}/file"))
            paths.append(path)
        return sorted(paths)

    @property
    def stores(self) -> int:
        """How many objects were stored, repeats counted."""
        changes = self.rest("/changes?limit=1000")["Changes"]
        return sum(change["ChangeType"] == "NewInstance" for change in changes)

    def is_up(self) -> bool:
        try:
            self.rest("/system")
        except urllib.error.URLError:
            return False
        return super().is_up()


def wait_until(look: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Ask until it is true."""
    patience = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < patience, f"not within {seconds} s: {what}"
        time.sleep(0.1)

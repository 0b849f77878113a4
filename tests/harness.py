"""A real node in its own processes, for tests: started, asked, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil

from dicomnode.net.scu import Peer
from dicomnode.state import NodeState, node_state

ROOT = Path(__file__).parents[1]
T = TypeVar("T")

SETTINGS = """\
[node]
port = {port}
receivers = {receivers}
data_dir = "data"
drain_seconds = 1

[storage]
min_free = {min_free}

[series]
quiet_seconds = {quiet}
give_up_seconds = 60
study_quiet_seconds = 1

[web]
port = 0

{more}
"""

ROUTES = """\
[[routes]]
name = "CT tissue"
when = {{ Modality = "CT", slices = {{ min = 10 }} }}
model = "ct-tissue"
send_to = ["pacs"]

[[routes]]
name = "Radiograph quality"
when = {{ Modality = ["CR", "DX", "MG"] }}
model = "xr-quality"
send_to = ["pacs"]

[[destinations]]
name = "pacs"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
retry_seconds = 0.2
retry_max_seconds = 1
"""


LEFT_TO_DO = """\
SELECT (SELECT count(*) FROM instance WHERE state = 'stored') AS instances,
       (SELECT count(*) FROM series WHERE state IN ('receiving', 'complete', 'reopened')) AS series,
       (SELECT count(*) FROM job WHERE state IN ('queued', 'running', 'validating')) AS jobs,
       (SELECT count(*) FROM delivery WHERE state IN ('waiting', 'sending')) AS deliveries,
       (SELECT count(*) FROM association WHERE closed_at IS NULL) AS associations
"""


def routes_to(port: int, ae_title: str = "STANDIN") -> str:
    """The routes of the shipped file, with a destination on a loopback port."""
    return ROUTES.format(ae_title=ae_title, port=port)


class NodeUnderTest:
    """One node on one folder; leaves nothing running when the ``with`` block ends.

    Args:
        folder: Holds settings, data folder and log.
        more: TOML after the first tables: routes, destinations, peers.
        settings: As `write_settings` takes them.
    """

    def __init__(self, folder: Path, more: str = "", **settings: float) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "medai_node.toml"
        self.data_dir = folder / "data"
        self.log = folder / "node.log"
        self.process: subprocess.Popen[str] | None = None
        self.write_settings(more, **settings)

    def write_settings(
        self,
        more: str = "",
        *,
        quiet: float = 0.5,
        port: int = 0,
        receivers: int = 1,
        min_free: int = 0,
    ) -> None:
        """Write the settings file anew; taken up at the next start."""
        self.config.write_text(
            SETTINGS.format(
                port=port, receivers=receivers, min_free=min_free, quiet=quiet, more=more
            )
        )

    def __enter__(self) -> NodeUnderTest:
        self.start()
        return self

    def __exit__(self, *why: object) -> None:
        if self.process is not None:
            self.kill()

    def launch(self) -> None:
        """Start the node in a process group of its own; it is not ready yet."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicomnode", "run", "--config", str(self.config)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def start(self) -> NodeState:
        """Start the node and wait until it is ready."""
        self.launch()
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "is ready" not in line:
            self.kill()
            raise AssertionError(f"the node did not start\n{self.log.read_text()}")
        return self.state

    @property
    def state(self) -> NodeState:
        """What the running node says of itself."""
        state = node_state(self.data_dir)
        assert state is not None, self.log.read_text()
        return state

    @property
    def peer(self) -> Peer:
        """The node as a peer to call."""
        return Peer(self.state.ae_title, *self.state.dicom, "TESTER")

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Rows of the node's database, read from beside it, without the node's own code."""
        database = sqlite3.connect(f"file:{self.data_dir / 'medai.sqlite'}?mode=ro", uri=True)
        database.row_factory = sqlite3.Row
        with contextlib.closing(database):
            return [dict(row) for row in database.execute(sql, values)]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body that the node answers over HTTP."""
        web = self.state.web
        assert web is not None
        try:
            with urllib.request.urlopen(f"http://{web[0]}:{web[1]}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode()

    def at_rest(self) -> bool:
        """Whether everything received was answered, run and sent."""
        (left,) = self.rows(LEFT_TO_DO)
        return not any(left.values())

    def kill_process(self, name: str) -> None:
        """SIGKILL one process of the node by its name, ``worker`` say."""
        os.kill(self.state.pids[name], signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor alone; its processes find out by themselves."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def kill(self) -> None:
        """SIGKILL the whole node, all its processes at once."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.process = None

    def stop(self) -> int:
        """End the node in order; gives its exit code."""
        assert self.process is not None
        self.process.terminate()
        self.process.communicate(timeout=60)
        code = self.process.returncode
        self.process = None
        return code

    def command(self, *arguments: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run ``medai-node`` with the node's settings."""
        return medai_node(*arguments, "--config", str(self.config), check=check)

    def json(self, *arguments: str) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.command(*arguments, "--json", check=None).stdout)

    def wait_until(
        self, look: Callable[[], T | None], what: str, seconds: float = 60.0, pause: float = 0.05
    ) -> T:
        """Ask again and again until something is true; fails with the log when it never is."""
        patience = time.monotonic() + seconds
        while time.monotonic() < patience:
            found = look()
            if found:
                return found
            time.sleep(pause)
        raise AssertionError(f"{what} did not happen in {seconds} s\n{self.log.read_text()}")


def lives(pid: int) -> bool:
    """Whether a process runs, and is not just waiting to be buried."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def medai_node(
    *arguments: str, check: int | None = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does; fails unless it ends with `check`."""
    done = subprocess.run(
        [sys.executable, "-m", "dicomnode", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done

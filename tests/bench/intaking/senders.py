"""Who sends: our own sender, and DCMTK's ``dcmsend`` with Nagle's algorithm and without."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.bench.intaking.images import Shape, write_files
from tests.bench.intaking.receivers import NO_DELAY, Listening
from tests.bench.intaking.sender import CALLING_AE, Job, Sent

PATIENCE = 300.0
_roots = itertools.count(1)


@dataclass(frozen=True)
class Load:
    """What goes to a receiver in one run.

    Attributes:
        shape: The images, their number over all senders.
        senders: Each with one association, all at the same time.
    """

    shape: Shape
    senders: int


class Files:
    """Folders of images for senders that read files; each load is written once.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Load, list[Path]] = {}

    def of(self, load: Load) -> list[Path]:
        """A folder for each sender."""
        if load not in self._made:
            folder = self._folder / f"files{len(self._made)}"
            self._made[load] = write_files(folder, load.shape, load.senders)
        return self._made[load]


def send_own(load: Load, files: Files, receiver: Listening) -> list[Sent]:
    """Send by `tests.bench.intaking.sender`, a process for each association.

    Raises:
        RuntimeError: A sender failed; it said why on stderr.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.intaking.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(load.senders)
    ]
    try:
        for process, images in zip(processes, load.shape.shares(load.senders), strict=True):
            size = load.shape.rows, load.shape.columns
            job = Job(receiver.port, receiver.called_ae, images, *size, next(_roots))
            _say(process, json.dumps(asdict(job)))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it is ready
        for process in processes:
            _say(process, "go")
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        raise RuntimeError("a sender failed")
    return [Sent(**json.loads(line)) for line in said]


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def send_files(
    load: Load, files: Files, receiver: Listening, *, env: Mapping[str, str]
) -> list[Sent]:
    """Send by ``dcmsend``, a process for each association, timed from its start to its end.

    Raises:
        RuntimeError: A sender failed.
    """
    command = ("dcmsend", "-aet", CALLING_AE, "-aec", receiver.called_ae, "+sd", "127.0.0.1")

    def one(folder: Path, images: int) -> Sent:
        begun = time.monotonic()
        process = subprocess.Popen(
            [*command, str(receiver.port), str(folder)],
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError("dcmsend failed")
        return Sent(images, begun, time.monotonic(), used.ru_utime + used.ru_stime)

    folders, shares = files.of(load), load.shape.shares(load.senders)
    with ThreadPoolExecutor(load.senders) as pool:
        return list(pool.map(one, folders, shares))


@dataclass(frozen=True)
class Sender:
    """One kind of sender.

    Attributes:
        send: Sends a load to a receiver; gives what each sender saw.
        env: Environment of the receiver: DCMTK's has Nagle's algorithm unless it is told.
        program: What must be installed.
    """

    send: Callable[[Load, Files, Listening], list[Sent]]
    env: Mapping[str, str]
    program: str = ""

    @property
    def installed(self) -> bool:
        return not self.program or shutil.which(self.program) is not None


NAGLE = "dcmsend-nagle"
SENDERS = {
    "own": Sender(send_own, NO_DELAY),
    "dcmsend": Sender(partial(send_files, env=NO_DELAY), NO_DELAY, "dcmsend"),
    NAGLE: Sender(partial(send_files, env={}), {}, "dcmsend"),
}

"""The supervisor: starts the processes of a node, watches them, and ends them in order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import IO, Any

import structlog

from config.errors import MedAIError, StorageError, UsageError
from config.redact import Redactor, configure_logging, load_key
from config.schema import Settings, TlsSettings
from dicomnode.listening import listen, listen_when_left
from dicomnode.net.kept import KeptCertificates
from dicomnode.recovery import recover
from dicomnode.state import LOCK_FILE, STATE_FILE, NodeState, last_state
from storage import attempts, outbox
from storage.db import Ledger, open_ledger

log = structlog.get_logger(__name__)

PARTING_SECONDS = 5.0
START_SECONDS = 60.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0


class _Child:
    """One supervised process; restarted with a growing delay.

    Args:
        name: Shown in logs, audit and status.
        start: Starts it with the pipe that tells it to stop; gives the process, and the pipe on
            which it says that it has begun where it does.
    """

    def __init__(
        self, name: str, start: Callable[[Connection], tuple[Any, Connection | None]]
    ) -> None:
        self.name = name
        self._start = start
        self._stop: Connection | None = None
        self.process: Any = None
        self.pending: Connection | None = None
        self.restarts = -1
        self.started_at = 0.0
        self.restart_at = 0.0
        self.hindrance = ""
        self._backoff = FIRST_BACKOFF_SECONDS

    def start(self) -> bool:
        """Start it; when its address is taken, plan another try and say so once."""
        self.started_at = time.monotonic()
        theirs, self._stop = multiprocessing.Pipe(duplex=False)
        try:
            with theirs:
                self.process, self.pending = self._start(theirs)
        except UsageError as error:
            self.tell_to_stop()
            if str(error) != self.hindrance:
                log.error("process.waits", process=self.name, why=str(error))
            self.hindrance = str(error)
            self.failed()
            return False
        self.hindrance = ""
        self.restarts += 1
        return True

    def first_word(self) -> Any:
        """What it said when it had begun, or None when it died before."""
        pipe, self.pending = self.pending, None
        if pipe is None:
            return None
        with pipe:
            try:
                return pipe.recv()
            except EOFError:
                return None

    def failed(self) -> None:
        """Plan the restart of a process that ended by itself."""
        self.first_word()
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self._backoff = FIRST_BACKOFF_SECONDS
        self.restart_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)
        self.process = None

    def tell_to_stop(self) -> None:
        if self._stop is not None:
            self._stop.close()

    def end(self, seconds: float) -> None:
        """Wait for its end; kill it when that takes too long."""
        if self.process is None:
            return
        self.process.join(seconds)
        if self.process.is_alive():
            log.warning("process.killed", process=self.name, why="it did not end in time")
            self.process.kill()
            self.process.join()


class Node:
    """A node on one data folder.

    Args:
        settings: With an absolute ``node.data_dir``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data_dir = settings.node.data_dir
        self._context = multiprocessing.get_context("spawn")
        self._listener: socket.socket | None = None
        self._web_listener: socket.socket | None = None
        self._web: tuple[str, int] | None = None
        tls = settings.node.tls
        self._certificates = None if tls is None else KeptCertificates(tls)
        self._children: list[_Child] = []
        self._stopping = threading.Event()
        self._wake_reader, self._wake_writer = multiprocessing.Pipe(duplex=False)

    def run(self, on_ready: Callable[[NodeState], None]) -> None:
        """Run until SIGTERM or SIGINT.

        Args:
            on_ready: Called once when the processes have begun; `failing` names the others.

        Raises:
            StorageError: The data folder cannot be used, or another node runs on it.
            UsageError: The address cannot be listened on.
        """
        with self._lock():
            ledger = open_ledger(self.data_dir)
            self._recover(ledger)
            self._listener = self._listen()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._asked_to_stop)
            self._plan()
            try:
                self._write_state()
                for child in self._children:
                    child.start()
                self._wait_until_begun()
                state = self._write_state()
                self._audit(ledger, "node.started", detail={"dicom_port": state.dicom[1]})
                if not self._stopping.is_set():
                    on_ready(state)
                self._watch(ledger)
            finally:
                self._end()
            self._audit(ledger, "node.stopped")
            ledger.close()

    def _listen(self) -> socket.socket:
        """The DICOM listener; waits for the port while receivers of a killed node drain."""
        node = self.settings.node
        before = last_state(self.data_dir)
        held_by = before.pids.values() if before and before.dicom[1] == node.port else ()
        return listen_when_left(
            node.bind,
            node.port,
            node.drain_seconds + PARTING_SECONDS,
            lambda: any(map(_lives, held_by)),
        )

    @contextlib.contextmanager
    def _lock(self) -> Iterator[IO[str]]:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / LOCK_FILE).open("w")
        except OSError as error:
            raise StorageError(f"the data folder cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageError("another node runs on this data folder") from error
            yield lock

    def _recover(self, ledger: Ledger) -> None:
        """Finish or remove what a crash left, before anything new comes."""
        begun = time.monotonic()
        counts = recover(ledger, self.settings)
        log.info("node.recovered", **counts, seconds=round(time.monotonic() - begun, 2))
        if any(counts.values()):
            self._audit(ledger, "node.recovered", detail=counts)

    def _plan(self) -> None:
        for number in range(self.settings.node.receiver_processes):
            self._children.append(_Child(f"receiver-{number}", self._receiver(number)))
        self._children.append(_Child("worker", self._worker))
        if self.settings.web.enabled:
            self._children.append(_Child("web", self._web_process))

    def _receiver(self, number: int) -> Callable[[Connection], tuple[Any, None]]:
        def start(stop: Connection) -> tuple[Any, None]:
            kept = None if self._certificates is None else self._certificates.look()
            arguments = (self.settings, self.data_dir, kept, self._listener, number, stop)
            return self._spawn(f"receiver-{number}", _receiver_main, arguments), None

        return start

    def _worker(self, stop: Connection) -> tuple[Any, Connection]:
        return self._spawn_that_tells("worker", _worker_main, stop)

    def _web_process(self, stop: Connection) -> tuple[Any, Connection]:
        if self._web_listener is None:
            self._web_listener = listen(self.settings.web.bind, self.settings.web.port)
        return self._spawn_that_tells("web", _web_main, self._web_listener, stop)

    def _spawn_that_tells(
        self, name: str, main: Callable[..., None], *given: Any
    ) -> tuple[Any, Connection]:
        mine, theirs = self._context.Pipe(duplex=False)
        process = self._spawn(name, main, (self.settings, self.data_dir, *given, theirs))
        theirs.close()
        return process, mine

    def _spawn(self, name: str, main: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        process = self._context.Process(target=main, args=arguments, name=name)
        # Ctrl-C reaches the whole process group; the supervisor alone decides when all end, also
        # while a process still loads. The tracker is started first: starting it lifts the block.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return process

    def _wait_until_begun(self) -> None:
        """All processes load at the same time; each that tells has then told, or died."""
        patience = time.monotonic() + START_SECONDS
        while pending := self._pending():
            heard = wait([*pending, self._wake_reader], patience - time.monotonic())
            if not heard or self._wake_reader in heard:
                return
            self._hear(pending, heard)

    def _pending(self) -> dict[Connection, _Child]:
        return {child.pending: child for child in self._children if child.pending is not None}

    def _hear(self, pending: dict[Connection, _Child], heard: Sequence[Any]) -> None:
        for child in [pending[pipe] for pipe in heard if pipe in pending]:
            word = child.first_word()
            if word is None:
                log.error("process.failed", process=child.name, why="it ended while it started")
            elif child.name == "web":
                self._web = (self.settings.web.bind, word)

    def _watch(self, ledger: Ledger) -> None:
        while not self._stopping.is_set():
            alive = {child.process.sentinel: child for child in self._children if child.process}
            planned = [child.restart_at for child in self._children if child.process is None]
            pause = max(0.0, min(planned) - time.monotonic()) if planned else None
            pending = self._pending()
            heard = wait([*alive, *pending, self._wake_reader], pause)
            self._hear(pending, heard)
            for ready in heard:
                if isinstance(ready, int) and not self._stopping.is_set():
                    self._note_death(ledger, alive[ready])
            for child in self._children:
                due = child.process is None and time.monotonic() >= child.restart_at
                if due and not self._stopping.is_set() and child.start():
                    log.info("process.restarted", process=child.name, restarts=child.restarts)
            try:
                self._write_state()
            except OSError as error:  # the processes go on, and resume what can be resumed
                log.error("state.unwritable", why=error.strerror)

    def _note_death(self, ledger: Ledger, child: _Child) -> None:
        code = child.process.exitcode
        log.error("process.died", process=child.name, exit_code=code)
        child.failed()
        detail = {"exit_code": code if code is not None else "unknown"}
        try:
            if child.name == "worker":
                attempts.return_orphans(ledger, crashed=True)
                outbox.return_orphans(ledger)
            self._audit(ledger, "process.died", detail=detail, name=child.name)
        except StorageError as error:
            # Its jobs return when their leases have run out, its deliveries with the next courier.
            log.error("process.died", process=child.name, why=str(error))

    def _end(self) -> None:
        for child in self._children:
            child.tell_to_stop()
        patience = time.monotonic() + self.settings.node.drain_seconds + 30.0
        for child in self._children:
            child.end(max(0.0, patience - time.monotonic()))
        for listener in (self._listener, self._web_listener):
            if listener is not None:
                listener.close()

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()
        self._wake_writer.send(number)

    def _write_state(self) -> NodeState:
        if self._listener is None:
            raise UsageError("the node does not listen")
        state = NodeState(
            pid=os.getpid(),
            ae_title=self.settings.node.ae_title,
            dicom=self._listener.getsockname()[:2],
            web=self._web,
            processes={child.name: max(0, child.restarts) for child in self._children},
            pids={child.name: child.process.pid for child in self._children if child.process},
            failing=tuple(
                child.name for child in self._children if child.process is None or child.pending
            ),
        )
        fresh = self.data_dir / f"{STATE_FILE}.new"
        fresh.write_text(json.dumps(asdict(state)), encoding="utf-8")
        fresh.replace(self.data_dir / STATE_FILE)
        return state

    def _audit(
        self,
        ledger: Ledger,
        action: str,
        *,
        detail: dict[str, Any] | None = None,
        name: str = "node",
    ) -> None:
        with ledger.transaction() as change:
            change.audit(action, object=f"process:{name}", detail=detail)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_logging(data_dir: Path, level: str = "info") -> None:
    """Send what this process logs through the redactor, as lines on stderr."""
    configure_logging(level, False, Redactor(load_key(data_dir)))


def _receiver_main(
    settings: Settings, data_dir: Path, kept_tls: TlsSettings | None, *rest: Any
) -> None:
    from dicomnode.net.scp import run_receiver  # noqa: PLC0415 - each process loads its own room

    _run_logged(partial(run_receiver, kept_tls=kept_tls), settings, data_dir, *rest)


def _worker_main(settings: Settings, data_dir: Path, *rest: Any) -> None:
    from dicomnode.work.worker import run_worker  # noqa: PLC0415

    _run_logged(run_worker, settings, data_dir, *rest)


def _web_main(settings: Settings, data_dir: Path, *rest: Any) -> None:
    from dicomnode.web.service import run_web  # noqa: PLC0415

    _run_logged(run_web, settings, data_dir, *rest)


def _run_logged(main: Callable[..., None], settings: Settings, data_dir: Path, *rest: Any) -> None:
    """The border of a process: multiprocessing would print a trace past the redactor."""
    start_logging(data_dir)
    try:
        main(settings, data_dir, *rest)
    except MedAIError as error:
        log.error("process.ended", why=str(error))
        sys.exit(1)
    except Exception:
        log.exception("process.crashed")
        sys.exit(1)

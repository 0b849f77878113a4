"""The supervisor: starts the processes of a node, watches them, and ends them in order."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from dicomnode.children import RETIRING, Child
from dicomnode.listening import allow_open_files, listen, listen_when_left
from dicomnode.net.kept import KeptCertificates
from dicomnode.recovery import Persistent, recover
from dicomnode.state import LOCK_FILE, NodeState, last_state, write_state
from storage import attempts
from storage.db import Ledger, open_ledger, process_name
from storage.index import last_association

log = structlog.get_logger(__name__)

PARTING_SECONDS = 5.0
START_SECONDS = 60.0
SILENCE_SECONDS = 15.0
"""How much longer than a job may take a worker may say nothing before it is killed."""


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
        self._children: list[Child] = []
        self._retiring: list[Child] = []
        self._written: NodeState | None = None
        self._recovery: Persistent
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
            self._recovery = Persistent(partial(self._recover, ledger, last_association()))
            self._recovery.attempt()
            self._listener = self._listen()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._asked_to_stop)
            # Whoever asks for a reload must not end the node; the processes it starts inherit this.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            allow_open_files()
            self._plan()
            try:
                self._write_state()
                for child in self._children:
                    child.start()
                self._wait_until_begun(ledger)
                state = self._write_state()
                if self._recovery.fault is None:
                    self._note_start(ledger, state)
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

    def _recover(self, ledger: Ledger, last_association: int) -> None:
        """Finish or remove what a crash left, before anything new comes."""
        begun = time.monotonic()
        counts = recover(ledger, self.settings, last_association)
        log.info("node.recovered", **counts, seconds=round(time.monotonic() - begun, 2))
        if any(counts.values()):
            self._audit(ledger, "node.recovered", detail=counts)

    def _note_start(self, ledger: Ledger, state: NodeState) -> None:
        self._audit(ledger, "node.started", detail={"dicom_port": state.dicom[1]})

    def _plan(self) -> None:
        for number in range(self.settings.node.receiver_processes):
            self._children.append(Child(f"receiver-{number}", self._receiver(number)))
        if self._recovery.fault is None:
            self._children.append(Child("worker", self._worker))
        if self.settings.web.enabled:
            self._children.append(Child("web", self._web_process))

    def _recover_again(self, ledger: Ledger) -> None:
        """Finish what the disk or the database refused at the start; then the worker begins."""
        if not self._recovery.attempt():
            return
        worker = Child("worker", self._worker)
        self._children.append(worker)
        worker.start()
        with _later("node.started"):
            self._note_start(ledger, self._write_state())

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

    def _wait_until_begun(self, ledger: Ledger) -> None:
        """All processes load at the same time; each that tells has then told, or died."""
        patience = time.monotonic() + START_SECONDS
        while not all(child.has_begun or child.voice is None for child in self._children):
            heard = wait([*self._voices(), self._wake_reader], patience - time.monotonic())
            if not heard or self._wake_reader in heard:
                return
            self._hear(ledger, heard)

    def _voices(self) -> dict[Connection, Child]:
        children = (*self._children, *self._retiring)
        return {child.voice: child for child in children if child.voice is not None}

    def _hear(self, ledger: Ledger, heard: Sequence[Any]) -> None:
        voices = self._voices()
        for child in [voices[pipe] for pipe in heard if pipe in voices]:
            for word in child.words():
                if word == RETIRING:
                    self._replace(ledger, child)
                elif child.name == "web":
                    self._web = (self.settings.web.bind, word)
            if child.voice is None and not child.has_begun:
                log.error("process.failed", process=child.name, why="it ended while it started")

    def _watch(self, ledger: Ledger) -> None:
        while not self._stopping.is_set():
            children = (*self._children, *self._retiring)
            alive = [child.process.sentinel for child in children if child.process]
            heard = wait([*alive, *self._voices(), self._wake_reader], self._pause())
            self._hear(ledger, heard)
            if self._stopping.is_set():
                break
            self._end_the_silent()
            for child in [child for child in self._retiring if child.has_died()]:
                self._bury(ledger, child)
            for child in self._children:
                if child.has_died():
                    self._note_death(ledger, child)
                due = child.process is None and time.monotonic() >= child.restart_at
                if due and child.start():
                    log.info("process.restarted", process=child.name, restarts=child.restarts)
            if self._recovery.fault is not None and time.monotonic() >= self._recovery.due_at:
                self._recover_again(ledger)
            self._write_state()

    def _pause(self) -> float | None:
        """Seconds until something is due that no process tells; None when nothing is."""
        planned = [child.restart_at for child in self._children if child.process is None]
        planned += [until for _, until in self._patience()]
        planned += [self._recovery.due_at] if self._recovery.fault is not None else []
        return max(0.0, min(planned) - time.monotonic()) if planned else None

    def _patience(self) -> Iterator[tuple[Child, float]]:
        """Until when each worker may go on without a word, or retire, by the steady clock."""
        models = self.settings.models
        if models.job_seconds:
            longest = models.job_seconds + models.grace_seconds + SILENCE_SECONDS
            workers = [child for child in self._children if child.name == "worker"]
            begun = [child for child in workers if child.process and child.has_begun]
            yield from ((child, child.heard_at + longest) for child in begun)
            yield from ((child, child.retired_at + longest) for child in self._retiring)

    def _end_the_silent(self) -> None:
        """A worker that holds up even its own watch is ended, and one that retires for too long."""
        for child, until in list(self._patience()):
            if time.monotonic() >= until:
                log.error("process.killed", process=child.name, why="it did not stop in time")
                child.kill()

    def _replace(self, ledger: Ledger, child: Child) -> None:
        """Start a worker in place of one that runs a job that does not stop."""
        log.warning("process.retiring", process=child.name, pid=child.process.pid)
        self._children[self._children.index(child)] = child.retire()
        self._retiring.append(child)
        why = "a job did not stop at its time limit"
        with _later("process.retiring"):
            self._audit(ledger, "process.retiring", detail={"reason": why}, name=child.name)

    def _bury(self, ledger: Ledger, child: Child) -> None:
        """A worker that was replaced has ended; what it left behind is nobody's fault."""
        self._retiring.remove(child)
        log.info("process.retired", process=child.name, pid=child.process.pid)
        with _later("process.retired"):
            attempts.return_orphans(ledger, crashed=False, owner=process_name(child.process.pid))

    def _note_death(self, ledger: Ledger, child: Child) -> None:
        code, owner = child.process.exitcode, process_name(child.process.pid)
        log.error("process.died", process=child.name, exit_code=code)
        child.failed()
        detail = {"exit_code": code if code is not None else "unknown"}
        # What it was sending goes out again with the next courier.
        with _later("process.died"):
            if child.name == "worker":
                attempts.return_orphans(ledger, crashed=True, owner=owner)
            self._audit(ledger, "process.died", detail=detail, name=child.name)

    def _end(self) -> None:
        children = (*self._children, *self._retiring)
        for child in children:
            child.tell_to_stop()
        patience = time.monotonic() + self.settings.node.drain_seconds + 30.0
        for child in children:
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
            pids={child.name: child.process.pid for child in self._children if child.process}
            | {f"{child.name}-{child.process.pid}": child.process.pid for child in self._retiring},
            failing=tuple(
                child.name
                for child in self._children
                if child.process is None or not child.has_begun
            ),
            waits="" if self._recovery.fault is None else str(self._recovery.fault),
        )
        if state != self._written:
            try:
                write_state(self.data_dir, state)
            except OSError as error:  # the processes go on, and resume what can be resumed
                log.error("state.unwritable", why=error.strerror)
            else:
                self._written = state
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


@contextlib.contextmanager
def _later(event: str) -> Iterator[None]:
    """What cannot be written now is not lost: jobs return when their leases run out."""
    try:
        yield
    except StorageError as error:
        log.error(event, why=str(error))


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
    def main(*given: Any) -> None:
        from dicomnode.net.scp import run_receiver  # noqa: PLC0415 - each process loads its room

        run_receiver(*given, kept_tls=kept_tls)

    _run_logged(main, settings, data_dir, *rest)


def _worker_main(settings: Settings, data_dir: Path, *rest: Any) -> None:
    def main(*given: Any) -> None:
        from dicomnode.work.worker import run_worker  # noqa: PLC0415

        run_worker(*given)

    _run_logged(main, settings, data_dir, *rest)


def _web_main(settings: Settings, data_dir: Path, *rest: Any) -> None:
    def main(*given: Any) -> None:
        from dicomnode.web.service import run_web  # noqa: PLC0415

        run_web(*given)

    _run_logged(main, settings, data_dir, *rest)


def _run_logged(main: Callable[..., None], settings: Settings, data_dir: Path, *rest: Any) -> None:
    """The border of a process: multiprocessing would print a trace past the redactor.

    What the process loads is loaded inside it too.
    """
    start_logging(data_dir)
    try:
        main(settings, data_dir, *rest)
    except MedAIError as error:
        log.error("process.ended", why=str(error))
        sys.exit(1)
    except Exception:
        log.exception("process.crashed")
        sys.exit(1)

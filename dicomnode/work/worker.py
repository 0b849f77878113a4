"""The worker process: assembles series, runs jobs, delivers results.

Of a job that does not stop at its time limit only the process can be ended. Such a worker retires:
it begins nothing new, says so, runs its other jobs to their end, and is gone, while the supervisor
has long started the next one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import structlog

from config.schema import Settings
from dicomnode.children import ALIVE, RETIRING
from dicomnode.series.decode_pool import DecodePool
from dicomnode.work.assembler import Assembler
from dicomnode.work.borders import reported
from dicomnode.work.clock import ClockWatch
from dicomnode.work.corrections import withdraw_superseded
from dicomnode.work.counting import SourceCounter
from dicomnode.work.couriers import Couriers
from dicomnode.work.devices import DeviceBoard, tend
from dicomnode.work.execute import Executor
from dicomnode.work.lookout import Lookout
from dicomnode.work.models import follow, make_engine, make_registry
from dicomnode.work.runner import JobRunner
from dicomnode.work.scrubbing import scrub_until
from dicomnode.work.switches import node_id
from storage import attempts
from storage.db import open_ledger
from storage.index import known_keys
from storage.nudge import Nudged
from storage.objects import ObjectStore
from storage.tidy import tidy

POLL_SECONDS = 1.0
WATCH_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Worker:
    """The threads of the worker process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder.
        say: Tells the supervisor a word: that the worker lives, that it retires.
    """

    def __init__(
        self, settings: Settings, data_dir: Path, say: Callable[[str], None] = lambda word: None
    ) -> None:
        self.settings = settings
        self._say = say
        self.ledger = open_ledger(data_dir)
        self.store = ObjectStore(data_dir, min_free=settings.storage.min_free)
        self.registry = make_registry(settings, data_dir)
        self.decoder = DecodePool(settings.models.worker_threads)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._retiring = False
        own_id = node_id(self.ledger)
        self._assembler = Assembler(
            settings,
            self.ledger,
            self.store,
            self.registry,
            own_id,
            decoder=self.decoder,
        )
        self._engine = make_engine(settings, self.registry, data_dir)
        board = DeviceBoard(data_dir, settings, self._engine.sessions.loaded)
        board.show()
        self._engine.sessions.changed = board.show
        executor = Executor(
            settings, self.ledger, self.store, self.registry, self._engine, decoder=self.decoder
        )
        self.runner = JobRunner(settings, self.ledger, executor, self._stopping)
        self._couriers = Couriers(settings, self.ledger, self.store, self._stopping)
        self._lookout = Lookout(settings, self.ledger, self.store, self.registry, own_id)
        self._counter = SourceCounter(settings, self.ledger, self._stopping)
        self._clock = ClockWatch()
        self._nudged = Nudged(data_dir, "worker")

    def run(self) -> None:
        """Work until `stop` is called."""
        with reported("tidying up after a worker that was killed"):
            tidy(self.ledger.data_dir, known_keys)
        watch = threading.Thread(target=self._watch, name="watch")
        watch.start()
        threads = self.runner.threads()
        rate = self.settings.storage.scrub_bytes_per_second
        scrubbing = (self._stopping, self.ledger, self.store, rate)
        threads.append(threading.Thread(target=scrub_until, args=scrubbing, name="scrub"))
        tending = (self.settings, self._engine, self._stopping)
        threads.append(threading.Thread(target=tend, args=tending, name="models"))
        looking = (self._stopping,)
        threads.append(threading.Thread(target=self._lookout.run, args=looking, name="lookout"))
        for thread in threads:
            thread.start()
        again = 0.0
        while not self._stopping.is_set():
            self._nudged.wait(min(POLL_SECONDS, max(0.0, again - time.time())))
            again = self._look_around()
        self._nudged.close()  # the next worker may be nudged now
        if self._retiring:
            self._tell(RETIRING)
        self.runner.wake()
        for thread in threads:
            thread.join()
        self._couriers.join()
        self._counter.join()
        self._ended.set()
        watch.join()
        self.close()

    def close(self) -> None:
        """Let go of the object store, of the nudges' address and of the decoders."""
        self.decoder.close()
        self._nudged.close()
        self.store.close()

    def stop(self) -> None:
        """End after what runs now."""
        self._stopping.set()

    def _watch(self) -> None:
        """Show that the process lives, keep its leases, and end what does not end by itself."""
        while not self._ended.is_set():
            self._tell(ALIVE)
            with reported("extending leases"):
                self.runner.extend_leases()
            with reported("watching time limits"):
                if self.runner.give_up_overdue() and not self._stopping.is_set():
                    self._retiring = True
                    self.stop()
            stuck = self._stopping.is_set() and self.runner.is_stuck()
            if stuck and not self.runner.is_busy() and not self._couriers.are_busy():
                log.warning("worker.ended", why="a job did not stop, and the others have ended")
                os._exit(1)  # a thread that does not stop holds up every other way to end
            self._ended.wait(WATCH_SECONDS)

    def _tell(self, word: str) -> None:
        with contextlib.suppress(OSError):  # the supervisor was killed: the node is about to end
            self._say(word)

    def _look_around(self) -> float:
        again = time.time() + POLL_SECONDS
        with reported("watching the clock"):
            self._clock.look(self.ledger)
        with reported("looking at the models"):
            follow(self.registry, self._engine)
        with reported("assembling"):
            queued, again = self._assembler.step()
            if queued or attempts.return_expired(self.ledger):
                self.runner.wake()
        with reported("withdrawing results"):
            withdraw_superseded(self.ledger, self.store, self.settings)
        with reported("asking sources"):
            self._counter.ask_due()
        with reported("starting deliveries"):
            self._couriers.start_due()
        return again


def run_worker(settings: Settings, data_dir: Path, stop: Connection, voice: Connection) -> None:
    """The main function of the worker process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder, recovered already.
        stop: Readable, or closed at the other side, when the worker is to end.
        voice: Gets a word when the worker has begun, and others while it works.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when all end
    worker = Worker(settings, data_dir, voice.send)

    def terminate(number: int, frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_stop_when_told, args=(stop, worker), daemon=True).start()
    worker.run()


def _stop_when_told(stop: Connection, worker: Worker) -> None:
    stop.poll(None)
    worker.stop()

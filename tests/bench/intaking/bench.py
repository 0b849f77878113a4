"""One run: a fresh receiver, warmed, takes one load; what it cost."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

from storage.db import FILE_NAME
from tests.bench.intaking.figures import Run, run_of
from tests.bench.intaking.receivers import Listening, Start, warm
from tests.bench.intaking.senders import SENDERS, Files, Load
from tests.bench.processes import PeakMemory

LAG_PATIENCE = 60.0
_LAG_STEP = 0.002


class Bench:
    """Runs loads on receivers, each on a folder of its own.

    Nothing is deleted before the end: an ext4 without a journal passes over inodes that were freed
    in the last minutes, one by one, whenever a file is made.

    Args:
        work: Where everything is written.
    """

    def __init__(self, work: Path) -> None:
        self.files = Files(work)
        self._work = work
        self._numbers = itertools.count()

    def folder(self) -> Path:
        """A new folder."""
        path = self._work / f"run{next(self._numbers):04d}"
        path.mkdir()
        return path

    def run(
        self,
        start: Start,
        load: Load,
        sender: str = "own",
        *,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a receiver, warm it and send it a load.

        Args:
            start: Starts the receiver.
            load: What is sent.
            sender: The kind of sender, a key of `SENDERS`.
            folder: The receiver's folder; a new one by default.
            env: More environment for the receiver.
        """
        kind = SENDERS[sender]
        os.sync()  # what the receiver before left unwritten is not this one's to wait for
        with start(folder or self.folder(), {**kind.env, **(env or {})}) as receiver:
            warm(receiver)
            rows = Rows(receiver)
            with PeakMemory(receiver.pids) as peak:
                sent = kind.send(load, self.files, receiver)
                lag = rows.lag(sum(one.images for one in sent), max(one.ended for one in sent))
        return run_of(load.shape, sent, pss=peak.mib, hwm=peak.hwm_mib, lag=lag)


class Rows:
    """The instance rows of a node's database, read from beside it.

    Args:
        receiver: It may be none of ours; then there is nothing to see.
    """

    def __init__(self, receiver: Listening) -> None:
        self._path = receiver.data_dir and receiver.data_dir / FILE_NAME
        self._before = self._ask("SELECT coalesce(max(id), 0) FROM instance") if self._path else 0

    def _ask(self, sql: str, *values: object) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as rows:
            return int(rows.execute(sql, values).fetchone()[0])

    def lag(self, images: int, since: float) -> float | None:
        """Seconds from `since`, of the monotonic clock, until there are so many more rows.

        Raises:
            TimeoutError: They do not come.
        """
        if self._path is None:
            return None
        while self._ask("SELECT count(*) FROM instance WHERE id > ?", self._before) < images:
            if time.monotonic() > since + LAG_PATIENCE:
                raise TimeoutError("acknowledged images have no rows")
            time.sleep(_LAG_STEP)
        return time.monotonic() - since

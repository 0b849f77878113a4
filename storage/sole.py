"""Work that one process of the node may do at a time, others leaving it to that one meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.files import storage_errors
from storage.nudge import FOLDER


@contextmanager
def sole(data_dir: Path, work: str) -> Iterator[bool]:
    """Whether nobody else does this work now; nobody else will inside the block if so.

    Args:
        data_dir: The data folder of the node.
        work: What is done, any text.

    Raises:
        StorageError: The data folder cannot be written.
    """
    name = hashlib.sha256(work.encode()).hexdigest()[:16]
    with storage_errors("opening a lock"):
        (data_dir / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data_dir / FOLDER / f"{name}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True

"""How well parallel senders share a disk whose every sync takes long."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.intaking.bench import Bench
from tests.bench.intaking.figures import Case, Results
from tests.bench.intaking.images import SHAPES
from tests.bench.intaking.receivers import Receiver
from tests.bench.intaking.senders import Load

SOURCE = Path(__file__).with_name("slow_fsync.c")
IMAGES = 40
"""By each sender: every C-STORE waits for the disk at least once."""


def why_not() -> str | None:
    """Why it cannot be done here, if so."""
    return None if shutil.which("gcc") else "gcc is not installed"


def compiled(folder: Path) -> Path:
    """The shim that makes syncs slow, compiled into a folder."""
    library = folder / "slow_fsync.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True, timeout=60
    )
    return library


def slow_disk(
    bench: Bench,
    milliseconds: int,
    associations: Sequence[int],
    receivers: Mapping[str, Receiver],
) -> Results:
    """Send small images to receivers whose syncs take so much longer.

    Each sender has as many images, so that a run takes as long when senders share their waits.

    Args:
        bench: Runs them.
        milliseconds: More for each sync of a file, a folder or the database.
        associations: A run for each number.
        receivers: By name; those that do not sync are not slowed.
    """
    env = {"LD_PRELOAD": str(compiled(bench.folder())), "SLOW_FSYNC_MS": str(milliseconds)}
    results = Results()
    for senders in associations:
        load = Load(SHAPES["small"].of(IMAGES * senders), senders)
        for name, receiver in receivers.items():
            run = bench.run(receiver.start, load, env=env)
            results.add(Case("own", "small", senders), name, run)
    return results

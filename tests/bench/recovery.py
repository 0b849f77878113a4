"""How long start-up takes over a data folder that holds many objects.

    python -m tests.bench.recovery [--instances 1000000] [--smoke]

The rows are written by SQL and the folders of objects are made with a few files each and marked
closed, as runs that ended in order leave them; besides there is what a crash leaves: a folder of
4,000 files of which a tenth has no row, an open association, and an unfinished file. Then recovery
is timed by itself, and the whole node from its command to its ready line. Nothing is sent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from config.schema import Settings
from dicomnode.recovery import recover
from storage.db import FILE_NAME, open_ledger
from tests.bench.filled import crash, fill
from tests.harness import NodeUnderTest


def measure(folder: Path, instances: int) -> dict[str, object]:
    """Seconds of recovery, and of a whole start."""
    first, second = folder / "alone", NodeUnderTest(folder / "node")
    fill(first, instances)
    crash(first, instances)
    shutil.copytree(first, second.data_dir)
    begun = time.monotonic()
    ledger = open_ledger(first)
    counts = recover(ledger, Settings(node={"data_dir": first}))
    seconds = time.monotonic() - begun
    ledger.close()
    begun = time.monotonic()
    second.start()
    started = time.monotonic() - begun
    assert second.stop() == 0
    return {
        "instances": instances,
        "database_bytes": (first / FILE_NAME).stat().st_size,
        "recovery_seconds": round(seconds, 3),
        "start_seconds": round(started, 3),
        "counts": counts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="20,000 instances")
    parser.add_argument("--folder", type=Path, help="where to build; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), 20_000 if options.smoke else options.instances)
    print(json.dumps(found, indent=2))
    if float(str(found["start_seconds"])) > 10:
        raise SystemExit("start-up took longer than 10 s")


if __name__ == "__main__":
    main()

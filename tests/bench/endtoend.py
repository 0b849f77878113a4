"""How long a CT takes from its first byte to its report at the PACS, split by stage.

``python -m tests.bench.endtoend [--smoke] [--runs N] [--quiet SECONDS]``

A CT of 200 × 512 × 512 (105 MB) is sent by C-STORE from another process, DCMTK's ``dcmsend`` where
it is installed, else ``medai-node send``. The stages come from what the node recorded: the times of
its rows and of the job. Memory is the peak of the sum of PSS over all processes of the node. In
every run DCMTK's ``storescp`` takes the same series from the same sender, as a measure of the
machine.
Loopback and shared cores: read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dicomnode.net.standin import StandInPacs
from dicomnode.sample import write_sample_study
from tests.bench.processes import PeakMemory
from tests.factories import ct_series_200
from tests.harness import NodeUnderTest, medai_node, routes_to
from tests.interop.programs import StoreScp, dcmsend

PATIENCE = 300.0
STAGES = (
    "receive",
    "quiet wait",
    "index and judge",
    "queue",
    "decode",
    "content",
    "preprocess",
    "run",
    "postprocess",
    "encode",
    "prove",
    "keep",
    "deliver",
)
"""In order; together they are the whole time."""


def send(port: int, folder: Path, called_ae: str) -> float:
    """Send a folder in one association from another process; gives its seconds."""
    start = time.perf_counter()
    if shutil.which("dcmsend"):
        dcmsend(port, folder, called_ae=called_ae, no_delay=True)
    else:
        medai_node("send", str(folder), "--to", f"{called_ae}@127.0.0.1:{port}")
    return time.perf_counter() - start


def reference(series: Path, folder: Path) -> float | None:
    """Seconds of the same sender into ``storescp``; None where it is not installed."""
    if not shutil.which("storescp") or not shutil.which("dcmsend"):
        return None
    with StoreScp(folder, no_delay=True) as receiver:
        return send(receiver.port, series, receiver.ae_title)


def measure(series: Path, folder: Path, quiet: float) -> tuple[dict[str, float], float, float]:
    """One run on a fresh node.

    Returns:
        Seconds by stage, seconds of the sender, peak MiB.
    """
    with (
        StandInPacs(folder / "pacs") as pacs,
        NodeUnderTest(folder / "node", routes_to(pacs.port), quiet=quiet) as node,
        PeakMemory([node.state.pid]) as peak,
    ):
        sender = send(node.state.dicom[1], series, "MEDAI")
        if not pacs.wait_for(2, PATIENCE):
            raise TimeoutError(f"no report after {PATIENCE:g} s\n{node.log.read_text()}")
        arrived = time.time()
        node.wait_until(node.at_rest, "everything noted")
        stages = dict(split(node, quiet, arrived))
    return stages, sender, peak.mib


def split(node: NodeUnderTest, quiet: float, arrived: float) -> Iterator[tuple[str, float]]:
    """The stages of the last job, whose series the last association brought."""
    (first,) = node.rows("SELECT MAX(opened_at) AS at FROM association")
    (last,) = node.rows("SELECT MAX(received_at) AS at FROM instance")
    (job,) = node.rows("SELECT * FROM job ORDER BY id DESC LIMIT 1")
    own = json.loads(job["seconds"])
    yield "receive", last["at"] - first["at"]
    yield "quiet wait", quiet
    yield "index and judge", job["created_at"] - last["at"] - quiet
    yield "queue", own.pop("queue")
    yield from own.items()
    yield "keep", job["finished_at"] - job["started_at"] - sum(own.values())
    yield "deliver", arrived - job["finished_at"]


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="the small sample, one run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quiet", type=float, default=1.0, help="series.quiet_seconds")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    options = parser.parse_args()
    runs, senders, references, peaks = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-endtoend-", dir=options.work) as name:
        work = Path(name)
        paths = (write_sample_study if options.smoke else ct_series_200)(work / "series")
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        for number in range(1 if options.smoke else options.runs):
            stages, sender, peak = measure(work / "series", work / f"node{number}", options.quiet)
            if set(stages) != set(STAGES):
                sys.exit(f"the stages are {sorted(stages)}, not {sorted(STAGES)}")
            runs.append(stages)
            senders.append(sender)
            peaks.append(peak)
            references.append(reference(work / "series", work / f"reference{number}"))
    print(f"{len(paths)} images, {megabytes:.0f} MB, {len(runs)} runs, {os.cpu_count()} cores")
    table(runs)
    print(f"peak memory of the node (sum of PSS): {max(peaks):.0f} MiB")
    pairs = [(a, b) for a, b in zip(senders, references, strict=True) if b is not None]
    if pairs:
        print(
            f"sender's time: {statistics.median(a for a, _ in pairs):.2f} s into the node, "
            f"{statistics.median(b for _, b in pairs):.2f} s into storescp; "
            f"ratio {statistics.median(a / b for a, b in pairs):.2f} (median of the runs' own)"
        )
    else:
        print("DCMTK is not installed: no reference")


def table(runs: list[dict[str, float]]) -> None:
    totals = [sum(stages.values()) for stages in runs]
    print(f"{'stage':17}{'median s':>9}{'range':>15}{'share':>8}")
    for stage in STAGES:
        seconds = [stages[stage] for stages in runs]
        share = statistics.median(a / b for a, b in zip(seconds, totals, strict=True))
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        print(f"{stage:17}{statistics.median(seconds):>9.2f}{spread:>15}{share:>8.0%}")
    spread = f"{min(totals):.2f}–{max(totals):.2f}"
    print(f"{'first byte to SR':17}{statistics.median(totals):>9.2f}{spread:>15}")


if __name__ == "__main__":
    main()

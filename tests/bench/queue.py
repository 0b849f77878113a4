"""Whether jobs at once are slower than jobs in turn, and how long a stat job waits in a queue.

``python -m tests.bench.queue [--smoke] [--runs N]``

Four CT series wait at a node for the U-Net of `tests.bench.networks`; AI is resumed, and the clock
runs from the first job's start to the last one's end, once with one thread for jobs and once with
four, in turn on fresh nodes. Then fifty radiographs wait for the DenseNet-121, one more is sent
that is stat once they run, and its time from queued to taken is set against the time of a job.
All times are those that the node records. Loopback and shared cores: read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.net.scu import send
from tests import factories
from tests.bench import networks
from tests.harness import NodeUnderTest

PATIENCE = 900.0
AT_ONCE = 4

SETTINGS = """\
[models]
path = "models"
providers = ["cpu"]
workers = {workers}

[[routes]]
name = "segment"
when = {{ Modality = "CT" }}
model = "unet"
content = "off"

[[routes]]
name = "classify"
when = {{ Modality = "CR", StudyDescription = "routine" }}
model = "densenet"
content = "off"

[[routes]]
name = "classify at once"
when = {{ Modality = "CR", StudyDescription = "stat" }}
model = "densenet"
priority = "stat"
content = "off"
"""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        slices: Of each CT.
        edge: Its rows and columns.
        queue: Radiographs that wait.
    """

    slices: int
    edge: int
    queue: int


FULL, SMOKE = Size(96, 160, 50), Size(12, 32, 6)


def node(folder: Path, workers: int, models: Path) -> NodeUnderTest:
    """A node that runs the two networks, not started yet."""
    made = NodeUnderTest(folder, SETTINGS.format(workers=workers))
    (folder / "models").symlink_to(models)
    return made


def queue(running: NodeUnderTest, studies: Sequence[Sequence[Dataset]], folder: Path) -> None:
    """Send studies and wait until each has a job; `folder` is new."""
    (before,) = running.rows("SELECT count(*) AS n FROM job")
    for number, images in enumerate(studies):
        answers = send(factories.write(images, folder / str(number)), running.peer)
        if any(answer.status for answer in answers):
            sys.exit("the node refused an image")
    wanted = before["n"] + len(studies)
    running.wait_until(
        lambda: running.rows("SELECT count(*) AS n FROM job")[0]["n"] >= wanted, "jobs", PATIENCE
    )


def jobs_of(running: NodeUnderTest) -> list[dict[str, float]]:
    """Every job, once all have ended; they must be ready."""
    running.wait_until(running.at_rest, "the end of all jobs", PATIENCE)
    jobs = running.rows("SELECT * FROM job ORDER BY id")
    failed = [job["reason"] for job in jobs if job["state"] != "ready"]
    if failed:
        sys.exit(f"{len(failed)} jobs failed: {failed[0]}")
    return jobs


def total(folder: Path, workers: int, models: Path, size: Size) -> float:
    """Seconds from the first job's start to the last one's end."""
    studies = [
        factories.ct_series(size.slices, rows=size.edge, columns=size.edge, step=1.0, seed=seed)
        for seed in range(AT_ONCE)
    ]
    with node(folder / "node", workers, models) as running:
        running.command("pause")
        queue(running, studies, folder / "images")
        running.command("resume")
        jobs = jobs_of(running)
    return max(job["finished_at"] for job in jobs) - min(job["started_at"] for job in jobs)


def radiographs(count: int, description: str, first: int) -> list[list[Dataset]]:
    """Studies of one image each."""
    made = []
    for seed in range(first, first + count):
        image = factories.cr_image(seed=seed)
        image.StudyDescription = description
        made.append([image])
    return made


def stat(folder: Path, models: Path, size: Size) -> tuple[float, float, int]:
    """How long a stat job waited, how long a job took, and how many were still queued then."""
    with node(folder / "node", 0, models) as running:
        running.command("pause")
        queue(running, radiographs(size.queue, "routine", 1), folder / "routine")
        running.command("resume")
        first = "SELECT 1 FROM job WHERE state = 'ready'"
        running.wait_until(lambda: running.rows(first), "the first job's end", PATIENCE)
        queue(running, radiographs(1, "stat", size.queue + 1), folder / "stat")
        jobs = jobs_of(running)
    last = jobs[-1]
    behind = sum(job["started_at"] > last["started_at"] for job in jobs)
    took = statistics.median(job["finished_at"] - job["started_at"] for job in jobs)
    return last["started_at"] - last["queued_at"], took, behind


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="small studies, one run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    options = parser.parse_args()
    size, runs = (SMOKE, 1) if options.smoke else (FULL, options.runs)
    with tempfile.TemporaryDirectory(prefix="bench-queue-", dir=options.work) as name:
        work = Path(name)
        models = work / "models"
        networks.densenet(models)
        networks.unet(models)
        ratios, turns, together = [], [], []
        for number in range(runs):
            turns.append(total(work / f"turns{number}", 1, models, size))
            together.append(total(work / f"together{number}", AT_ONCE, models, size))
            ratios.append(together[-1] / turns[-1])
        waits = [stat(work / f"stat{number}", models, size) for number in range(runs)]
    print(
        f"{AT_ONCE} jobs, U-Net on {size.slices} x {size.edge} x {size.edge}: in turn "
        f"{statistics.median(turns):.2f} s, at once {statistics.median(together):.2f} s; "
        f"at once / in turn {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
    )
    for waited, took, behind in waits:
        print(
            f"stat job before {behind} of {size.queue}: waited {waited:.2f} s, a job takes "
            f"{took:.2f} s; waited / job {waited / took:.2f}"
        )


if __name__ == "__main__":
    main()

"""How fast intake is, against DCMTK's and pynetdicom's receivers, in one table.

``python -m tests.bench.intake [--smoke] [--rounds N] [--shapes small,ct]``

The sender is DCMTK's ``dcmsend``, with Nagle's algorithm as Debian ships it and without
(``TCP_NODELAY=1`` on both sides). Each round runs every receiver once, in turn, on fresh folders;
ratios are medians of the rounds' own ratios. Loopback and shared cores: read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from config.schema import Settings
from dicomnode.net.scp import run_receiver
from storage.db import open_ledger
from storage.part10 import file_head
from tests.raw import CT, EXPLICIT, ct

SHAPES = {"small": (1000, 128, 128), "ct": (200, 512, 512), "large": (20, 2560, 2560)}
"""Name → images, rows, columns of 16 bits."""

SMOKE = {"small": (20, 128, 128)}


def make_files(folder: Path, count: int, rows: int, columns: int, parts: int) -> list[Path]:
    """Write synthetic images of one series, spread over as many folders as there are senders."""
    folders = [folder / f"sender{number}" for number in range(parts)]
    for part in folders:
        part.mkdir(parents=True)
    for number in range(count):
        uid = f"2.25.7.{number}"
        data = bytearray(ct(rows=rows, columns=columns, sop_instance=uid))
        data[-64:] = os.urandom(64)
        path = folders[number % parts] / f"{number:05d}.dcm"
        path.write_bytes(file_head(CT, uid, EXPLICIT) + data)
    return folders


@contextlib.contextmanager
def node(folder: Path, no_delay: bool) -> Iterator[tuple[int, list[int]]]:
    """The node's receivers, one a core up to four, on one port."""
    context = multiprocessing.get_context("spawn")
    settings = Settings(node={"ae_title": "BENCH", "data_dir": folder})
    open_ledger(folder).close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours, theirs = context.Pipe()
        processes = [
            context.Process(target=run_receiver, args=(settings, folder, listener, index, theirs))
            for index in range(settings.node.receiver_processes)
        ]
        for process in processes:
            process.start()
        try:
            yield listener.getsockname()[1], [process.pid or 0 for process in processes]
        finally:
            ours.close()
            theirs.close()
            for process in processes:
                process.terminate()
                process.join()


def program(
    *command: str,
) -> Callable[..., contextlib.AbstractContextManager[tuple[int, list[int]]]]:
    """A receiver that is a program; PORT and FOLDER in its command are filled in."""

    @contextlib.contextmanager
    def start(folder: Path, no_delay: bool) -> Iterator[tuple[int, list[int]]]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        filled = [
            part.replace("PORT", str(port)).replace("FOLDER", str(folder)) for part in command
        ]
        process = subprocess.Popen(
            filled,
            env=environment(no_delay),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield port, [process.pid]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


RECEIVERS = {
    "node": node,
    "storescp +B": program("storescp", "--fork", "+B", "-od", "FOLDER", "PORT"),
    "storescp": program("storescp", "--fork", "-od", "FOLDER", "PORT"),
    "pynetdicom": program(
        sys.executable, "-m", "pynetdicom", "storescp", "PORT", "-od", "FOLDER", "-q"
    ),
}


def environment(no_delay: bool) -> dict[str, str]:
    return {**os.environ, "TCP_NODELAY": "1" if no_delay else "0"} if no_delay else dict(os.environ)


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 30
    while True:
        result = subprocess.run(
            ["echoscu", "-aec", "BENCH", "127.0.0.1", str(port)], capture_output=True, check=False
        )
        if result.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the receiver does not answer")


@dataclass
class Run:
    """What one run cost."""

    seconds: float
    sender_cpu: float
    peak_mib: float


def send(folders: list[Path], port: int, no_delay: bool) -> None:
    senders = [
        subprocess.Popen(
            ["dcmsend", "-aec", "BENCH", "+sd", "127.0.0.1", str(port), str(folder)],
            env=environment(no_delay),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise RuntimeError("a sender failed")


def measure(name: str, folders: list[Path], no_delay: bool) -> Run:
    # Nothing is deleted before the end: an ext4 without a journal passes over inodes that were
    # freed in the last minutes, one by one, whenever a file is made.
    target = Path(tempfile.mkdtemp(prefix="run-", dir=folders[0].parent))
    with RECEIVERS[name](target, no_delay) as (port, pids):
        wait_for(port)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        send(folders, port, no_delay)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(seconds, cpu, sum(peak_mib(pid) for pid in pids))


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass
class Results:
    """Runs by (shape, senders, no delay, receiver), in rounds."""

    runs: dict[tuple[str, int, bool, str], list[Run]] = field(default_factory=dict)

    def add(self, key: tuple[str, int, bool, str], run: Run) -> None:
        self.runs.setdefault(key, []).append(run)

    def seconds(self, key: tuple[str, int, bool, str]) -> list[float]:
        return [run.seconds for run in self.runs.get(key, [])]

    def ratio(self, one: tuple[str, int, bool, str], other: tuple[str, int, bool, str]) -> str:
        """How many times faster the second is than the first, the median of paired rounds."""
        pairs = list(zip(self.seconds(one), self.seconds(other), strict=False))
        return f"{statistics.median(a / b for a, b in pairs):.2f}" if pairs else "-"


def table(results: Results, shapes: dict[str, tuple[int, int, int]]) -> None:
    print(
        f"{'shape':8}{'senders':>8} {'delay':9}{'receiver':13}{'s':>7}{'img/s':>8}{'MB/s':>8}"
        f"{'sender cpu':>11}{'peak MiB':>9}{'node is × as fast':>19}"
    )
    for (shape, senders, no_delay, name), runs in results.runs.items():
        count, rows, columns = shapes[shape]
        seconds = statistics.median(run.seconds for run in runs)
        ratio = results.ratio((shape, senders, no_delay, name), (shape, senders, no_delay, "node"))
        print(
            f"{shape:8}{senders:>8} {'no delay' if no_delay else 'Nagle':9}{name:13}{seconds:>7.2f}"
            f"{count / seconds:>8.0f}{count * rows * columns * 2 / 1e6 / seconds:>8.0f}"
            f"{statistics.median(run.sender_cpu for run in runs):>11.2f}"
            f"{max(run.peak_mib for run in runs):>9.0f}{'' if name == 'node' else ratio:>19}"
        )
    for shape, senders in dict.fromkeys(key[:2] for key in results.runs):
        own = results.ratio((shape, senders, False, "node"), (shape, senders, True, "node"))
        print(f"{shape}, {senders} senders: the node with Nagle takes {own} × its no-delay time")


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="one short round: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default="small,ct")
    parser.add_argument("--senders", default="1,4")
    parser.add_argument("--receivers", default=",".join(RECEIVERS))
    parser.add_argument("--delay", choices=["both", "none", "nagle"], default="both")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to write")  # noqa: S108
    options = parser.parse_args()
    shapes = SMOKE if options.smoke else {name: SHAPES[name] for name in options.shapes.split(",")}
    senders = [1] if options.smoke else [int(text) for text in options.senders.split(",")]
    rounds = 1 if options.smoke else options.rounds
    delays = {"both": [True, False], "none": [True], "nagle": [False]}[options.delay]
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-intake-", dir=options.work) as work:
        for shape, parts in itertools.product(shapes, senders):
            folders = make_files(Path(work) / f"{shape}-{parts}", *shapes[shape], parts)
            for _, no_delay in itertools.product(range(rounds), delays):
                for name in options.receivers.split(","):
                    run = measure(name, folders, no_delay)
                    results.add((shape, parts, no_delay, name), run)
    table(results, shapes)


if __name__ == "__main__":
    main()

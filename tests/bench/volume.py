"""How long a series on disk takes to be a volume, beside SimpleITK's own reader.

``python -m tests.bench.volume [--smoke] [--runs N]``

A CT of 200 × 512 × 512 (105 MB, native) is read by `load_series`, which judges it and gives the
headers too, and by SimpleITK's ``ImageSeriesReader``, which sorts the files and gives the pixels.
Each read has a process of its own; they take turns, so that a noisy machine disturbs both alike.
Fifty slices of it in JPEG-LS and RLE show what helper processes gain over decoding in one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from dicomnode.series.decode_pool import DecodePool
from dicomnode.series.volume import load_series
from tests.factories import ct_series, ct_series_200, write


def node(folder: Path) -> int:
    """Voxels of the node's own reader, all in this process."""
    return load_series(sorted(folder.iterdir())).volume.voxels.size


def node_with_helpers(folder: Path) -> int:
    """As `node`, with compressed frames decoded in one helper a core; their start counts."""
    pool = DecodePool(os.cpu_count() or 1)
    try:
        return load_series(sorted(folder.iterdir()), pool).volume.voxels.size
    finally:
        pool.close()


def simple_itk(folder: Path) -> int:
    """Voxels of SimpleITK's reader."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayViewFromImage(reader.Execute()).size


def measure(read: Callable[[Path], int], folder: Path) -> tuple[float, float]:
    """Seconds of one read in a fresh process, and the MiB its memory grew by at its peak."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_read, args=(read, folder, theirs))
    process.start()
    theirs.close()
    seconds, grown = ours.recv()
    process.join()
    return seconds, grown


def _read(read: Callable[[Path], int], folder: Path, answer: Connection) -> None:
    before = _peak_memory()
    start = time.perf_counter()
    voxels = read(folder)
    seconds = time.perf_counter() - start
    if voxels == 0:
        raise SystemExit("nothing was read")
    answer.send((seconds, _peak_memory() - before))


def _peak_memory() -> float:
    """MiB of resident memory at its highest, as Linux counts for this very process."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def compress(paths: list[Path], folder: Path, syntax: str) -> None:
    """Write the same series compressed."""
    folder.mkdir()
    for path in paths[:50]:
        image = dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(folder / path.name)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--smoke", action="store_true", help="a small series, once")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = 1 if options.smoke else options.runs
    with tempfile.TemporaryDirectory() as name:
        native = Path(name) / "native"
        images = ct_series(8, rows=64, columns=64)
        paths = write(images, native) if options.smoke else ct_series_200(native)
        readers: list[tuple[str, Callable[[Path], int], Path]] = [
            ("SimpleITK, native", simple_itk, native),
            ("node, native", node, native),
        ]
        for what, syntax in (("JPEG-LS", JPEGLSLossless), ("RLE", RLELossless)):
            compress(paths, Path(name) / what, syntax)
            readers.append((f"SimpleITK, {what}", simple_itk, Path(name) / what))
            readers.append((f"node, {what}, one process", node, Path(name) / what))
            readers.append((f"node, {what}, helpers", node_with_helpers, Path(name) / what))
        for _, read, folder in readers:
            measure(read, folder)  # the files and modules are in the page cache after this
        taken = [[measure(read, folder) for _, read, folder in readers] for _ in range(runs)]
        voxels = np.prod(load_series(paths).volume.voxels.shape)
    print(f"{voxels} voxels, median of {runs} runs")
    seconds = [statistics.median(row[at][0] for row in taken) for at in range(len(readers))]
    for at, (what, _, _) in enumerate(readers):
        peak = max(row[at][1] for row in taken)
        print(f"{what:28} {seconds[at]:7.3f} s   peak memory {peak:6.0f} MiB more")
    print(f"native: node / SimpleITK = {seconds[1] / seconds[0]:.2f}")


if __name__ == "__main__":
    main()

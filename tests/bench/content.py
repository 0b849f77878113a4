"""What the look at an image before its model costs, by what is judged.

``python -m tests.bench.content [--smoke]``

A drawn trunk with contrast medium in its vessels, 198 × 440 × 580, as large as a CT of 200 × 512 ×
512. Each part is timed on its own, the median of some runs, as seconds of the clock and of the
processor; ends with 1 where the trunk is not told to be one with contrast medium.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ai.content.body import body_of
from ai.content.families import families_of
from ai.content.fingerprint import fingerprint
from ai.content.head import find_head
from ai.content.vessels import find_contrast
from ai.types import Volume
from tests.unit.ai.trunks import STEP, Trunk

FINER = (3, 5, 5)


def drawn() -> Volume:
    """The trunk, each voxel repeated along the axes and noise laid over."""
    coarse = Trunk(blood=150.0, height=198.0, noise=0.0).volume()
    assert coarse.affine is not None
    voxels = coarse.voxels
    for axis, count in enumerate(FINER):
        voxels = np.repeat(voxels, count, axis=axis)
    noise = np.random.default_rng(2).normal(0.0, 20.0, voxels.shape).astype(np.int16)
    steps = (STEP / FINER[0], STEP / FINER[1], STEP / FINER[2])
    affine = coarse.affine / [*FINER, 1]
    return replace(coarse, voxels=voxels + noise, affine=affine, spacing=steps)


def timed(part: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median milliseconds of the clock and of the processor."""
    took = []
    for _ in range(runs):
        begun, worked = time.perf_counter(), time.process_time()
        part()
        took.append((time.perf_counter() - begun, time.process_time() - worked))
    clock, processor = np.median(took, axis=0) * 1e3
    return float(clock), float(processor)


def main() -> None:
    """Print one line a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one run of each part")
    options = parser.parse_args()
    volume = drawn()
    body = body_of(volume)
    assert body is not None
    parts: dict[str, Callable[[], object]] = {
        "values": lambda: families_of(volume),
        "body": lambda: body_of(volume),
        "head": lambda: find_head(body, volume.units),
        "contrast": lambda: find_contrast(volume, body),
        "all": lambda: fingerprint(volume),
    }
    for name, part in parts.items():
        clock, processor = timed(part, 1 if options.smoke else 9)
        print(f"{name:9} {clock:6.0f} ms, {processor:6.0f} ms of the processor")
    shown = fingerprint(volume)
    print(f"{shown.family}, {shown.body_part}, {shown.contrast}")
    if shown.contrast.value != "enhanced":
        raise SystemExit(1)


if __name__ == "__main__":
    main()

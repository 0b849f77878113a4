"""Which kind of machine an image looks like, by the values of its pixels.

Each rule gives how well an image fulfils it, from 0 to 1: the lowest of a few memberships, each
of which rises between a bound that says no and one that says yes. That is no probability. What no
rule knows stays unjudged: MR has no shape of its own (`ai.content.head` knows it by the skull).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ai.content.statistics import thinned
from ai.types import Volume

Floats = NDArray[np.float32]

# Modalities (PS3.3 C.7.3.1.1.1) that each family may rightly be called; OT, which says nothing, is
# never contradicted.
MODALITIES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "CT": frozenset({"CT", "OT"}),
        "MR": frozenset({"MR", "OT"}),
        "radiograph": frozenset(
            {"CR", "DX", "MG", "RG", "XA", "RF", "IO", "PX", "BMD", "RTIMAGE", "OT"}
        ),
        "screen": frozenset({"US", "XC", "ES", "GM", "SM", "IVUS", "OP", "DOC", "OT"}),
    }
)

_MOST = 1 << 18  # pixels of a plane that are looked at
HU = "[hnsf'U]"
_RAW_OFFSETS = (0.0, 1000.0, 1024.0)  # of HU that lost their rescale intercept


def membership(value: float, no: float, yes: float) -> float:
    """0 at `no` and beyond, 1 at `yes` and beyond, between them a straight line."""
    return float(np.clip((value - no) / (yes - no), 0.0, 1.0))


def families_of(volume: Volume) -> dict[str, float]:
    """How well the image fulfils the rule of each family that has one, 0 to 1."""
    return {name: rule(volume) for name, rule in _RULES.items()}


def _ct(volume: Volume) -> float:
    sample = thinned(volume.voxels, _MOST)
    if volume.units == HU:
        return min(_hounsfield(sample), membership(float(np.mean(sample < -20)), 0.0, 0.02))
    return max(
        min(
            _hounsfield(sample - offset), membership(float(np.mean(sample < offset - 900)), 0, 0.05)
        )
        for offset in _RAW_OFFSETS
    )


def _hounsfield(hu: Floats) -> float:
    """Soft tissue and fat in one narrow range, and little between them and air."""
    body = hu[hu > -700]
    soft = body[(body > -200) & (body < 300)]
    if soft.size < 64:
        return 0.0
    counts, _ = np.histogram(soft, 50, (-200, 300))
    peak = np.convolve(counts, np.ones(12), "same").max() / soft.size  # 120 HU wide
    return min(
        membership(soft.size / body.size, 0.45, 0.65),
        membership(float(np.mean(body < -250)), 0.35, 0.2),
        membership(float(peak), 0.2, 0.35),
    )


def _radiograph(volume: Volume) -> float:
    """A single large image, finely graded and smooth."""
    if volume.voxels.shape[0] != 1 or volume.colour or min(volume.voxels.shape) == 0:
        return 0.0
    plane = _rows(volume)
    low, high = np.percentile(plane, (1, 99))
    jumps = np.abs(np.diff(plane, axis=1)) / max(float(high - low), 1e-6)
    return _lowest(
        lambda: membership(min(volume.voxels.shape[1:]), 700, 1000),
        lambda: membership(float(jumps.mean()), 0.02, 0.012),
        lambda: membership(float(np.mean(jumps > 0.5)), 0.002, 0.0005),
        lambda: membership(_levels(plane), 200, 500),
    )


def _screen(volume: Volume) -> float:
    """Graphics on a flat dark ground, in few grey levels: what was taken from a screen."""
    plane = _rows(volume)
    low, high = float(plane.min()), float(plane.max())
    if high <= low or plane.shape[1] < 2:
        return 0.0
    jumps = np.abs(np.diff(plane, axis=1)) / (high - low)
    graphics = float(np.mean(jumps > 0.4))
    return _lowest(
        lambda: membership(min(volume.voxels.shape[1:]), 100, 200),
        lambda: membership(float(np.mean(jumps == 0)), 0.45, 0.57),
        lambda: membership(float(np.mean(plane < low + 0.03 * (high - low))), 0.2, 0.35),
        lambda: min(membership(graphics, 0.001, 0.003), membership(graphics, 0.1, 0.06)),
        lambda: membership(_levels(plane), 400, 260),
    )


def _rows(volume: Volume) -> Floats:
    """Rows of the middle slice, whole ones, so that neighbours stay neighbours."""
    plane = volume.voxels[len(volume.voxels) // 2]
    step = max(1, plane.size // _MOST)
    rows: Floats = plane[::step].astype(np.float32)
    return rows


def _lowest(*memberships: Callable[[], float]) -> float:
    """The lowest of them; what comes after a zero is not worked out."""
    lowest = 1.0
    for each in memberships:
        lowest = min(lowest, each())
        if lowest == 0.0:
            break
    return lowest


def _levels(plane: Floats) -> int:
    return int(np.unique(plane).size)


_RULES: Mapping[str, Callable[[Volume], float]] = MappingProxyType(
    {"CT": _ct, "radiograph": _radiograph, "screen": _screen}
)

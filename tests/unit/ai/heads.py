"""Heads, trunks and other things drawn as ellipses, of the sizes that real ones have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.types import Volume

STEP = 4.0  # mm, along every axis
UPRIGHT = np.array(
    [[0.0, 0.0, STEP, 0.0], [0.0, STEP, 0.0, 0.0], [STEP, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
CT = {"units": "[hnsf'U]", "value_range": (-1024.0, 3071.0)}
MR = {"units": "1", "value_range": (0.0, 4095.0)}


def ellipses(
    shape: tuple[int, int, int],
    layers: list[tuple[float, float, float]],
    *,
    dome: bool,
    seed: int = 3,
) -> NDArray[np.int16]:
    """Nested ellipses in noise, each in place of what is within: half axes in mm, and value.

    Args:
        shape: Voxels along slices, rows and columns, `STEP` apart.
        layers: From outside in: half width (left to right), half depth (front to back), value; the
            first is what lies around all, its axes not asked.
        dome: They close above, as a head does, and run out of the image below.
        seed: Of the noise.
    """
    slices, rows, columns = (np.arange(count) * STEP for count in shape)
    z, y, x = np.meshgrid(
        slices, rows - rows.mean(), columns - columns.mean(), indexing="ij", sparse=True
    )
    values = np.full(shape, layers[0][2], np.float64)
    center, top = 0.45 * slices[-1], 0.9 * slices[-1]
    for half_width, half_depth, value in layers[1:]:
        shell = (layers[1][0] - half_width) if dome else 0.0
        high = np.maximum(z - center, 0.0) / (top - center - shell) if dome else np.zeros_like(z)
        values[(x / half_width) ** 2 + (y / half_depth) ** 2 + high**2 <= 1.0] = value
    values += np.random.default_rng(seed).normal(0.0, 6.0, shape)
    return np.asarray(values.round(), np.int16)


def volume(voxels: NDArray[Any], kind: dict[str, Any], **changes: Any) -> Volume:
    """Voxels as a volume with its first slice at the feet."""
    given = {"affine": UPRIGHT, "spacing": (STEP, STEP, STEP), **kind, **changes}
    return Volume(voxels, **given)


def ct_head(**changes: Any) -> Volume:
    """Scalp, skull of 8 mm, brain."""
    layers = [(0, 0, -1000), (80, 98, 30), (76, 94, 900), (66, 84, 35)]
    return volume(ellipses((44, 64, 60), layers, dome=True), CT, **changes)


def mr_head(**changes: Any) -> Volume:
    """Bright scalp, dark skull, brain, as on T1."""
    layers = [(0, 0, 15), (80, 98, 420), (74, 92, 40), (66, 84, 300)]
    voxels = np.abs(ellipses((44, 64, 60), layers, dome=True))
    return volume(voxels, MR, **changes)


def ct_trunk(**changes: Any) -> Volume:
    """Fat around soft tissue, and a spine."""
    layers = [(0, 0, -1000), (160, 110, -100), (140, 95, 50), (20, 25, 300)]
    return volume(ellipses((30, 70, 100), layers, dome=False), CT, **changes)


def mr_thigh(**changes: Any) -> Volume:
    """Bright fat around muscle, and a bone within: of the size of a head."""
    layers = [(0, 0, 15), (80, 98, 500), (66, 80, 180), (16, 16, 40), (10, 10, 450)]
    return volume(np.abs(ellipses((30, 64, 60), layers, dome=False)), MR, **changes)


def mr_shoulder(**changes: Any) -> Volume:
    """A part of something larger: it runs out of the image on three sides."""
    layers = [(0, 0, 15), (200, 160, 500), (170, 140, 200)]
    voxels = np.abs(ellipses((20, 80, 100), layers, dome=False))[:, 40:, 50:]
    return volume(voxels, MR, **changes)


def radiograph() -> Volume:
    """A large image, smooth and finely graded."""
    x = np.linspace(0, 3000, 1000)
    plane = (x[None, :] + 400 * np.sin(x[:, None] / 200) + 500).astype(np.int16)
    return Volume(plane[None], "1", None, (None, 0.2, 0.2), (0.0, 4095.0))


def screen_plane() -> NDArray[np.uint8]:
    """Lettering and a lively rectangle on black."""
    plane = np.zeros((480, 640), np.uint8)
    plane[100:400, 200:500] = np.random.default_rng(1).integers(20, 120, (300, 300))
    for row in range(10, 90, 10):
        plane[row : row + 6, 20:180:4] = 255
    return plane


def screen() -> Volume:
    """As an ultrasound device gives it."""
    return Volume(screen_plane()[None], "1", None, (None, None, None), (0.0, 255.0), colour=True)

"""A trunk on CT drawn as ellipses: spine with discs, aorta and vena cava in fat, and bowel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.types import Volume
from tests.unit.ai.heads import CT, volume

STEP = 3.0  # mm, along every axis
ROWS, COLUMNS = 88, 116
_BACK = 48.0  # mm behind the middle: the vertebral bodies' centre
_LEVEL = 30.0  # mm from disc to disc
_DISC = 6.0


@dataclass(frozen=True)
class Trunk:
    """What varies.

    Attributes:
        blood: HU in aorta and inferior vena cava.
        vein: HU in the vena cava alone, where it differs.
        marrow: HU within the vertebrae.
        height: mm.
        noise: Standard deviation of each voxel, HU.
        bowel: HU of loops that wind across before the vessels; None leaves them out.
        seed: Of noise and loops.
    """

    blood: float = 40.0
    vein: float | None = None
    marrow: float = 150.0
    height: float = 240.0
    noise: float = 12.0
    bowel: float | None = None
    seed: int = 5

    def volume(self) -> Volume:
        """Axial, its first slice at the feet, rows to the back, columns to the left."""
        voxels = self._drawn()
        voxels += np.random.default_rng(self.seed).normal(0.0, self.noise, voxels.shape)
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], [0, 1, 2, 3]] = (STEP, STEP, STEP, 1.0)
        spacing = (STEP, STEP, STEP)
        return volume(voxels.round().astype(np.int16), CT, affine=affine, spacing=spacing)

    def _drawn(self) -> NDArray[np.float64]:
        z = np.arange(round(self.height / STEP)) * STEP
        y = (np.arange(ROWS) - ROWS / 2) * STEP
        x = (np.arange(COLUMNS) - COLUMNS / 2) * STEP
        z, y, x = np.meshgrid(z, y, x, indexing="ij", sparse=True)
        vein = self.blood if self.vein is None else self.vein
        layers = [
            (0, 0, 165, 115, -100.0),
            (0, 0, 145, 95, 50.0),
            (0, 5, 55, 32, -90.0),  # fat around the vessels
            (0, 85, 6, 20, 400.0),  # spinous processes
            (0, _BACK, 24, 20, 450.0),
            (0, _BACK, 21, 17, self.marrow),
            (0, _BACK + 28, 14, 12, 450.0),
            (0, _BACK + 27, 10, 8, 30.0),  # the canal
            (9, _BACK - 33, 11, 11, self.blood),
            (-17, _BACK - 32, 12, 10, vein),
        ]
        values = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -1000.0)
        for across, back, half_width, half_depth, hu in layers:
            inside = ((x - across) / half_width) ** 2 + ((y - back) / half_depth) ** 2 <= 1.0
            values[np.broadcast_to(inside, values.shape)] = hu
        body = ((x / 24) ** 2 + ((y - _BACK) / 20) ** 2 <= 1.0) & (z % _LEVEL < _DISC)
        values[np.broadcast_to(body, values.shape)] = 80.0
        if self.bowel is not None:
            loops = np.hypot(y + 5, z - z.mean() - 60 * np.sin(x / 20)) <= 12
            values[loops & (np.abs(x) < 110)] = self.bowel
        return values

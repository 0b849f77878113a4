"""Builds ``us-region``: where a loop of ultrasound moves, which is the scan and not its frame.

python -m ai.models.build_us_region [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ai.golden import Case
from ai.models.building import expected, write_model
from ai.models.graph import Graph
from ai.registry import bundled_models_path
from ai.types import Volume

FOLDER = bundled_models_path() / "us-region" / "1.0.0"
MOVING = 0.004  # standard deviation over time, of the range of the whole loop
GAP_WIDTH = 9  # pixels; where the scan is black it does not move
SPECK_WIDTH = 9  # pixels; what is thinner is lettering, a counter, a trace


def graph() -> bytes:
    """Frames ``(1, 1, D, H, W)`` in, labels 0 and 1 of the same shape out."""
    g = Graph("us-region")
    moving = g.opened(g.closed(_moving(g), GAP_WIDTH), SPECK_WIDTH)
    part = g.largest_part(g.op("Unsqueeze", moving, g.whole(2)))
    plane = g.op("Squeeze", part, g.whole(2))
    within = g.op("Max", g.between_rays(plane), plane)
    shape = g.op("Shape", "frames")
    frames = g.op("Expand", g.op("Unsqueeze", within, g.whole(2)), shape)
    g.named("Cast", [frames], ["labels"], to=TensorProto.UINT8)
    ends = (1, 1, "D", "H", "W")
    return g.serialized(
        [("frames", TensorProto.FLOAT, ends)], [("labels", TensorProto.UINT8, ends)]
    )


def _moving(g: Graph) -> str:
    """1 where a pixel's values vary over the frames, ``(1, 1, H, W)``."""
    count = g.floats(g.op("Shape", "frames", start=2, end=3))
    mean = g.op("Div", g.op("ReduceSum", "frames", g.whole(2), keepdims=0), count)
    # Not the mean square of the differences: that would take another loop's memory.
    square = g.op("Div", g.op("ReduceSumSquare", "frames", g.whole(2), keepdims=0), count)
    variance = g.op("Sub", square, g.op("Mul", mean, mean))
    high, low = (g.op(kind, "frames", keepdims=0) for kind in ("ReduceMax", "ReduceMin"))
    step = g.op("Mul", g.op("Sub", high, low), g.real(MOVING))
    return g.floats(g.op("Greater", variance, g.op("Mul", step, step)))


def phantom() -> tuple[Volume, np.ndarray]:
    """A sector that flickers in a frame of grey banners, lettering, a counter and a trace."""
    frames, rows, columns = 12, 150, 200
    random = np.random.default_rng(11)
    loop = np.zeros((frames, rows, columns), np.uint8)
    y, x = np.indices((rows, columns))
    # From an apex above the image, as a convex probe draws it, cut off below.
    far, turn = np.hypot(y + 20, x - 90), np.abs(np.arctan2(x - 90, y + 20))
    sector = (far > 40) & (far < 140) & (turn < 0.6)
    loop[:, sector] = random.integers(20, 200, (frames, int(sector.sum())))
    loop[:, 60:75, 85:95] = 0  # a black cyst within
    loop[:, :8] = 120  # banners do not move, however grey
    loop[:, 134:, :60] = 160
    for row in range(20, 100, 10):
        loop[:, row : row + 6, 4:40:3] = 255
    for frame in range(frames):  # these move and are thin or small
        loop[frame, 120:126, 180 : 184 + frame % 3] = 255
        loop[frame, 140 + frame % 5, 100:190] = 230
    labels = np.broadcast_to(sector, loop.shape).astype(np.uint8)
    return Volume(loop, "1", None, (None, None, None), (0.0, 255.0)), labels


def golden() -> Case:
    """The phantom with its sector as drawn, not as the model gave it."""
    volume, labels = phantom()
    findings = [expected("scan region")]
    return Case("phantom", volume, labels, findings, voxels=0.01, relative=1e-5)


def build(folder: Path = FOLDER) -> None:
    """Writes the package's files, into its own folder unless told otherwise."""
    write_model(folder, FOLDER, graph(), [golden()])


if __name__ == "__main__":
    build(*(Path(argument) for argument in sys.argv[1:2]))

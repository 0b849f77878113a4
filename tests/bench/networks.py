"""Networks of the size that hospitals run, with seeded random weights, as model packages.

``python -m tests.bench.networks FOLDER|--smoke`` writes ``densenet/1.0.0`` and ``unet/1.0.0``.

`densenet` has the layers of DenseNet-121 (Huang et al. 2017: growth 32, blocks of 6, 12, 24 and
16) for one image of 224 × 224: 7.0 million parameters, 2.8 G multiplications and additions an
image. `unet` is a 3D U-Net of four levels with 16 to 128 channels, convolutions, instance
normalisation and leaky units as nnU-Net has them, for patches of 96³. What they answer means
nothing: they cost what a trained network of their shape costs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ai.models.graph import Graph
from ai.package import Package
from tests.model_packages import LOGIT, SPACE, WHOLE, head, primary_input, scored, write_package

SIZE = 224
PATCH = 96
GROWTH, BLOCKS, FIRST = 32, (6, 12, 24, 16), 64
LEVELS = (16, 32, 64, 128)

_RADIOGRAPH = """\
batch = {batch}
size = [{size}, {size}]
normalisation = {{ kind = "value_range", mean = [0.485, 0.456, 0.406], sd = [0.229, 0.224, 0.225] }}
channels = 3
"""

_CT = """\
window = {{ center = 40.0, width = 2000.0 }}
normalisation = {{ kind = "window", to = [-1.0, 1.0] }}
{more}"""

_SCORES = """
[output]
task = "segmentation"
volume = true

[output.labels]
tensor = "scores"
layout = "NCDHW"
encoding = "channels"
activation = "softmax"
select = "argmax"
"""

_SEGMENT = """
[[output.segment]]
number = {number}
label = "class {number}"
category = ["85756007", "SCT", "Tissue"]
type = ["85756007", "SCT", "Tissue"]
color = [{red}, 120, 180]
description = "Random weights: means nothing."
severity = 0.1
"""


class _Net:
    """A graph with its weights, drawn as He et al. (2015) do, so that no layer dies or explodes."""

    def __init__(self, name: str, seed: int) -> None:
        self.graph = Graph(name)
        self._random = np.random.default_rng(seed)

    def conv(self, value: str, into: int, out: int, size: tuple[int, ...], *, step: int = 1) -> str:
        axes, kernel = len(size), size[0]
        shape = (out, into, *size)
        weights = self._random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        pads = [kernel // 2] * (2 * axes)
        weight = self.graph.array(weights.astype(np.float32))
        return self.graph.op("Conv", value, weight, strides=[step] * axes, pads=pads)

    def norm(self, value: str, channels: int) -> str:
        """Batch normalisation and its unit, as before every convolution of a DenseNet."""
        parts = [
            self._near(1.0, channels),
            self._near(0.0, channels),
            self._near(0.0, channels),
            self._near(1.0, channels),
        ]
        made = self.graph.op("BatchNormalization", value, *parts)
        return self.graph.op("Relu", made)

    def instance(self, value: str, channels: int) -> str:
        """Instance normalisation and its unit."""
        scale, shift = self._near(1.0, channels), self._near(0.0, channels)
        made = self.graph.op("InstanceNormalization", value, scale, shift)
        return self.graph.op("LeakyRelu", made, alpha=0.01)

    def _near(self, middle: float, count: int) -> str:
        values: NDArray[np.float64] = middle + self._random.uniform(0.0, 0.1, count)
        return self.graph.array(values.astype(np.float32))


def densenet_graph(classes: int = 14) -> bytes:
    """DenseNet-121: ``image`` ``(N, 3, 224, 224)`` → ``logits`` ``(N, classes)``."""
    net = _Net("densenet", 121)
    g = net.graph
    x = net.norm(net.conv("image", 3, FIRST, (7, 7), step=2), FIRST)
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = FIRST
    for number, layers in enumerate(BLOCKS):
        for _ in range(layers):
            new = net.conv(net.norm(x, channels), channels, 4 * GROWTH, (1, 1))
            new = net.conv(net.norm(new, 4 * GROWTH), 4 * GROWTH, GROWTH, (3, 3))
            x = g.op("Concat", x, new, axis=1)
            channels += GROWTH
        x = net.norm(x, channels)
        if number < len(BLOCKS) - 1:
            x = net.conv(x, channels, channels // 2, (1, 1))
            channels //= 2
            x = g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    weights = np.random.default_rng(122).normal(0, channels**-0.5, (channels, classes))
    g.named("MatMul", [x, g.array(weights.astype(np.float32))], ["logits"])
    return g.serialized(
        [("image", TensorProto.FLOAT, ("N", 3, SIZE, SIZE))],
        [("logits", TensorProto.FLOAT, ("N", classes))],
    )


def unet_graph(classes: int = 5, levels: tuple[int, ...] = LEVELS) -> bytes:
    """3D U-Net: ``image`` ``(N, 1, D, H, W)`` → ``scores`` ``(N, classes, D, H, W)``.

    Args:
        classes: Channels of the result, the background among them.
        levels: Channels from the finest grid to the coarsest; each axis of a patch is a multiple
            of 2 to the power of one less than their number.
    """
    net = _Net("unet", 3)
    g = net.graph

    def double(value: str, into: int, out: int) -> str:
        value = net.instance(net.conv(value, into, out, (3, 3, 3)), out)
        return net.instance(net.conv(value, out, out, (3, 3, 3)), out)

    x, into, kept = "image", 1, []
    for out in levels[:-1]:
        x = double(x, into, out)
        kept.append((x, out))
        x, into = g.op("MaxPool", x, kernel_shape=[2] * 3, strides=[2] * 3), out
    x, into = double(x, into, levels[-1]), levels[-1]
    rng = np.random.default_rng(4)
    for skip, out in reversed(kept):
        weights = rng.normal(0, np.sqrt(2 / into), (into, out, 2, 2, 2)).astype(np.float32)
        x = g.op("ConvTranspose", x, g.array(weights), strides=[2] * 3)
        x, into = double(g.op("Concat", x, skip, axis=1), 2 * out, out), out
    last = rng.normal(0, np.sqrt(2 / into), (classes, into, 1, 1, 1)).astype(np.float32)
    # Noise has borders everywhere, which no organ has: what the layers say decides between classes
    # whose mean grey value is as near.
    grey = g.op("AveragePool", "image", kernel_shape=[5] * 3, pads=[2] * 6, strides=[1] * 3)
    levels_of_grey = np.linspace(-0.95, 0.6, classes).astype(np.float32).reshape(1, -1, 1, 1, 1)
    away = g.op("Sub", grey, g.array(levels_of_grey))
    near = g.op("Mul", g.op("Mul", away, away), g.array(np.float32(-1000.0)))
    g.named("Add", [g.op("Conv", x, g.array(last)), near], ["scores"])
    axes = ("D", "H", "W")
    return g.serialized(
        [("image", TensorProto.FLOAT, ("N", 1, *axes))],
        [("scores", TensorProto.FLOAT, ("N", classes, *axes))],
    )


def densenet(folder: Path, batch: int = 8) -> Package:
    """The classifier as the package ``densenet/1.0.0`` below a folder.

    Args:
        folder: Where packages lie.
        batch: Images of several jobs that may share a run, on a GPU.
    """
    lines = f"{WHOLE}\n{_RADIOGRAPH.format(size=SIZE, batch=batch)}"
    manifest = head("densenet") + primary_input(lines, tensor="image", modality="CR", units="1")
    manifest += scored("example", LOGIT)
    return write_package(folder / "densenet" / "1.0.0", densenet_graph(), manifest)


def unet(
    folder: Path,
    classes: int = 5,
    more: str = "multiple_of = 8\n",
    levels: tuple[int, ...] = LEVELS,
) -> Package:
    """The segmentation network as the package ``unet/1.0.0`` below a folder.

    Args:
        folder: Where packages lie.
        classes: Channels, the background among them.
        more: Further lines of its input.
        levels: Channels from the finest grid to the coarsest.
    """
    lines = f"{SPACE}\n{_CT.format(more=more)}"
    manifest = head("unet", results=["seg"]) + primary_input(lines, tensor="image") + _SCORES
    for number in range(1, classes):
        manifest += _SEGMENT.format(number=number, red=250 * number // classes)
    return write_package(folder / "unet" / "1.0.0", unet_graph(classes, levels), manifest)


def main() -> None:
    """Write both packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--smoke", action="store_true", help="into a folder that is removed again")
    arguments = parser.parse_args()
    if arguments.folder is None and not arguments.smoke:
        parser.error("name a folder")
    with tempfile.TemporaryDirectory() as name:
        for make in (densenet, unet):
            made = make(arguments.folder or Path(name))
            print(made.manifest.reference, made.digest)


if __name__ == "__main__":
    main()

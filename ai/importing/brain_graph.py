"""One ONNX graph of deepbet's two networks and of all that happens between them.

deepbet looks for the brain in the whole image shrunk to 128 voxels a side, cuts out a box around
what it found, stretches that to 256 a side and asks its second network; what that says is put back
at its place. Every step is an operator here, so that the graph takes the image as it is and gives
the probability of brain for each of its voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from ai.models.graph import Graph

SMALL, LARGE = 128, 256  # voxels a side that the networks see
_TAILS = 0.005  # of the values at each end, taken for the ends
_MARGIN = 0.1  # of the box, on each side
_LEAST = 0.02  # share of a plane that is brain where the box begins
_SPATIAL = (2, 3, 4)
INPUT, OUTPUT = "image", "brain"


def brain_graph(finder: onnx.ModelProto, network: onnx.ModelProto) -> bytes:
    """The graph: ``image`` and ``brain``, float ``(1, 1, D, H, W)``, axes towards R, A and S.

    Args:
        finder: The network that sees the whole image; both give ``(1, 2, …)``, brain second.
        network: The one that sees the box.
    """
    g = Graph("deepbet")
    shape = g.op("Shape", INPUT)
    small = _stretched(g, INPUT, [g.whole(SMALL)] * 3)
    low, high = _ends(g, small)
    seen = g.graft(finder, "finder.", _normal(g, small, low, high, SMALL))
    found = g.largest_part(g.floats(g.op("Greater", _second(g, seen), g.real(0.5))))
    first, last = _box(g, found, shape)
    box = g.op("Slice", INPUT, first, last, g.whole(*_SPATIAL))
    large = _stretched(g, box, [g.whole(LARGE)] * 3)
    said = _second(g, g.graft(network, "network.", _normal(g, large, low, high, LARGE)))
    sizes = [_at(g, g.op("Sub", last, first), axis) for axis in range(3)]
    back = _stretched(g, said, sizes)
    far = g.op("Sub", g.op("Slice", shape, g.whole(2), g.whole(5)), last)
    pads = g.op("Concat", g.whole(0, 0), first, g.whole(0, 0), far, axis=0)
    g.named("Pad", [back, pads], [OUTPUT], mode="constant")
    ends = (1, 1, "D", "H", "W")
    return g.serialized([(INPUT, TensorProto.FLOAT, ends)], [(OUTPUT, TensorProto.FLOAT, ends)])


def _stretched(g: Graph, name: str, sizes: Sequence[str]) -> str:
    """Other sizes along the axes; each voxel takes the value of the one its centre lies in."""
    for axis, size in zip(_SPATIAL, sizes, strict=True):
        own = g.op("Shape", name, start=axis, end=axis + 1)
        step = g.op("Div", g.floats(own), g.floats(size))
        count = g.op("Range", *(_plain(g, each) for each in (g.whole(0), size, g.whole(1))))
        center = g.op("Mul", g.op("Add", g.floats(count), g.real(0.5)), step)
        index = g.op("Min", g.integers(g.op("Floor", center)), g.op("Sub", own, g.whole(1)))
        name = g.op("Gather", name, index, axis=axis)
    return name


def _plain(g: Graph, name: str) -> str:
    """A vector of one number as that number."""
    return g.op("Squeeze", name, g.whole(0))


def _at(g: Graph, name: str, index: int) -> str:
    return g.op("Slice", name, g.whole(index), g.whole(index + 1))


def _second(g: Graph, scores: str) -> str:
    return g.op("Slice", scores, g.whole(1), g.whole(2), g.whole(1))


def _ends(g: Graph, name: str) -> tuple[str, str]:
    """The two quantiles, between neighbours in the order of values on a straight line."""
    flat = g.op("Reshape", name, g.whole(-1))
    place = _TAILS * (SMALL**3 - 1)
    whole, part = int(place), place - int(place)
    ends = []
    for largest, side in ((0, "low"), (1, "high")):
        outputs = [f"{side}_tail", f"{side}_places"]
        g.named("TopK", [flat, g.whole(whole + 2)], outputs, largest=largest)
        near, further = (_plain(g, _at(g, outputs[0], at)) for at in (whole, whole + 1))
        step = g.op("Mul", g.op("Sub", further, near), g.real(part))
        ends.append(g.op("Add", near, step))
    return ends[0], ends[1]


def _normal(g: Graph, name: str, low: str, high: str, side: int) -> str:
    """Limited to the ends, then mean 0.449 and standard deviation 0.226 (of ImageNet's greys)."""
    width = g.op("Sub", high, low)
    width = g.op("Where", g.op("Equal", width, g.real(0.0)), g.real(1.0), width)
    scaled = g.op("Clip", g.op("Div", g.op("Sub", name, low), width), g.real(0.0), g.real(1.0))
    centered = g.op("Sub", scaled, g.op("ReduceMean", scaled, keepdims=0))
    squares = g.op("ReduceSumSquare", centered, keepdims=0)
    sd = g.op("Sqrt", g.op("Div", squares, g.real(float(side**3 - 1))))
    sd = g.op("Max", sd, g.real(1e-12))
    return g.op("Add", g.op("Mul", g.op("Div", centered, sd), g.real(0.226)), g.real(0.449))


def _box(g: Graph, found: str, shape: str) -> tuple[str, str]:
    """Where the box begins and ends along each axis; the whole image where nothing is found."""
    firsts, lasts = [], []
    for axis in _SPATIAL:
        others = [each for each in range(5) if each != axis]
        profile = g.op("ReduceMean", found, g.whole(*others), keepdims=0)
        held = g.floats(g.op("Greater", profile, g.real(_LEAST)))
        some = g.op("Greater", g.op("ReduceMax", held), g.real(0.0))
        first = g.op("Where", some, g.op("ArgMax", held, axis=0), g.whole(0))
        last = g.op(
            "Where", some, g.op("ArgMax", held, axis=0, select_last_index=1), g.whole(SMALL - 1)
        )
        firsts.append(g.floats(first))
        lasts.append(g.floats(g.op("Add", last, g.whole(1))))
    first, last = g.op("Concat", *firsts, axis=0), g.op("Concat", *lasts, axis=0)
    sizes = g.op("Slice", shape, g.whole(2), g.whole(5))
    scale = g.op("Div", g.floats(sizes), g.real(float(SMALL)))
    center = g.op("Mul", g.op("Mul", g.op("Add", first, last), g.real(0.5)), scale)
    size = g.op("Mul", g.op("Mul", g.op("Sub", last, first), scale), g.real(1 + 2 * _MARGIN))
    half = g.op("Mul", g.op("Round", size), g.real(0.5))
    center = g.op("Round", center)
    low = g.op("Max", g.integers(g.op("Sub", center, half)), g.whole(0))
    high = g.op("Min", g.integers(g.op("Add", center, half)), sizes)
    return low, high

"""Builds ``xr-quality``: fixed rules on the technique of a radiograph, as an ONNX graph.

python -m ai.models.build_xr_quality [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ai.golden import Case
from ai.models.building import expected, write_model
from ai.models.graph import Graph
from ai.registry import bundled_models_path
from ai.types import Volume

FOLDER = bundled_models_path() / "xr-quality" / "1.0.0"
FLAT_SHARE = 0.1  # a row or column is flat whose SD is below this share of the image's
FLAT_SD = 1e-5  # or below this share of the value range: rounding gives constant rows some
SAMPLES = 65536.0  # pixels that the percentiles are taken from, about
MIN_CONTRAST, MAX_CLIPPED, MIN_AREA = 10.0, 40.0, 20.0  # percent
INVERTED_BY = 0.2  # of the contrast, by which the sides of the field are brighter than its middle


@dataclass(frozen=True)
class _Field:
    top: str
    bottom: str
    left: str
    right: str


def graph() -> bytes:
    """Pixels ``(1, 1, H, W)``, their range and polarity in; box, percentages and verdicts out."""
    g = Graph("xr-quality")
    low = g.op("Gather", "value_range", g.whole(0))
    high = g.op("Gather", "value_range", g.whole(1))
    share = g.op("Div", g.op("Sub", "pixels", low), g.op("Sub", high, low))
    field = _field(g, share)
    inside = _cut(g, share, field)
    area = _percent(g, g.op("Div", _count(g, inside), _count(g, share)))
    lows = _percent(g, _mean(g, g.floats(g.op("LessOrEqual", inside, g.real(0.0)))))
    highs = _percent(g, _mean(g, g.floats(g.op("GreaterOrEqual", inside, g.real(1.0)))))
    contrast = _percent(g, _spread(g, inside))
    g.named("Concat", [area, lows, highs, contrast], ["percentages"], axis=0)
    inverted = _inverted(g, inside, contrast)
    faults = [
        g.op("Less", area, g.real(MIN_AREA)),
        g.op("Greater", lows, g.real(MAX_CLIPPED)),
        g.op("Greater", highs, g.real(MAX_CLIPPED)),
        g.op("Less", contrast, g.real(MIN_CONTRAST)),
        inverted,
    ]
    limited = faults[0]
    for fault in faults[1:]:
        limited = g.op("Or", limited, fault)
    g.named("Cast", [limited], ["quality"], to=TensorProto.FLOAT)
    g.named("Cast", [inverted], ["inverted"], to=TensorProto.FLOAT)
    one = [1]
    return g.serialized(
        [
            ("pixels", TensorProto.FLOAT, (1, 1, "H", "W")),
            ("value_range", TensorProto.FLOAT, [2]),
            ("lowest_is_white", TensorProto.FLOAT, one),
        ],
        [
            ("field", TensorProto.FLOAT, [4]),
            ("percentages", TensorProto.FLOAT, [4]),
            ("quality", TensorProto.FLOAT, one),
            ("inverted", TensorProto.FLOAT, one),
        ],
    )


def _field(g: Graph, share: str) -> _Field:
    """First and last row and column that are not flat; the whole image where all are."""
    total = g.op("Sqrt", _mean(g, _squared(g, share, _mean(g, share))))
    limit = g.op("Max", g.op("Mul", total, g.real(FLAT_SHARE)), g.real(FLAT_SD))
    ends, last, founds = [], [], []
    for axis, other in ((2, 3), (3, 2)):
        mean = g.op("ReduceMean", share, g.whole(other), keepdims=1)
        spread = g.op("ReduceMean", _squared(g, share, mean), g.whole(other), keepdims=1)
        rough = g.op("Greater", g.op("Reshape", g.op("Sqrt", spread), g.whole(-1)), limit)
        size = g.op("Gather", g.op("Shape", share), g.whole(axis))
        ones = g.op("ConstantOfShape", size)
        index = g.op("CumSum", g.op("Add", ones, g.real(1.0)), g.whole(0), exclusive=1)
        end = g.floats(size)
        first = g.op("ReduceMin", g.op("Where", rough, index, end), keepdims=1)
        final = g.op("ReduceMax", g.op("Where", rough, index, g.real(-1.0)), keepdims=1)
        ends.append((first, final))
        last.append(g.op("Sub", end, g.real(1.0)))
        founds.append(g.op("Greater", final, g.real(-1.0)))
    found = g.op("And", founds[0], founds[1])
    (top, bottom), (left, right) = ends
    box = g.op("Concat", left, top, right, bottom, axis=0)
    nowhere = g.real(0.0, 0.0, -1.0, -1.0)
    g.named("Where", [found, box, nowhere], ["field"])
    zero = g.real(0.0)
    return _Field(
        g.integers(g.op("Where", found, top, zero)),
        g.integers(g.op("Where", found, bottom, last[0])),
        g.integers(g.op("Where", found, left, zero)),
        g.integers(g.op("Where", found, right, last[1])),
    )


def _cut(g: Graph, image: str, field: _Field) -> str:
    starts = g.op("Concat", field.top, field.left, axis=0)
    ends = g.op("Add", g.op("Concat", field.bottom, field.right, axis=0), g.whole(1))
    return g.op("Slice", image, starts, ends, g.whole(2, 3))


def _spread(g: Graph, image: str) -> str:
    """Distance of the 5th and the 95th percentile, of evenly spread samples."""
    step = g.op("Sqrt", g.op("Div", _count(g, image), g.real(SAMPLES)))
    step = g.integers(g.op("Max", g.op("Floor", step), g.real(1.0)))
    size = g.op("Slice", g.op("Shape", image), g.whole(2), g.whole(4))
    steps = g.op("Concat", step, step, axis=0)
    some = g.op("Slice", image, g.whole(0, 0), size, g.whole(2, 3), steps)
    flat = g.op("Reshape", some, g.whole(-1))
    count = g.op("Shape", flat)
    # TopK has two results: the values, here sorted upwards, and where they stood.
    g.named("TopK", [flat, count], ["sorted", "places"], axis=0, largest=0, sorted=1)
    last = g.op("Sub", g.floats(count), g.real(1.0))
    values = [
        g.op("Gather", "sorted", g.integers(g.op("Round", g.op("Mul", last, g.real(part)))))
        for part in (0.05, 0.95)
    ]
    return g.op("Sub", values[1], values[0])


def _inverted(g: Graph, inside: str, contrast: str) -> str:
    """The sides, as shown, are brighter than the middle: air should be dark, anatomy bright."""
    size = g.op("Slice", g.op("Shape", inside), g.whole(2), g.whole(4))
    width = g.op("Gather", size, g.whole(1))
    thick = g.op("Max", g.op("Div", width, g.whole(8)), g.whole(1))
    middle = g.op("Slice", inside, thick, g.op("Sub", width, thick), g.whole(3))
    core = g.op("Div", size, g.whole(4))
    center = g.op("Slice", inside, core, g.op("Sub", size, core), g.whole(2, 3))
    side_sum = g.op("Sub", _sum(g, inside), _sum(g, middle))
    sides = g.op("Div", side_sum, g.op("Sub", _count(g, inside), _count(g, middle)))
    brighter = g.op("Sub", sides, _mean(g, center))
    # Lowest value white turns the sign.
    sign = g.op("Sub", g.real(1.0), g.op("Mul", "lowest_is_white", g.real(2.0)))
    limit = g.op("Mul", contrast, g.real(INVERTED_BY / 100.0))
    return g.op("Greater", g.op("Mul", brighter, sign), limit)


def _squared(g: Graph, image: str, mean: str) -> str:
    away = g.op("Sub", image, mean)
    return g.op("Mul", away, away)


def _mean(g: Graph, image: str) -> str:
    return g.op("ReduceMean", g.op("Reshape", image, g.whole(-1)), g.whole(0), keepdims=1)


def _sum(g: Graph, image: str) -> str:
    return g.op("ReduceSum", g.op("Reshape", image, g.whole(-1)), g.whole(0), keepdims=1)


def _count(g: Graph, image: str) -> str:
    return g.op("Reshape", g.floats(g.op("Size", image)), g.whole(1))


def _percent(g: Graph, share: str) -> str:
    return g.op("Mul", share, g.real(100.0))


def phantom(*, inverted: bool) -> Volume:
    """A 12-bit image: a field of rows 20 to 99 and columns 10 to 129 with a bright square in it.

    Outside the field 0; inside 1000 with a few pixels at 0, the square 3000, its first rows 4095.
    """
    pixels = np.zeros((1, 120, 160), np.uint16)
    pixels[0, 20:100, 10:130] = 1000
    pixels[0, 90:94, 12:32] = 0
    pixels[0, 40:80, 40:100] = 3000
    pixels[0, 40:44, 40:100] = 4095
    return Volume(pixels, "1", None, (None, None, None), (0.0, 4095.0), lowest_is_white=inverted)


def golden(*, inverted: bool) -> Case:
    """What the phantom's drawing says: shares by counting, the 5th to 95th percentile by value."""
    field = 80 * 120
    percentages = [
        100.0 * field / (120 * 160),
        100.0 * 4 * 20 / field,
        100.0 * 4 * 60 / field,
        100.0 * (3000 - 1000) / 4095,
    ]
    box = [[10.0, 20.0], [129.0, 20.0], [129.0, 99.0], [10.0, 99.0]]
    answers = ["RID13", "373066001"] if inverted else ["RID12", "373067005"]
    findings = [
        expected("exposed field", percentages, region=box),
        expected("technical quality", evaluations=answers),
    ]
    name = "inverted" if inverted else "upright"
    return Case(name, phantom(inverted=inverted), None, findings, voxels=0.0, relative=1e-5)


def build(folder: Path = FOLDER) -> None:
    """Writes the package's files, into its own folder unless told otherwise."""
    write_model(folder, FOLDER, graph(), [golden(inverted=inverted) for inverted in (False, True)])


if __name__ == "__main__":
    build(*(Path(argument) for argument in sys.argv[1:2]))

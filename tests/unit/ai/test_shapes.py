"""A graph that is not the one its manifest describes is refused, with everything that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ai.engine import Engine
from ai.manifest import Manifest, parse_manifest
from ai.models.graph import Graph
from ai.package import Package
from ai.shapes import disagreements
from ai.types import Volume
from config.errors import InferenceError
from tests.model_packages import SLICES, WHOLE, from_x_to_y, head, primary_input, unsealed

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
CODES = 'category = ["85756007", "SCT", "Tissue"]\ntype = ["3138006", "SCT", "Bone"]'

SEGMENTS = f"""\
[output]
task = "segmentation"
[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "channels"
[[output.segment]]
number = 1
label = "one"
sources = [1, 3]
color = [1, 2, 3]
description = "One."
{CODES}
"""

NUMBERS = f"""\
[output]
task = "classification"
[[output.finding]]
name = "thing"
description = "One."
{CODES}
score = {{ tensor = "s", index = 2 }}
region = "r"
[[output.finding.measurement]]
tensor = "m"
index = 1
name = ["1", "DCM", "x"]
unit = ["mm", "UCUM", "mm"]
[[output.finding.evaluation]]
tensor = "e"
encoding = "scores"
name = ["2", "DCM", "y"]
values = [["n", "DCM", "No"], ["y", "DCM", "Yes"]]
"""

BOXES = f"""\
[output]
task = "detection"
[output.boxes]
tensor = "b"
format = "xyxy"
scores = "s"
[[output.object]]
name = "thing"
index = 4
description = "One."
{CODES}
"""


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: list[Any]
    type: str = "tensor(float)"


def manifest(input: str = SLICES, output: str = SEGMENTS) -> Manifest:
    return parse_manifest(unsealed(head() + primary_input(input) + output))


IN = Tensor("x", ["N", 1, "H", "W"])
OUT = Tensor("y", ["N", 4, "H", "W"])


@pytest.mark.parametrize(
    ("declared", "inputs", "outputs", "said"),
    [
        (manifest(), [IN], [OUT], []),
        (manifest(SLICES + "\nsize = [20, 30]\nmultiple_of = 8"),
         [Tensor("x", [None, 1, 24, 32])], [Tensor("y", ["N", 4, 24, 32])], []),
        (manifest(), [], [], ["inputs are [], declared are ['x']", "no output ['y']"]),
        (manifest(), [IN, Tensor("z", [1])], [OUT], ["inputs are ['x', 'z']"]),
        (manifest(), [Tensor("x", ["N", 1, 8, 8], "tensor(uint8)")], [OUT], ["not of type float"]),
        (manifest(), [Tensor("x", ["N", 1, "D", 8, 8])], [OUT], ["has 5 axes, not NCHW"]),
        (manifest(), [Tensor("x", [4, 1, 8, 8])], [OUT], ["takes 4 images a run, declared are 8"]),
        (manifest(), [Tensor("x", ["N", 3, 8, 8])], [OUT], ["takes 3 channels, declared are 1"]),
        (manifest(SLICES + "\nsize = [16, 16]"), [Tensor("x", ["N", 1, 8, 16])],
         [Tensor("y", ["N", 4, 16, 8])],
         ["x takes 8 along H, declared are 16", "y has 8 along W, declared are 16"]),
        (manifest(), [IN], [Tensor("y", ["N", 3, "H", "W"])], ["declared are 4 at least"]),
        (manifest(), [IN], [Tensor("y", ["N", 4])], ["y has 2 axes, not NCHW"]),
        (manifest(), [IN], [Tensor("y", ["N", 4, 8, 8], "tensor(string)")], ["holds no numbers"]),
        (manifest(SLICES + '\nfacts = { w = "value_range" }'), [IN, Tensor("w", [3])], [OUT],
         ["w takes 3 numbers, value_range has 2"]),
        (manifest(WHOLE, NUMBERS), [IN],
         [Tensor("s", ["N", 3]), Tensor("r", [1, 4]), Tensor("m", [2]), Tensor("e", ["N", 2])], []),
        (manifest(WHOLE, NUMBERS), [IN],
         [Tensor("s", ["N", 2]), Tensor("r", [5]), Tensor("m", [1]), Tensor("e", ["N", 3])],
         ["s gives 2 numbers, 'thing' reads number 3", "m gives 1 numbers, 'thing' reads number 2",
          "e gives 3 numbers, 'thing' wants 2", "r gives 5 numbers, 'thing' wants 4"]),
        (manifest(WHOLE, BOXES), [IN], [Tensor("b", ["K", 4]), Tensor("s", ["K", 5])], []),
        (manifest(WHOLE, BOXES), [IN], [Tensor("b", [1, "K", 6]), Tensor("s", [1, "K", 3])],
         ["b has 6 numbers a box, xyxy has 4", "s has 3 classes, declared are 5 at least"]),
        (manifest(WHOLE, BOXES), [IN], [Tensor("b", ["K"]), Tensor("s", [1, 1, 1, 1])],
         ["b has 1 axes", "s has 4 axes"]),
    ],
)  # fmt: skip
def test_everything_that_differs_is_told_and_nothing_else(
    declared: Manifest, inputs: list[Tensor], outputs: list[Tensor], said: list[str]
) -> None:
    found = disagreements(declared, inputs, outputs)
    assert len(found) == len(said)
    for clause, wanted in zip(found, said, strict=True):
        assert wanted in clause


def test_a_session_is_refused_with_every_difference_at_once(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("other")
    g.named("Identity", ["x"], ["y"])
    graph = from_x_to_y(g, ("N", 3, "H", "W"))
    package = make_package(graph, basis="trained", input=SLICES, output=SEGMENTS)
    with pytest.raises(
        InferenceError,
        match=r"x takes 3 channels, declared are 1; y has 3 channels, declared are 4",
    ):
        engine.run(package, {"image": make_volume(np.zeros((2, 4, 4), np.int16))})

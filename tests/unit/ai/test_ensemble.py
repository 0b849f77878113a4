"""Several graphs and flips of the input that answer one question."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from ai.engine import Engine
from ai.ensemble import Ensemble
from ai.inputs import Input
from ai.manifest import parse_manifest
from ai.models.graph import Graph
from ai.outputs import Output
from ai.package import Package
from ai.types import Volume
from config.errors import ManifestError
from tests.model_packages import (
    SLICES,
    WHOLE,
    from_x_to_y,
    head,
    primary_input,
    unsealed,
    write_package,
)

VolumeMaker = Callable[..., Volume]
CODES = 'category = ["85756007", "SCT", "Tissue"]\ntype = ["3138006", "SCT", "Bone"]'
AXES = ("slices", "rows", "columns")

LABELS = f"""\
[output]
task = "segmentation"

[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "channels"
activation = "sigmoid"
select = "threshold"
confidence = "mean"

[[output.segment]]
number = 1
label = "bright"
channel = 0
color = [1, 2, 3]
description = "One."
{CODES}
"""

SCORE = f"""\
[output]
task = "classification"

[[output.finding]]
name = "bright"
description = "One."
{CODES}
score = {{ tensor = "s", index = 0, threshold = 0.1 }}

[[output.finding.measurement]]
tensor = "s"
name = ["118565006", "SCT", "Volume"]
unit = ["mL", "UCUM", "mL"]
"""


def package(
    folder: Path, graphs: list[bytes], output: str, ensemble: str, spec: str = SLICES
) -> Package:
    manifest = head("several") + primary_input(spec) + output
    more = dict(zip(("second.onnx", "third.onnx"), graphs[1:], strict=False))
    place = folder / "several" / "1.0.0"
    return write_package(place, graphs[0], f"{manifest}\n[ensemble]\n{ensemble}\n", more)


def shifted(columns: int, gain: float = 1.0) -> bytes:
    """The input times a gain, moved by some columns to the right; what comes in is 0."""
    g = Graph("shift")
    pads = g.whole(0, 0, 0, columns, 0, 0, 0, -columns)
    g.named("Mul", [g.op("Pad", "x", pads, g.real(0.0)), g.real(gain)], ["y"])
    return from_x_to_y(g)


def scored(weight: float) -> bytes:
    """A share of the value in the first row and column."""
    g = Graph("score")
    corner = g.op("Slice", "x", g.whole(0, 0), g.whole(1, 1), g.whole(2, 3))
    g.named("Reshape", [g.op("Mul", corner, g.real(weight)), g.whole(1, 1)], ["s"])
    return g.serialized(
        [("x", TensorProto.FLOAT, ("N", 1, "H", "W"))], [("s", TensorProto.FLOAT, (1, 1))]
    )


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.mark.feature("F24")
def test_what_flips_say_is_turned_back_before_the_mean(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine
) -> None:
    made = package(
        tmp_path, [shifted(1), shifted(0, 2.0)], LABELS,
        'graphs = ["second.onnx"]\nflips = [["columns"], ["rows", "columns"]]',
    )  # fmt: skip
    voxels = np.random.default_rng(3).normal(0, 3, (3, 5, 6)).astype(np.float32)
    answer = engine.run(made, {"image": make_volume(voxels)})
    right, left = np.zeros_like(voxels), np.zeros_like(voxels)
    right[..., 1:], left[..., :-1] = voxels[..., :-1], voxels[..., 1:]
    # The first graph moves to the right, of a flipped image to the left; the second moves nothing.
    sure = (sigmoid(right) + 2 * sigmoid(left) + 3 * sigmoid(2 * voxels)) / 6
    assert answer.labels is not None
    assert np.array_equal(answer.labels, sure >= 0.5)
    (finding,) = answer.findings
    assert finding.confidence.value == pytest.approx(sure[sure >= 0.5].mean(), abs=1e-5)


@pytest.mark.feature("F24", "P07")
def test_scores_and_measurements_come_with_how_far_the_members_are_apart(
    tmp_path: Path, make_volume: VolumeMaker, engine: Engine
) -> None:
    made = package(
        tmp_path, [scored(0.5), scored(1.0)], SCORE,
        'graphs = ["second.onnx"]\nflips = [["rows"]]', WHOLE,
    )  # fmt: skip
    voxels = np.zeros((1, 3, 3), np.float32)
    voxels[0, 0, 0], voxels[0, 2, 0] = 0.8, 0.4
    (finding,) = engine.run(made, {"image": make_volume(voxels)}).findings
    said = [0.4, 0.8, 0.2, 0.4]  # both graphs, then both on the flipped image
    assert finding.confidence.value == pytest.approx(np.mean(said))
    value, spread, unsure = finding.measurements
    assert (value.value, value.unit.value) == (pytest.approx(np.mean(said)), "mL")
    assert (spread.value, spread.unit.value) == (pytest.approx(np.std(said)), "mL")
    assert (unsure.value, unsure.unit.value) == (pytest.approx(100 * np.std(said)), "%")
    assert [each.derivation and each.derivation.value for each in (value, spread, unsure)] == [
        None,
        "386136009",
        "386136009",
    ]


@settings(max_examples=100, deadline=None)
@given(
    flips=st.lists(
        st.sampled_from(
            [list(axes) for n in (1, 2, 3) for axes in itertools.combinations(AXES, n)]
        ),
        unique_by=tuple,
        max_size=4,
    ),
    layouts=st.tuples(
        st.sampled_from(["NCDHW", "NDHWC", "NDHW"]), st.sampled_from(["NCDHW", "NDHWC"])
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_network_that_does_not_care_for_sides_says_the_same_under_any_flips(
    flips: list[list[str]], layouts: tuple[str, str], seed: int
) -> None:
    spec = Input.model_validate(
        {"role": "image", "primary": True, "tensor": "x", "modality": ["CT"], "units": "1",
         "dimensions": "3D", "layout": layouts[0]}
    )  # fmt: skip
    segment = {
        "number": 1, "label": "a", "channel": 0, "color": [1, 2, 3], "description": "One.",
        "category": ["85756007", "SCT", "Tissue"], "type": ["3138006", "SCT", "Bone"],
    }  # fmt: skip
    output = Output.model_validate(
        {
            "task": "segmentation",
            "labels": {"tensor": "y", "layout": layouts[1], "encoding": "channels"},
            "segment": [segment],
        }
    )
    sizes = dict(zip("NCDHW", (1, 1, 2, 3, 4), strict=True))
    values = np.random.default_rng(seed).random((1, 1, 2, 3, 4)).astype(np.float32)

    def laid(layout: str) -> np.ndarray:
        shape = [sizes[letter] for letter in layout]
        order = ["NCDHW".index(letter) for letter in layout]
        return values.transpose(*order, *(a for a in range(5) if a not in order)).reshape(shape)

    ensemble = Ensemble.model_validate({"flips": flips})
    runs = []
    for feeds in ensemble.feeds((spec,), {"x": laid(layouts[0]), "fact": np.ones(1)}):
        seen = feeds["x"] if "C" in layouts[0] else feeds["x"][..., None]
        inner = layouts[0] if "C" in layouts[0] else "NDHWC"
        given_ = seen.transpose([inner.index(letter) for letter in layouts[1]])
        runs.append({"y": np.ascontiguousarray(given_)})
        assert feeds["fact"].tolist() == [1.0]
    joined = ensemble.joined(output, runs)["y"]
    assert np.allclose(joined, laid(layouts[1]), atol=1e-6)


@pytest.mark.parametrize(
    ("output", "ensemble", "said"),
    [
        (LABELS.replace('"channels"\nactivation = "sigmoid"\nselect = "threshold"\n'
                        'confidence = "mean"', '"index"'),
         'flips = [["rows"]]', "needs labels"),
        (LABELS, 'flips = [["slices"]]', 'dimensions = "3D"'),
        (LABELS, 'flips = [["rows", "rows"]]', "once"),
        (LABELS, 'flips = [["rows"], ["rows"]]', "once"),
        (LABELS, 'graphs = ["second.onnx"]', "'second.onnx' is not in files"),
    ],
)  # fmt: skip
def test_an_ensemble_that_has_no_mean_is_refused(output: str, ensemble: str, said: str) -> None:
    manifest = head() + primary_input() + output
    with pytest.raises(ManifestError, match=said):
        parse_manifest(unsealed(f"{manifest}\n[ensemble]\n{ensemble}\n"))

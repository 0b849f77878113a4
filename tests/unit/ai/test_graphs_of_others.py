"""What graphs made elsewhere do: rounding, fixed batches, loops, nothing at all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ai.engine import Engine
from ai.manifest import parse_manifest
from ai.models.graph import Graph
from ai.package import Package
from ai.registry import Registry, bundled_models_path
from ai.types import Code, Volume
from config.errors import InferenceError, ManifestError
from tests.model_packages import IMAGE, SLICES, WHOLE, above_zero, from_x_to_y, scored

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
SURE = scored("thing", 'tensor = "y", index = 0')


@pytest.mark.feature("P07")
def test_a_sigmoid_of_the_runtime_that_rounds_above_1_is_a_probability(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("sigmoid")
    g.named("Sigmoid", ["x"], ["y"])
    package = make_package(from_x_to_y(g), basis="trained", input=WHOLE, output=SURE)
    session = engine.sessions.get(package).session
    # Few values are rounded so: 17.763828 is one on x86-64.
    values = np.linspace(-40, 40, 2_000_000, dtype=np.float32).reshape(1, 1, -1, 8)
    (given,) = session.run(None, {"x": values})
    above = values[given == given.max()][0]
    volume = make_volume(np.full((1, 4, 8), above, np.float32))
    (finding,) = engine.run(package, {"image": volume}).findings
    assert finding.confidence.value == pytest.approx(1.0)
    assert finding.confidence.value is not None
    assert finding.confidence.value <= 1.0


def test_a_value_well_above_1_is_no_probability(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("identity")
    g.named("Identity", ["x"], ["y"])
    package = make_package(from_x_to_y(g), basis="trained", input=WHOLE, output=SURE)
    with pytest.raises(InferenceError, match=r"1\.01 lies outside 0 to 1"):
        engine.run(package, {"image": make_volume(np.full((1, 2, 2), 1.01, np.float32))})


@pytest.mark.parametrize(("batch", "sound"), [("batch = 1", True), ("batch = 2", False)])
def test_a_graph_for_one_image_a_run_is_found_when_it_is_loaded(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, batch: str, sound: bool
) -> None:
    package = make_package(above_zero((1, 1, "H", "W")), input=f"{SLICES}\n{batch}")
    if sound:
        labels = engine.run(package, {"image": make_volume(np.ones((3, 4, 4), np.int16))}).labels
        assert labels is not None
        assert labels.all()
    else:
        with pytest.raises(InferenceError, match=r"x takes 1 images a run, declared are 2"):
            engine.sessions.get(package)


def looping(times: int) -> bytes:
    """One Loop operator over matrix products."""
    float_ = TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "state"], ["product"]),
            helper.make_node("Softmax", ["product"], ["next"], axis=-1),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", float_, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", float_, None),
        ],
    )
    g = helper.make_graph(
        [
            helper.make_node("Loop", ["times", "true", "x"], ["end"], body=body),
            helper.make_node("Greater", ["end", "two"], ["above"]),
            helper.make_node("Cast", ["above"], ["y"], to=TensorProto.UINT8),
        ],
        "loop",
        [helper.make_tensor_value_info("x", float_, IMAGE)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, IMAGE)],
        [
            helper.make_tensor("times", TensorProto.INT64, [], [times]),
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
            helper.make_tensor("two", float_, [], [2.0]),
        ],
    )
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def test_a_graph_that_loops_is_stopped_in_the_middle_of_its_loop(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(looping(2000), input=WHOLE)
    engine.sessions.get(package)
    start = time.monotonic()
    with pytest.raises(InferenceError, match="its time was up"):
        engine.run(package, {"image": make_volume(np.ones((1, 384, 384), np.int16))}, 0.3)
    assert time.monotonic() - start < 3.0


def test_an_empty_answer_fails(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("empty")
    g.named("Slice", ["x", g.whole(0), g.whole(0), g.whole(3)], ["y"])
    ends = ("x", TensorProto.FLOAT, IMAGE), ("y", TensorProto.FLOAT, ("N", 1, "H", "none"))
    package = make_package(
        g.serialized(ends[:1], ends[1:]), basis="trained", input=WHOLE, output=SURE
    )
    with pytest.raises(InferenceError, match="output y is empty"):
        engine.run(package, {"image": make_volume(np.zeros((1, 4, 4), np.int16))})


@pytest.mark.parametrize(
    ("unit", "meaning"),
    [
        ("[hnsf'U]", "Hounsfield unit"),
        ("1", "no units"),
        ("g/ml{SUVbw}", "g/ml{SUVbw}"),
    ],
)
def test_statistics_carry_the_unit_of_the_image(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine, unit: str, meaning: str
) -> None:
    package = make_package()
    spec = package.manifest.input.model_copy(update={"units": unit})
    manifest = package.manifest.model_copy(update={"inputs": (spec,)})
    volume = make_volume(np.ones((1, 4, 4), np.int16), units=unit)
    (finding,) = engine.run(
        dataclasses.replace(package, manifest=manifest), {"image": volume}
    ).findings
    assert finding.measurements[1].unit == Code(unit, "UCUM", meaning)


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000 + "]" * 5000, "a = " + "[" * 260 + "]" * 260, "a = " + "9" * 5000],
    ids=["deep", "less deep", "long number"],
)
def test_a_manifest_that_exhausts_its_reader_is_a_fault_like_others(text: str) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(text)


def test_the_site_s_models_stand_beside_the_bundled_ones(
    make_package: PackageMaker,
) -> None:
    site = make_package().folder.parents[1]
    registry = Registry([bundled_models_path(), site])
    assert {entry.manifest.name for entry in registry.packages()} == {
        "ct-tissue",
        "mr-foreground",
        "us-region",
        "xr-quality",
        "test-model",
    }

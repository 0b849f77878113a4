from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from ai.engine import Engine
from ai.models.graph import Graph
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache, cuda_loads
from ai.types import Volume
from config.errors import InferenceError
from tests.model_packages import from_x_to_y

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]


@pytest.mark.feature("F05", "P27", "P35")
def test_many_threads_share_one_session_and_each_gets_its_own_answer(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    package = make_package()
    sessions = SessionCache(("cpu",), 1)
    engine = Engine(Registry([]), sessions)
    random = np.random.default_rng(7)
    images = [random.integers(-50, 50, (5, 16, 12)).astype(np.int16) for _ in range(24)]
    together = threading.Barrier(8)

    def one(image: np.ndarray) -> np.ndarray | None:
        if image is images[0] or any(image is other for other in images[1:8]):
            together.wait(30)
        return engine.run(package, {"image": make_volume(image)}).labels

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, images))
    for image, answer in zip(images, answers, strict=True):
        assert answer is not None
        assert np.array_equal(answer, image > 0)
    assert sessions.get(package) is sessions.get(package)


def slow_graph(steps: int = 600) -> bytes:
    """Products of large matrices, one operator each."""
    g = Graph("slow")
    name = "x"
    for _ in range(steps):
        name = g.op("Softmax", g.op("MatMul", name, "x"), axis=-1)
    g.named("Cast", [g.op("Greater", name, g.real(2.0))], ["y"], to=TensorProto.UINT8)
    return from_x_to_y(g, gives=TensorProto.UINT8)


def test_a_run_over_its_time_is_stopped_and_the_session_serves_on(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package(slow_graph())
    big = make_volume(np.ones((8, 512, 512), np.int16))
    engine.run(package, {"image": make_volume(np.ones((1, 8, 8), np.int16))})
    start = time.monotonic()
    with pytest.raises(InferenceError, match=r"test-model@1\.0\.0 was stopped: its time was up"):
        engine.run(package, {"image": big}, deadline_seconds=0.3)
    # In full it takes 600 × 8 products of 512² matrices, over ten times as long.
    assert time.monotonic() - start < 3.0
    small = engine.run(package, {"image": make_volume(np.ones((1, 8, 8), np.int16))}, 60.0)
    assert small.labels is not None


def test_no_time_at_all_runs_nothing(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    with pytest.raises(InferenceError, match="time was up"):
        engine.run(make_package(), {"image": make_volume(np.ones((1, 8, 8), np.int16))}, 0.0)


@pytest.mark.feature("P44")
def test_the_answer_says_what_ran_and_how_long_each_stage_took(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    answer = engine.run(make_package(), {"image": make_volume(np.ones((3, 8, 8), np.int16))})
    assert answer.provider == "CPUExecutionProvider"
    assert set(answer.seconds) == {"preprocess", "run", "postprocess"}
    assert all(value > 0 for value in answer.seconds.values())
    (finding,) = answer.findings
    assert [m.value for m in finding.measurements] == [3 * 64 * 0.5 / 1000, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("providers", ["auto", ("cuda", "cpu"), ("cuda",), ("cpu",)])
def test_the_provider_told_is_the_one_that_runs_and_a_fall_back_is_quiet(
    make_package: PackageMaker, capfd: pytest.CaptureFixture[str], providers: object
) -> None:
    loaded = SessionCache(providers, 1).get(make_package())  # type: ignore[arg-type]
    asked = providers == "auto" or "cuda" in providers  # type: ignore[operator]
    expected = "CUDAExecutionProvider" if asked and cuda_loads() else "CPUExecutionProvider"
    assert loaded.provider == expected
    assert loaded.provider == loaded.session.get_providers()[0]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    ("graph", "input_", "said"),
    [
        (b"no graph", None, "cannot be loaded"),
        (None, 'dimensions = "2D"\nlayout = "NHW"', "has 4 axes, not NHW"),
        (
            None,
            'dimensions = "2D"\nlayout = "NCHW"\nfacts = { range = "value_range" }',
            r"inputs are \['x'\], declared are \['range', 'x'\]",
        ),
    ],
)
def test_a_graph_that_is_not_the_declared_one_is_refused(
    make_package: PackageMaker, graph: bytes | None, input_: str | None, said: str
) -> None:
    package = make_package(graph, **({} if input_ is None else {"input": input_}))
    with pytest.raises(InferenceError, match=said):
        SessionCache(("cpu",), 1).get(package)


def test_a_graph_without_the_declared_output_is_refused(make_package: PackageMaker) -> None:
    g = Graph("other")
    g.named("Cast", ["x"], ["z"], to=TensorProto.UINT8)
    shape = ("N", 1, "H", "W")
    graph = g.serialized([("x", TensorProto.FLOAT, shape)], [("z", TensorProto.UINT8, shape)])
    with pytest.raises(InferenceError, match=r"no output \['y'\]"):
        SessionCache(("cpu",), 1).get(make_package(graph))


def test_the_inputs_are_those_declared(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    volume = make_volume(np.ones((1, 8, 8), np.int16))
    with pytest.raises(InferenceError, match="wants the inputs 'image', not prior"):
        engine.run(make_package(), {"prior": volume})


def test_a_model_that_fails_while_running_says_so_in_one_line(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    g = Graph("square only")
    g.named("Cast", [g.op("MatMul", "x", "x")], ["y"], to=TensorProto.UINT8)
    package = make_package(from_x_to_y(g, gives=TensorProto.UINT8))
    with pytest.raises(InferenceError, match=r"^test-model@1.0.0 failed: [^\n]+$"):
        engine.run(package, {"image": make_volume(np.ones((1, 4, 8), np.int16))})


@pytest.mark.feature("F05")
def test_weights_that_lie_beside_the_graph_are_not_read(
    make_package: PackageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.ones((1, 1, 64, 64), np.float32)
    weights.tofile(tmp_path / "w.bin")
    monkeypatch.chdir(tmp_path)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "beside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, "H", "W"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 1, "H", "W"))],
        [numpy_helper.from_array(weights, "w")],
    )
    (held,) = graph.initializer
    external_data_helper.set_external_data(held, "w.bin", 0, weights.nbytes)
    held.ClearField("raw_data")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InferenceError, match="cannot be loaded"):
        SessionCache(("cpu",), 1).get(make_package(model.SerializeToString()))

"""Runs that wait for each other, and runs that must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ai.batching import Lanes, items_are_apart
from ai.engine import Engine
from ai.loaded import LoadedModel, plainly
from ai.models.graph import Graph
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from config.errors import InferenceError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
SHAPE = ("N", 1, "H", "W")


class Counting:
    """A session that notes how many items each of its runs had."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.items: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def run(self, outputs: list[str], feeds: dict[str, Any], options: Any) -> Any:
        self.may_go.wait(30)
        self.items.append(len(feeds["x"]))
        return self._session.run(outputs, feeds, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def counted(model: LoadedModel) -> tuple[LoadedModel, Counting]:
    assert items_are_apart(model)
    counting = Counting(model.session)
    return replace(model, session=counting), counting


def image(value: float, size: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 1, size, size), value, np.float32)}


def test_runs_of_several_callers_become_one_within_the_time_set(
    make_package: PackageMaker,
) -> None:
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    lanes = Lanes(sessions, 1, wait_seconds=5.0)
    values = [1, -1, 2, -2, 3, -3, 4, -4]  # as many as the model's batch: full, so it waits no more
    start = time.monotonic()
    waiting = [lanes.submit(model, image(value), None) for value in values]
    answers = [lanes.result(model, each, None) for each in waiting]
    assert time.monotonic() - start < 4.0
    assert counting.items == [8]
    for value, answer in zip(values, answers, strict=True):
        assert answer.tensors["y"].shape == (1, 1, 4, 4)
        assert (answer.tensors["y"] == (value > 0)).all()


def test_a_run_that_nobody_joins_goes_when_its_time_is_over(make_package: PackageMaker) -> None:
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    lanes = Lanes(sessions, 1, wait_seconds=0.1)
    answer = lanes.submit(model, image(1), None)
    assert (lanes.result(model, answer, None).tensors["y"] == 1).all()
    assert counting.items == [1]


def test_other_shapes_are_not_joined(make_package: PackageMaker) -> None:
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    lanes = Lanes(sessions, 1, wait_seconds=0.1)
    waiting = [lanes.submit(model, image(1, size), None) for size in (4, 6, 4)]
    shapes = [lanes.result(model, each, None).tensors["y"].shape[2] for each in waiting]
    assert shapes == [4, 6, 4]
    assert sorted(counting.items) == [1, 2]


def test_on_a_cpu_nothing_is_joined_and_nothing_waits(make_package: PackageMaker) -> None:
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    counting.may_go.clear()
    lanes = Lanes(sessions, 1)
    waiting = [lanes.submit(model, image(value), None) for value in (1, 2, 3)]
    counting.may_go.set()
    for each in waiting:
        lanes.result(model, each, None)
    assert counting.items == [1, 1, 1]


def mixing_graph() -> bytes:
    """Above the mean of the whole batch."""
    g = Graph("mixing")
    mean = g.op("ReduceMean", "x", keepdims=1)
    g.named("Cast", [g.op("Greater", "x", mean)], ["y"], to=TensorProto.UINT8)
    return g.serialized([("x", TensorProto.FLOAT, SHAPE)], [("y", TensorProto.UINT8, SHAPE)])


def test_a_graph_that_lets_one_image_change_the_answer_of_another_is_never_joined(
    make_package: PackageMaker,
) -> None:
    sessions = SessionCache(("cpu",), 1)
    model = sessions.get(make_package(mixing_graph()))
    assert not items_are_apart(model)
    lanes = Lanes(sessions, 1, wait_seconds=0.1)
    ramp = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    waiting = [lanes.submit(model, {"x": ramp + shift}, None) for shift in (0, 100)]
    for each in waiting:
        tensors = lanes.result(model, each, None).tensors
        assert np.array_equal(tensors["y"], ramp > ramp.mean())


def test_one_of_those_joined_that_cannot_run_does_not_take_the_others_with_it(
    make_package: PackageMaker,
) -> None:
    g = Graph("lookup")
    table = g.array(np.arange(10, dtype=np.uint8))
    places = g.op("Cast", "x", to=TensorProto.INT64)
    g.named("Gather", [table, places], ["y"])
    graph = g.serialized([("x", TensorProto.FLOAT, SHAPE)], [("y", TensorProto.UINT8, SHAPE)])
    sessions = SessionCache(("cpu",), 1)
    model = sessions.get(make_package(graph))
    model.usage.apart = True  # random numbers are no places in the table
    lanes = Lanes(sessions, 1, wait_seconds=0.1)
    waiting = [lanes.submit(model, image(value), None) for value in (3, 99, 5)]
    assert (lanes.result(model, waiting[0], None).tensors["y"] == 3).all()
    assert (lanes.result(model, waiting[2], None).tensors["y"] == 5).all()
    with pytest.raises(InferenceError, match=r"test-model@1\.0\.0 failed"):
        lanes.result(model, waiting[1], None)


@pytest.mark.feature("P27")
def test_slices_of_one_series_run_on_every_lane_and_come_back_in_order(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    sessions = SessionCache(("cpu",), 1)
    package = make_package(input='dimensions = "2D"\napply = "slices"\nbatch = 1\nlayout = "NCHW"')
    engine = Engine(Registry([]), sessions, Lanes(sessions, 4))
    voxels = np.random.default_rng(3).integers(-5, 5, (40, 12, 10)).astype(np.int16)
    with ThreadPoolExecutor(3) as pool:
        answers = list(
            pool.map(lambda _: engine.run(package, {"image": make_volume(voxels)}), range(6))
        )
    for answer in answers:
        assert np.array_equal(answer.labels, voxels > 0)


def test_a_caller_whose_time_is_up_is_told_so_while_its_run_waits(
    make_package: PackageMaker,
) -> None:
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    counting.may_go.clear()
    lanes = Lanes(sessions, 1)
    first = lanes.submit(model, image(1), None)
    second = lanes.submit(model, image(2), time.monotonic() - 1.0)
    with pytest.raises(InferenceError, match="its time was up"):
        lanes.result(model, second, time.monotonic() - 1.0)
    counting.may_go.set()
    assert (lanes.result(model, first, None).tensors["y"] == 1).all()
    assert counting.items == [1]


def test_what_waits_while_a_gpu_is_busy_becomes_one_run(
    make_package: PackageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A session of the CPU stands in for one of a GPU: only where its tensors lie is another matter.
    monkeypatch.setattr("ai.loaded.bound", plainly)
    sessions = SessionCache(("cpu",), 1)
    model, counting = counted(sessions.get(make_package()))
    model = replace(model, provider="CUDAExecutionProvider")
    counting.may_go.clear()
    lanes = Lanes(sessions, 8)
    busy = [lanes.submit(model, image(value, 6 + value), None) for value in (1, 2)]
    while model.usage.running < 2:
        time.sleep(0.001)
    values = [3, -3, 4, -4, 5]
    waiting = [lanes.submit(model, image(value), None) for value in values]
    time.sleep(0.05)
    assert model.usage.running == 2  # of eight lanes two use a GPU
    counting.may_go.set()
    for value, answer in zip([1, 2, *values], [*busy, *waiting], strict=True):
        assert (lanes.result(model, answer, None).tensors["y"] == (value > 0)).all()
    assert sorted(counting.items) == [1, 1, 5]

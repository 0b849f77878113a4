"""Which runs have all cores: the only one of the only job, where a volume is taken at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai.batching import Lanes
from ai.engine import Engine
from ai.loaded import LoadedModel
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from tests.model_packages import LABELS, SLICES, SPACE, VOLUME, above_zero
from tests.unit.ai.conftest import PackageMaker

VolumeMaker = Callable[..., Volume]
IN_SPACE = LABELS.replace('"NCHW"', '"NCDHW"')
SCORED = IN_SPACE.replace('encoding = "index"', 'encoding = "channels"') + "channel = 0\n"


class Counted:
    """A session that counts its runs and may hold them up."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = 0
        self.began = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        self.began.set()
        assert self.may_go.wait(30)
        return self._session.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def counted(model: LoadedModel) -> tuple[LoadedModel, Counted, Counted]:
    usual, alone = Counted(model.session), Counted(model.alone)
    return replace(model, session=usual, alone=alone), usual, alone


@pytest.fixture
def whole(make_package: PackageMaker) -> Package:
    return make_package(above_zero(VOLUME), input=SPACE, output=IN_SPACE)


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.ones((1, 1, 2, 3, 4), np.float32)}


@pytest.mark.parametrize(
    ("threads", "lines", "output", "alone"),
    [
        (1, SPACE, IN_SPACE, 3),
        (3, SPACE, IN_SPACE, None),
        (1, SLICES, LABELS, None),
        (1, f"{SPACE}\n[inputs.sliding]\npatch = [2, 2, 2]\n", SCORED, None),
    ],
    ids=["a volume at once", "all cores as it is", "slices", "patches"],
)
def test_only_a_graph_with_one_long_run_has_a_session_with_all_cores(
    make_package: PackageMaker, threads: int, lines: str, output: str, alone: int | None
) -> None:
    graph = above_zero(VOLUME) if lines.startswith(SPACE) else None
    made = make_package(graph, input=lines, output=output)
    model = SessionCache(("cpu",), threads, threads_alone=3).get(made)
    assert model.threads_alone == alone
    assert model.session.get_session_options().intra_op_num_threads == threads
    assert SessionCache(("cpu",), threads).get(made).threads_alone is None


def test_the_only_run_of_the_only_job_has_all_cores(whole: Package) -> None:
    sessions = SessionCache(("cpu",), 1, threads_alone=2)
    model, usual, alone = counted(sessions.get(whole))
    lanes = Lanes(sessions, 2)
    with lanes.job():
        lanes.result(model, lanes.submit(model, feeds(), None, alone=True), None)
        assert (usual.runs, alone.runs) == (0, 1)
        # The job has more to run meanwhile.
        lanes.result(model, lanes.submit(model, feeds(), None), None)
        assert (usual.runs, alone.runs) == (1, 1)
        with lanes.job():
            lanes.result(model, lanes.submit(model, feeds(), None, alone=True), None)
        assert (usual.runs, alone.runs) == (2, 1)
        lanes.result(model, lanes.submit(model, feeds(), None, alone=True), None)
    assert (usual.runs, alone.runs) == (2, 2)


def test_what_comes_while_a_run_has_all_cores_starts_beside_it(whole: Package) -> None:
    sessions = SessionCache(("cpu",), 1, threads_alone=2)
    model, usual, alone = counted(sessions.get(whole))
    lanes = Lanes(sessions, 2)
    alone.may_go.clear()
    with lanes.job():
        first = lanes.submit(model, feeds(), None, alone=True)
        assert alone.began.wait(30)
        second = lanes.submit(model, feeds(), None, alone=True)
        assert (lanes.result(model, second, None).tensors["y"] == 1).all()
        assert (usual.runs, alone.runs) == (1, 1)
        alone.may_go.set()
        assert (lanes.result(model, first, None).tensors["y"] == 1).all()


@pytest.mark.feature("P10")
def test_jobs_at_once_share_the_cores_and_answer_as_one_alone_does(
    whole: Package, make_volume: VolumeMaker
) -> None:
    made: list[tuple[LoadedModel, Counted, Counted]] = []

    class Counting(SessionCache):
        def get(self, package: Package, graph: str | None = None) -> LoadedModel:
            if not made:
                made.append(counted(super().get(package, graph)))
            return made[0][0]

    engine = Engine(Registry([]), Counting(("cpu",), 1, threads_alone=2))
    engine.load(whole)
    (_, usual, alone), *_ = made
    voxels = np.random.default_rng(1).normal(0, 1, (3, 5, 7)).astype(np.float32)
    inputs = {"image": make_volume(voxels)}
    first = engine.run(whole, inputs)
    assert (usual.runs, alone.runs) == (0, 1)
    usual.may_go.clear()
    with ThreadPoolExecutor(2) as pool:
        alone.began.clear()
        alone.may_go.clear()
        beside = pool.submit(engine.run, whole, inputs)
        assert alone.began.wait(30)
        late = pool.submit(engine.run, whole, inputs)
        assert usual.began.wait(30)
        alone.may_go.set()
        usual.may_go.set()
        answers = [beside.result(), late.result()]
    assert (usual.runs, alone.runs) == (1, 2)
    for answer in answers:
        assert np.array_equal(answer.labels, first.labels)

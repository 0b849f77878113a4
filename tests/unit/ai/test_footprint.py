"""What a graph holds while it runs: known after its first run, and counted before a job starts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai import memory
from ai.engine import Engine
from ai.loaded import LoadedModel
from ai.models.graph import Graph
from ai.package import Package
from ai.preprocess import Plan, plan
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from config.errors import InferenceError
from tests.model_packages import LABELS, SPACE, VOLUME, from_x_to_y
from tests.unit.ai.conftest import PackageMaker

VolumeMaker = Callable[..., Volume]
COPIES = 40
PATCHES = f"{SPACE}\n[inputs.sliding]\npatch = [8, 8, 8]\noverlap = 0.5\n"
SCORED = (
    LABELS.replace('"NCHW"', '"NCDHW"').replace('encoding = "index"', 'encoding = "channels"')
    + "channel = 0\n"
)
ONE = 4 * 8**3  # bytes of a patch


def broad() -> bytes:
    """The mean of many copies of the input, all of which stand side by side in between."""
    g = Graph("broad")
    # A weight, which is there before any run.
    moved = g.op("Add", "x", g.array(np.full((1, 1, 1, 1, 1), 0.5, np.float32)))
    side_by_side = g.op("Concat", *[moved] * COPIES, axis=1)
    g.named("ReduceMean", [side_by_side, g.whole(1)], ["y"], keepdims=1)
    return from_x_to_y(g, VOLUME)


@pytest.fixture
def patches(make_package: PackageMaker) -> Package:
    return make_package(broad(), basis="trained", input=PATCHES, output=SCORED)


def planned(model: LoadedModel, volume: Volume) -> list[Plan]:
    return [plan(model.package.manifest.input, volume)]


def test_the_first_run_tells_what_the_graph_holds(patches: Package) -> None:
    model = SessionCache(("cpu",), 1).get(patches)
    # The copies, what they are made of, and no more than rounding beside it.
    assert model.working is not None
    assert COPIES * ONE <= model.working <= (COPIES + 2) * ONE


@pytest.mark.feature("F06")
def test_it_is_counted_for_each_run_at_a_time(patches: Package, make_volume: VolumeMaker) -> None:
    model = SessionCache(("cpu",), 1).get(patches)
    unknown = replace(model, working=None)
    plans = planned(model, make_volume(np.zeros((16, 16, 16), np.int16)))

    def more(runs: int) -> float:
        added = memory.needed(model, plans, runs) - memory.needed(unknown, plans, runs)
        return added / (model.working or 1)

    # The first run is over, and what it took is kept for the next one.
    assert [more(runs) for runs in (1, 2, 4)] == [0, 1, 3]
    model.rest()
    assert [more(runs) for runs in (1, 2, 4)] == [1, 2, 4]
    # One patch has one run.
    plans = planned(model, make_volume(np.zeros((8, 5, 8), np.int16)))
    assert more(4) == 1


def test_of_another_shape_nothing_is_said(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    whole = make_package(broad(), basis="trained", input=SPACE, output=SCORED)
    model = SessionCache(("cpu",), 1).get(whole)
    model.rest()
    plans = planned(model, make_volume(np.zeros((16, 16, 16), np.int16)))
    unknown = replace(model, working=None)
    assert memory.needed(model, plans, 2) == memory.needed(unknown, plans, 2)


def test_a_job_whose_graph_would_not_fit_is_refused_before_it_starts(
    patches: Package, make_volume: VolumeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    model = engine.sessions.get(patches)
    volume = make_volume(np.zeros((16, 16, 16), np.int16))
    wanted = memory.needed(replace(model, working=None), planned(model, volume), engine.lanes.count)
    monkeypatch.setattr("ai.devices.free_memory", lambda: wanted + ONE)
    model.rest()
    with pytest.raises(InferenceError, match="GiB are free"):
        engine.run(patches, {"image": volume})
    monkeypatch.setattr(
        "ai.devices.free_memory", lambda: wanted + engine.lanes.count * (model.working or 0)
    )
    labels = engine.run(patches, {"image": volume}).labels
    assert labels is not None
    assert labels.all()


def test_nothing_is_left_of_the_account(
    patches: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = SessionCache(("cpu",), 1).get(patches)
    assert model.working
    model.run(model.blank(), None)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_room_for_it_the_model_runs_all_the_same(
    patches: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    model = SessionCache(("cpu",), 1).get(patches)
    assert model.working is None
    assert model.run(model.blank(), None)["y"].shape == (1, 1, 8, 8, 8)

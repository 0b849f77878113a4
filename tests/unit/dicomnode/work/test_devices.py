"""What models run on, where people look for it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ai.devices import cuda_loads, why_not
from ai.registry import Registry, bundled_models_path
from config.schema import RouteSettings, Settings
from dicomnode.web.service import _devices
from dicomnode.work.devices import DeviceBoard, in_words, loaded_models, preload
from dicomnode.work.models import make_engine

needs_no_gpu = pytest.mark.skipif(cuda_loads(), reason="this machine has a GPU")


def settings(providers: object) -> Settings:
    routes = tuple(
        RouteSettings(name=name, when={"Modality": "CR"}, model=model)
        for name, model in (("CR", "xr-quality"), ("lost", "not-there"))
    )
    return Settings(models={"providers": providers}, routes=routes)


@needs_no_gpu
@pytest.mark.parametrize(
    ("providers", "asked", "alarms"), [("auto", "auto", 0), (["cuda"], "cuda", 1)]
)
def test_what_runs_a_model_is_told_and_a_listed_provider_that_does_not_is_an_alarm(
    tmp_path: Path, providers: object, asked: str, alarms: int
) -> None:
    assert loaded_models(tmp_path) == []
    given = settings(providers)
    engine = make_engine(given, Registry([bundled_models_path()]), tmp_path)
    board = DeviceBoard(tmp_path, given, engine.sessions.loaded)
    engine.sessions.changed = board.show
    with capture_logs() as logs:
        preload(given, engine, threading.Event())
        board.show()  # said once, however often it is shown
    (row,) = loaded_models(tmp_path)
    assert row["met"] is not bool(alarms)
    assert in_words(row).endswith(f": asked {asked}, runs cpu: {why_not('cuda')}")
    alarmed = [entry for entry in logs if entry["event"] == "model.provider_not_met"]
    assert len(alarmed) == alarms
    assert [entry["model"] for entry in logs if entry["event"] == "model.not_loaded"] == [
        "not-there"
    ]
    figures = {figure.name: figure.samples for figure in _devices(tmp_path)}
    assert figures["medai_models_loaded"] == {(row["model"], asked, "cpu"): 1}
    assert figures["medai_provider_not_met"] == {(row["model"],): float(alarms)}


def test_a_model_that_may_have_all_cores_is_told_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    given = settings(["cpu"])
    engine = make_engine(given, Registry([bundled_models_path()]), tmp_path)
    board = DeviceBoard(tmp_path, given, engine.sessions.loaded)
    for name in ("mr-foreground", "xr-quality"):
        engine.sessions.get(engine.registry.find(name))
    board.show()
    told = {row["model"].partition("@")[0]: in_words(row) for row in loaded_models(tmp_path)}
    assert told["mr-foreground"].endswith("asked cpu, runs cpu, alone on 2 threads")
    assert told["xr-quality"].endswith("asked cpu, runs cpu")


def test_a_model_that_left_memory_is_no_longer_told(tmp_path: Path) -> None:
    given = settings(["cpu"])
    engine = make_engine(given, Registry([bundled_models_path()]), tmp_path)
    engine.sessions.changed = DeviceBoard(tmp_path, given, engine.sessions.loaded).show
    model = engine.sessions.get(engine.registry.find("xr-quality"))
    assert [row["runs"] for row in loaded_models(tmp_path)] == ["cpu"]
    model.usage.last -= given.models.idle_seconds + 1
    engine.sessions.rest()
    assert loaded_models(tmp_path) == []
    json.loads((tmp_path / "devices.json").read_text("utf-8"))


@pytest.mark.parametrize(("workers", "lanes"), [(0, None), (1, 1), (64, None)])
def test_threads_that_run_models_times_the_runtimes_own_are_the_cores(
    tmp_path: Path, workers: int, lanes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    given = Settings(models={"workers": workers})
    engine = make_engine(given, Registry([]), tmp_path)
    assert engine.lanes.count == (lanes or 4)
    assert engine.lanes.count * engine.sessions.threads == 4

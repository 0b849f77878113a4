"""What models run on, told where people look: a file in the data folder, and the log."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from config.errors import ModelError
from config.schema import Settings
from dicomnode.work.borders import reported
from dicomnode.work.inventory import idle_routes, uses

if TYPE_CHECKING:
    from ai.engine import Engine
    from ai.loaded import LoadedModel

log = structlog.get_logger(__name__)

_FILE = "devices.json"
_TEND_SECONDS = 5.0


def loaded_models(data_dir: Path) -> list[dict[str, Any]]:
    """The models that the worker holds in memory and what runs them.

    Returns:
        Rows of ``model``, ``graph``, ``asked``, ``runs``, ``reason``, ``met`` (false where a
        provider that the settings list does not run it), ``most`` (items a run may have, once
        memory was short, else null), ``threads_alone`` (of a run that has all cores while no other
        one goes on, else null); none where no worker ran yet.
    """
    try:
        rows: list[dict[str, Any]] = json.loads((data_dir / _FILE).read_text("utf-8"))
    except FileNotFoundError:
        return []
    return rows


def in_words(row: dict[str, Any]) -> str:
    """One model on one line: ``asked cuda, runs cpu: there is no NVIDIA driver``."""
    reason = f": {row['reason']}" if row["reason"] else ""
    threads = row.get("threads_alone")
    alone = f", alone on {threads} threads" if threads else ""
    return f"{row['model']}: asked {row['asked']}, runs {row['runs']}{alone}{reason}"


class DeviceBoard:
    """Keeps the file up to date, and logs when a provider of the settings does not run.

    Args:
        data_dir: The node's data folder.
        settings: The node's settings.
        loaded: Gives the sessions that there are.
    """

    def __init__(
        self, data_dir: Path, settings: Settings, loaded: Callable[[], Iterable[LoadedModel]]
    ) -> None:
        self._file = data_dir / _FILE
        self._asked = settings.models.providers
        self._loaded = loaded
        self._lock = threading.Lock()
        self._alarmed: set[tuple[str, str]] = set()

    def show(self) -> None:
        """Write down what is loaded now."""
        with self._lock:
            rows = [self._row(model) for model in self._loaded()]
            waiting = self._file.with_suffix(".new")
            waiting.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            os.replace(waiting, self._file)
            for row in rows:
                self._alarm(row)

    def _row(self, model: LoadedModel) -> dict[str, Any]:
        return {
            "model": model.reference,
            "graph": model.graph,
            "asked": model.asked,
            "runs": model.runs,
            "reason": model.reason,
            "met": self._asked == "auto" or model.runs == self._asked[0],
            "most": model.usage.limit,
            "threads_alone": model.threads_alone,
        }

    def _alarm(self, row: dict[str, Any]) -> None:
        key = row["model"], row["reason"]
        if not row["met"] and key not in self._alarmed:
            self._alarmed.add(key)
            log.error(
                "model.provider_not_met",
                model=row["model"], asked=row["asked"], runs=row["runs"], why=row["reason"],
            )  # fmt: skip


def tend(settings: Settings, engine: Engine, stopping: threading.Event) -> None:
    """Have the models of the routes ready and let idle ones go, until the worker ends.

    A version that comes into use meanwhile is loaded then.

    Args:
        settings: The node's settings.
        engine: Runs the models.
        stopping: Set when the worker ends.
    """
    known: set[str] = set()
    while not stopping.is_set():
        if settings.models.preload:
            with reported("loading models"):
                known = preload(settings, engine, stopping, known)
        if not stopping.wait(_TEND_SECONDS):
            with reported("letting models rest"):
                engine.sessions.rest()


def preload(
    settings: Settings, engine: Engine, stopping: threading.Event, known: Collection[str] = ()
) -> set[str]:
    """Load and warm the versions that routes use, so that the first job does not wait for it.

    What cannot be loaded is logged; the job that needs it will say so too.

    Args:
        settings: The node's settings.
        engine: Runs the models.
        stopping: Set when the worker ends.
        known: The versions that were in use before.

    Returns:
        The versions that are in use now, canaries and shadows too.
    """
    idle = idle_routes(settings, engine.registry)
    lost = [route.model for route in settings.routes if route.name in idle]
    used = [*uses(settings, engine.registry), *lost]
    for reference in used:
        if reference in known or stopping.is_set():
            continue
        try:
            engine.load(engine.registry.find(reference))
        except ModelError as error:
            log.warning("model.not_loaded", model=reference, why=str(error))
    return set(used)

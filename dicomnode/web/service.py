"""The web process: what the node's health and numbers are, read from its data folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from config.errors import StorageError
from config.schema import Settings
from dicomnode.net.tls import server_faults
from dicomnode.web.app import create_app, serve
from dicomnode.web.feedback import feedback_routes
from dicomnode.web.metrics import Figure
from dicomnode.web.tokens import Bearers
from dicomnode.web.watching import MOST_ALERTS, watch_figures
from dicomnode.work.devices import loaded_models
from storage import alerts, overview, scrub
from storage.db import open_ledger
from storage.faults import faults
from storage.objects import ObjectStore
from storage.records import Delivery, Job

OPEN_JOBS = ["queued", "running", "validating"]
OPEN_DELIVERIES = ["waiting", "sending"]


def problems(settings: Settings, data_dir: Path) -> list[str]:
    """What keeps the node from its work, one plain sentence each."""
    found = faults(data_dir, min_free=settings.storage.min_free)
    try:
        state = json.loads((data_dir / "node.json").read_text(encoding="utf-8"))
    except OSError:
        return found or ["the data folder is not the one of the running node"]
    failing = state["failing"]
    if why := state.get("waits"):
        found.append(
            f"what was begun before the start is not finished, nothing new is taken: {why}"
        )
    found += [f"process {name} is down and is being restarted" for name in failing]
    return [*found, *_certificate_problems(settings)]


def _certificate_problems(settings: Settings) -> Iterator[str]:
    if settings.node.tls is not None:
        for key, what, _ in server_faults(settings.node.tls):
            yield f"{key}: found {what}; connections get the last good one"


def raised_alerts() -> list[dict[str, Any]]:
    """The alerts that are raised, as ``/health`` and ``status`` show them."""
    try:
        return alerts.shown(MOST_ALERTS, only_raised=True)
    except StorageError:
        return []  # which is a problem of its own, and told as that


def figures(settings: Settings, data_dir: Path, store: ObjectStore) -> Iterator[Figure]:
    """The node's numbers, from the database and the disk."""
    yield from watch_figures(settings.watch.window_seconds)
    for noun, states in overview.counts_by_state().items():
        yield Figure(
            f"medai_{noun}_rows",
            f"Rows of kind {noun} by state.",
            {(state,): float(count) for state, count in states.items()},
            labels=("state",),
        )
    yield from _devices(data_dir)
    open_associations = float(overview.open_associations())
    yield Figure("medai_open_associations", "Associations open now.", {(): open_associations})
    for noun, table, states_open in (
        ("job", Job, OPEN_JOBS),
        ("delivery", Delivery, OPEN_DELIVERIES),
    ):
        age = overview.oldest_waiting_seconds(table, states_open)
        yield Figure(
            f"medai_oldest_open_{noun}_seconds",
            f"Age of the oldest {noun} that is not done, in seconds.",
            {(): age},
        )
    yield Figure(
        "medai_disk_free_bytes",
        "Bytes that the disk of the data folder still takes.",
        {(): float(store.free_bytes())},
    )
    found = Counter(scrub.findings().values())
    yield Figure(
        "medai_scrub_findings",
        "Stored objects that are not as they were stored.",
        {(kind,): float(found[kind]) for kind in ("damaged", "missing")},
        labels=("kind",),
    )
    yield Figure(
        "medai_scrub_objects_total",
        "Stored objects that were read again.",
        {(): float(scrub.place().objects)},
        kind="counter",
    )
    state = json.loads((data_dir / "node.json").read_text(encoding="utf-8"))
    yield Figure(
        "medai_process_restarts_total",
        "How often a process of the node was restarted.",
        {(name,): float(count) for name, count in state["processes"].items()},
        labels=("process",),
        kind="counter",
    )


def _devices(data_dir: Path) -> Iterator[Figure]:
    rows = loaded_models(data_dir)
    yield Figure(
        "medai_models_loaded",
        "Models in memory, by what was asked to run them and what does.",
        Counter((row["model"], row["asked"], row["runs"]) for row in rows),
        labels=("model", "asked", "runs"),
    )
    yield Figure(
        "medai_provider_not_met",
        "1 for a model in memory that the first of the providers in the settings does not run.",
        {(row["model"],): float(not row["met"]) for row in rows},
        labels=("model",),
    )


def run_web(
    settings: Settings,
    data_dir: Path,
    listening: socket.socket,
    stop: Connection,
    ready: Connection,
) -> None:
    """The main function of the web process.

    Args:
        settings: The node's settings.
        data_dir: Its data folder.
        listening: Where it answers.
        stop: Readable, or closed at the other side, when the process is to end.
        ready: Gets the port that answers.
    """
    ledger = open_ledger(data_dir)
    store = ObjectStore(data_dir, min_free=settings.storage.min_free)
    app = create_app(
        lambda: problems(settings, data_dir),
        lambda: figures(settings, data_dir, store),
        raised_alerts,
        feedback_routes(Bearers(settings.web.tokens), ledger) if settings.web.tokens else (),
    )
    threading.Thread(target=_end_when_told, args=(stop,), daemon=True).start()
    serve(app, listening, ready.send)


def _end_when_told(stop: Connection) -> None:
    stop.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)

"""A ledger, an object store and an assembler on one folder, without network or processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai.registry import Registry, bundled_models_path
from config.schema import RouteSettings, Settings
from dicomnode.work.assembler import Assembler
from storage import index, jobs
from storage.db import Ledger, open_ledger
from storage.index import Arrival, Kept
from storage.objects import ObjectStore
from storage.records import Instance, Job, Series, Study

ROUTES = (
    RouteSettings(
        name="CT",
        when={"Modality": "CT", "slices": {"min": 10}, "localizer": False},
        model="ct-tissue",
    ),
    RouteSettings(name="CR", when={"Modality": "CR"}, model="xr-quality"),
    RouteSettings(name="MR", when={"Modality": "MR"}, model="not-there"),
)
AT_ONCE: dict[str, Any] = {
    "series": {"quiet_seconds": 0, "give_up_seconds": 86400, "study_quiet_seconds": 0},
    "routes": ROUTES,
}


def part10(image: Dataset) -> bytes:
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class Node:
    """The way from an object that was received to the queue."""

    def __init__(self, folder: Path, registry: Registry, **settings: Any) -> None:
        self.ledger: Ledger = open_ledger(folder)
        self.store = ObjectStore(folder, min_free=0)
        self.registry = registry
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """As a restart under other settings does."""
        self.assembler = Assembler(
            Settings(**(AT_ONCE | settings)), self.ledger, self.store, self.registry, "node"
        )

    def close(self) -> None:
        self.store.close()
        self.ledger.close()

    def open(self, calling_ae: str = "CT1") -> int:
        return index.open_association(
            self.ledger, calling_ae=calling_ae, called_ae="M", address="127.0.0.1", receiver="r"
        )

    def release(self, association: int) -> None:
        index.close_association(self.ledger, association, "released")

    def store_on(
        self, association: int, images: Sequence[Dataset], damage: int | None = None
    ) -> list[Kept]:
        """Receive objects; `damage` cuts each of them off after so many bytes."""
        arrivals = []
        for image in images:
            kept = self.store.put(part10(image)[:damage])
            arrivals.append(
                Arrival(
                    sop_instance_uid=image.SOPInstanceUID,
                    sop_class_uid=image.SOPClassUID,
                    transfer_syntax_uid=image.file_meta.TransferSyntaxUID,
                    study_instance_uid=image.StudyInstanceUID,
                    series_instance_uid=image.SeriesInstanceUID,
                    digest=kept.digest,
                    size=kept.size,
                    object_key=kept.key,
                    association_id=association,
                )
            )
        return index.record_arrivals(self.ledger, arrivals)

    def receive(
        self, images: Sequence[Dataset], calling_ae: str = "CT1", damage: int | None = None
    ) -> list[Kept]:
        """One association from its request to its release."""
        association = self.open(calling_ae)
        kept = self.store_on(association, images, damage)
        self.release(association)
        return kept

    def step(self) -> int:
        """How many jobs that made."""
        queued, _ = self.assembler.step()
        return queued


def only_series() -> Series:
    (row,) = Series.select()
    return row


def only_study() -> Study:
    (row,) = Study.select()
    return row


def job_states() -> list[str]:
    return [job.state for job in Job.select().order_by(Job.id)]


def inputs(job: Job) -> list[Instance]:
    return [row for rows in jobs.inputs_of(job).values() for row in rows]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry([bundled_models_path()])


@pytest.fixture
def node(tmp_path: Path, registry: Registry) -> Iterator[Node]:
    opened = Node(tmp_path / "node", registry)
    yield opened
    opened.close()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the assembler's clock on, and that clock alone."""

    def move(seconds: float) -> None:
        clock = SimpleNamespace(time=lambda: time.time() + seconds)
        monkeypatch.setattr("dicomnode.work.assembler.time", clock)

    return move

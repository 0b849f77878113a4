"""One worker in this process: what becomes of a job, and of one that was taken away from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ai.registry import Registry
from config.schema import RouteSettings, Settings
from dicomnode.net.standin import StandInPacs
from dicomnode.work.delivery import Courier
from dicomnode.work.models import make_registry
from dicomnode.work.worker import Worker
from storage import attempts, fallback, outbox
from storage.outbox import NewResult
from storage.records import Delivery, Job
from tests import factories
from tests.model_packages import SPACE, head, nested, overlapping, primary_input, write_package
from tests.unit.dicomnode.work.conftest import Node, job_states

ROUTE = RouteSettings(
    name="CR", when={"Modality": "CR"}, model="xr-quality", send_to=("pacs", "gone")
)


def objects(data_dir: Path) -> int:
    """How many files lie in the object store."""
    found = (data_dir / "objects").rglob("*")
    return sum(path.is_file() and path.name != "closed" for path in found)


@pytest.fixture
def job(tmp_path: Path, registry: Registry) -> Job:
    both = [
        {"name": name, "ae_title": "P", "host": "127.0.0.1", "port": 1} for name in ROUTE.send_to
    ]
    node = Node(tmp_path, registry, routes=(ROUTE,), destinations=both)
    node.receive([factories.cr_image(seed=1)])
    assert node.step() == 1
    node.close()
    (row,) = Job.select()
    return row


@pytest.fixture
def worker(tmp_path: Path, job: Job) -> Iterator[Worker]:
    settings = Settings(
        destinations=[{"name": "pacs", "ae_title": "P", "host": "127.0.0.1", "port": 1}],
    ).model_copy(update={"routes": (ROUTE,)})
    made = Worker(settings, tmp_path)
    yield made
    made.close()


@pytest.mark.feature("P43")
def test_a_job_ends_ready_and_a_destination_that_is_gone_waits(worker: Worker) -> None:
    assert worker.runner.run_one()
    assert job_states() == ["ready"]
    waiting = {(row.destination, row.result.kind) for row in Delivery.select()}
    assert waiting == {("pacs", "sr"), ("gone", "sr")}


def test_objects_of_a_job_that_was_cancelled_meanwhile_do_not_stay(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects(tmp_path)
    finish: Callable[..., None] = attempts.finish

    def cancelled_first(
        ledger: object, running: Job, results: Sequence[NewResult], *rest: object, **more: object
    ) -> None:
        attempts.cancel(worker.ledger, Job.get_by_id(running.id), "user:test")
        assert objects(tmp_path) == before + len(results)
        finish(ledger, running, results, *rest, **more)

    monkeypatch.setattr(attempts, "finish", cancelled_first)
    assert worker.runner.run_one()
    assert job_states() == ["cancelled"]
    assert objects(tmp_path) == before


def test_a_result_that_is_gone_holds_up_no_other(worker: Worker, tmp_path: Path) -> None:
    assert worker.runner.run_one()
    with StandInPacs(tmp_path / "pacs") as pacs:
        place = {"name": "pacs", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
        settings = Settings(destinations=[place])
        courier = Courier(settings, "pacs", worker.ledger, worker.store)
        row = Delivery.get(Delivery.destination == "pacs")
        path = worker.store.path(row.result.object_key)
        path.rename(tmp_path / "aside.dcm")
        assert courier.deliver(lambda: False) == 0
        gone = Delivery.get_by_id(row.id)
        assert (gone.state, gone.begun) == ("dead", False)
        (tmp_path / "aside.dcm").rename(path)
        outbox.retry(worker.ledger, gone, "user:test")
        assert courier.deliver(lambda: False) == 1
        assert Delivery.get_by_id(row.id).begun
        assert list(pacs.files) == [row.result.sop_instance_uid]


def test_a_destination_of_label_maps_gets_what_holds_segments_that_overlap(tmp_path: Path) -> None:
    text = head("nested", results=["sr", "seg"]) + primary_input(SPACE) + overlapping()
    write_package(tmp_path / "models/nested/1.0.0", nested(3), text)
    route = RouteSettings(name="CT", when={"Modality": "CT"}, model="nested@1.0.0", send_to=("p",))
    place = {"name": "p", "ae_title": "P", "host": "127.0.0.1", "port": 1, "results": ["labelmap"]}
    settings = Settings(destinations=[place], models={"path": tmp_path / "models"}).model_copy(
        update={"routes": (route,)}
    )
    node = Node(tmp_path, make_registry(settings), routes=(route,), destinations=[place])
    node.receive(factories.ct_series(4))
    assert node.step() == 1
    node.close()
    worker = Worker(settings, tmp_path)
    try:
        fallback.note_kinds(worker.ledger, "p", {"labelmap": True})  # it took those of others
        assert worker.runner.run_one()
        assert [(row.wanted, row.result.kind) for row in Delivery.select()] == [("seg", "seg")]
    finally:
        worker.close()

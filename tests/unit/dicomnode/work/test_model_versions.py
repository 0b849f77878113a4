"""Two versions of a model in one worker: who answers, who runs in shadow, who is dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from ai.registry import Registry
from config.errors import MedAIError
from config.schema import RouteSettings, Settings
from dicomnode.results.provenance import Provenance
from dicomnode.series.split import on_canary_side
from dicomnode.work import life
from dicomnode.work.devices import preload
from dicomnode.work.models import follow, make_registry
from dicomnode.work.pipeline import model_facts
from dicomnode.work.worker import Worker
from storage import dispatch, jobs, versions
from storage.db import Ledger
from storage.records import AuditEvent, Delivery, Job, ModelVersion
from storage.versions import Step
from tests import factories
from tests.model_versions import new_version
from tests.unit.dicomnode.results.cases import provenance
from tests.unit.dicomnode.work.conftest import Node, job_states

V1, V2 = "xr-quality@1.0.0", "xr-quality@2.0.0"
ROUTE: dict[str, Any] = {
    "name": "CR",
    "when": {"Modality": "CR"},
    "model": "xr-quality",
    "send_to": ["pacs"],
}
PACS = [{"name": "pacs", "ae_title": "P", "host": "127.0.0.1", "port": 1}]


class Site:
    """A node's way to the queue, with v2 beside the bundled v1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        new_version(folder / "models", "2.0.0", name="xr-quality")
        self.registry = make_registry(self.settings())
        self.node = Node(folder / "data", self.registry)
        self.route()

    def settings(self, **route: Any) -> Settings:
        return Settings.model_validate(
            {
                "node": {"data_dir": self.folder / "data"},
                "models": {"path": self.folder / "models", "providers": ["cpu"]},
                "routes": [ROUTE | route],
                "destinations": PACS,
            }
        )

    def route(self, **keys: Any) -> None:
        """As a restart with another route does."""
        self.node.configure(routes=[ROUTE | keys], destinations=PACS)

    def move(self, reference: str, state: str) -> None:
        """As `models promote` and `models retire`, past the proof."""
        package = self.registry.any(reference)
        step = Step(reference, package.digest, self.registry.status(package))
        if state == "retired":
            versions.retire(self.node.ledger, step, actor="user:test")
        else:
            versions.promote(self.node.ledger, step, state, actor="user:test", proof={})
        assert self.registry.refresh()

    def queued(self) -> list[tuple[str, str, str]]:
        return [(job.model, job.mode, job.state) for job in Job.select().order_by(Job.id)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.node.close()


@pytest.mark.feature("F15", "P08")
def test_a_shadow_job_is_queued_beside_the_live_one_and_delivers_nothing(site: Site) -> None:
    site.move(V2, "validation")
    site.route(shadow=True, priority="stat")
    site.node.receive([factories.cr_image(seed=1)])
    assert site.node.step() == 2
    live, shadow = Job.select().order_by(Job.id)
    assert (live.model, live.mode, live.send_to, live.priority) == (V1, "live", '["pacs"]', "stat")
    assert (shadow.model, shadow.mode, shadow.send_to) == (V2, "shadow", "[]")
    assert shadow.priority == "routine"
    assert live.identity != shadow.identity
    assert live.input_instances == shadow.input_instances
    assert site.node.step() == 0


def test_what_runs_in_shadow_waits_until_no_live_job_may_start(site: Site) -> None:
    site.move(V2, "validation")
    site.route(shadow=True)
    site.node.receive([factories.cr_image(seed=1)])
    site.node.step()
    site.node.receive([factories.cr_image(seed=2)])
    site.node.step()
    claimed = [dispatch.claim(site.node.ledger, "w", 60) for _ in range(4)]
    assert [job.mode for job in claimed if job] == ["live", "live", "shadow", "shadow"]


def test_a_correction_replaces_the_job_of_each_mode_by_one_of_the_same(site: Site) -> None:
    site.move(V2, "validation")
    site.route(shadow=True)
    image = factories.cr_image(seed=1)
    site.node.receive([image])
    site.node.step()
    image.PatientName = "CORRECTED^NAME"
    site.node.receive([image])
    assert site.node.step() == 2
    assert site.queued() == [
        (V1, "live", "superseded"),
        (V2, "shadow", "superseded"),
        (V1, "live", "queued"),
        (V2, "shadow", "queued"),
    ]
    # What is not asked to run in shadow any more is taken back alone.
    site.route()
    image.PatientName = "CORRECTED^TWICE"
    site.node.receive([image])
    assert site.node.step() == 1
    assert site.queued()[-3:] == [
        (V1, "live", "superseded"),
        (V2, "shadow", "superseded"),
        (V1, "live", "queued"),
    ]


@pytest.mark.feature("P48")
def test_studies_on_the_canary_side_are_answered_by_it_alone(site: Site) -> None:
    site.move(V2, "validation")
    site.route(canary=50)
    route = RouteSettings.model_validate(ROUTE | {"canary": 50})
    wanted = []
    for seed in range(12):
        image = factories.cr_image(seed=seed)
        site.node.receive([image])
        site.node.step()
        wanted.append(V2 if on_canary_side(route, str(image.StudyInstanceUID)) else V1)
    assert [model for model, mode, _ in site.queued() if mode == "live"] == wanted
    assert set(wanted) == {V1, V2}


@pytest.fixture
def worker(site: Site) -> Iterator[Worker]:
    made = Worker(site.settings(), site.node.ledger.data_dir)
    site.node.ledger = made.ledger
    site.route()
    yield made
    made.close()


def test_a_worker_follows_what_commands_did(site: Site, worker: Worker) -> None:
    engine = worker._engine
    for reference in (V1, V2):
        engine.sessions.get(worker.registry.find(reference))
    assert not follow(worker.registry, engine)
    site.move(V2, "production")
    assert worker.registry.find("xr-quality").manifest.version == "1.0.0"
    assert follow(worker.registry, engine)
    assert worker.registry.find("xr-quality").manifest.version == "2.0.0"
    assert {model.reference for model in engine.sessions.loaded()} == {V1, V2}
    site.move(V2, "retired")
    assert follow(worker.registry, engine)
    assert worker.registry.find("xr-quality").manifest.version == "1.0.0"
    assert {model.reference for model in engine.sessions.loaded()} == {V1}


@pytest.mark.feature("F05")
def test_a_version_is_loaded_when_it_comes_into_use(site: Site, worker: Worker) -> None:
    engine, stopping = worker._engine, threading.Event()

    def loaded(known: set[str], **route: object) -> tuple[set[str], set[str]]:
        known = preload(site.settings(**route), engine, stopping, known)
        return known, {model.reference for model in engine.sessions.loaded()}

    assert loaded(set()) == ({V1}, {V1})
    site.move(V2, "validation")
    follow(worker.registry, engine)
    assert loaded({V1}) == ({V1}, {V1})
    assert loaded({V1}, shadow=True) == ({V1, V2}, {V1, V2})
    engine.sessions.keep_only(set())
    assert loaded({V1, V2}, canary=5) == ({V1, V2}, set())


def test_a_job_keeps_the_version_it_was_queued_for(site: Site, worker: Worker) -> None:
    site.node.receive([factories.cr_image(seed=1)])
    assert site.node.step() == 1
    site.move(V2, "production")
    follow(worker.registry, worker._engine)
    assert worker.runner.run_one()
    assert site.queued() == [(V1, "live", "ready")]
    assert {row.destination for row in Delivery.select()} == {"pacs"}


def test_results_name_the_package_that_ran_whatever_comes_meanwhile(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.node.receive([factories.cr_image(seed=1)])
    site.node.step()
    (ran, other), find = site.registry.packages()[-2:], worker.registry.find
    answers = iter([ran])
    assert (ran.manifest.reference, other.manifest.reference) == (V1, V2)
    monkeypatch.setattr(worker.registry, "find", lambda reference: next(answers, other))
    assert worker.runner.run_one()
    monkeypatch.setattr(worker.registry, "find", find)
    job = Job.get()
    assert job.state == "ready"
    (report,) = (row for row in jobs.results_of(job) if row.kind == "sr")
    items = dcmread(site.node.store.path(report.object_key)).ContributingEquipmentSequence
    origin: Provenance = provenance(model=model_facts(ran))
    assert origin.device_uid in {str(item.get("DeviceUID")) for item in items}


def test_a_job_of_a_retired_version_says_so(site: Site, worker: Worker) -> None:
    site.node.receive([factories.cr_image(seed=1)])
    site.node.step()
    site.move(V1, "retired")
    assert site.queued() == [(V1, "live", "cancelled")]
    (job,) = Job.select()
    # Somebody retries it all the same.
    with site.node.ledger.transaction() as change:
        change.move(job, "queued")
    follow(worker.registry, worker._engine)
    assert worker.runner.run_one()
    assert Job.get().reason == f"model {V1} is retired"
    assert job_states() == ["failed"]


def test_a_shadow_job_ends_ready_with_its_results_in_the_node(site: Site, worker: Worker) -> None:
    site.move(V2, "validation")
    site.route(shadow=True)
    site.node.receive([factories.cr_image(seed=1)])
    site.node.step()
    follow(worker.registry, worker._engine)
    assert worker.runner.run_one()
    assert worker.runner.run_one()
    assert site.queued() == [(V1, "live", "ready"), (V2, "shadow", "ready")]
    shadow = Job.get(Job.mode == "shadow")
    assert [row.kind for row in jobs.results_of(shadow)] == ["sr"]
    assert Delivery.select().count() == 1


def test_of_packages_added_at_once_each_is_there_once(site: Site) -> None:
    folders = [
        new_version(site.folder / f"source-{number}", f"3.0.{number % 2}", name="xr-quality").folder
        for number in range(6)
    ]

    def add(folder: Path) -> str:
        try:
            package = life.add(folder, site.settings(), site.node.ledger, "user:test")
        except MedAIError as error:
            return str(error)
        return package.manifest.version

    with ThreadPoolExecutor(6) as threads:
        outcomes = sorted(threads.map(add, folders))
    assert outcomes[:2] == ["3.0.0", "3.0.1"]
    assert all(said.endswith("is there already") for said in outcomes[2:])
    assert AuditEvent.select().where(AuditEvent.action == "model.added").count() == 2
    assert site.registry.refresh()
    assert site.registry.status(site.registry.find("xr-quality@3.0.1")) == "development"


def test_a_package_is_in_development_before_it_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the row and the folder, nothing is there; the next command adds it."""
    source = new_version(site.folder / "source", "3.0.0", name="xr-quality", status="production")

    def killed(path: Path, target: Path) -> Path:
        if target.parent.parent == site.folder / "models":
            raise KeyboardInterrupt
        return replaced(path, target)

    replaced = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            life.add(source.folder, site.settings(), site.node.ledger, "user:test")
    assert ModelVersion.get_by_id("xr-quality@3.0.0").state == "development"
    assert not (site.folder / "models" / "xr-quality" / "3.0.0").exists()
    life.add(source.folder, site.settings(), site.node.ledger, "user:test")
    site.registry.refresh()
    assert site.registry.status(site.registry.find("xr-quality@3.0.0")) == "development"


@pytest.mark.feature("F06")
def test_the_device_uid_follows_the_bytes_of_the_model(site: Site, tmp_path: Path) -> None:
    def device(package: Any) -> str:
        origin: Provenance = provenance(model=model_facts(package))
        return origin.device_uid

    package = site.registry.find(V2)
    change = ("Points out", "Now points out")
    other = new_version(tmp_path / "other", "2.0.0", name="xr-quality", change=change)
    assert other.manifest.reference == package.manifest.reference
    assert device(package) == device(replace(package, folder=tmp_path))
    assert device(other) != device(package)


def test_the_registry_of_a_node_that_never_ran_takes_manifests_at_their_word(
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate({"node": {"data_dir": tmp_path / "data"}})
    registry: Registry = make_registry(settings)
    assert registry.find("xr-quality").manifest.version == "1.0.0"
    assert not (tmp_path / "data").exists()


def test_a_database_of_an_older_release_says_nothing_of_models(ledger: Ledger) -> None:
    assert versions.peek(ledger.data_dir) == []
    ledger.database.execute_sql("ALTER TABLE model_version RENAME TO later")
    assert versions.peek(ledger.data_dir) == []


@pytest.fixture
def ledger(site: Site) -> Ledger:
    return site.node.ledger

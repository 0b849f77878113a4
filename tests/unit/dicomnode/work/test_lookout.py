"""What the lookout sees, whom it tells, and what of a model it calls a drift."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.reference import REFERENCE, Histogram, Reference, Spread
from ai.registry import Registry, bundled_models_path
from ai.seal import renew
from ai.session import cuda_loads
from config.schema import Settings
from dicomnode.work.devices import DeviceBoard
from dicomnode.work.drift import edges_of
from dicomnode.work.lookout import Lookout
from dicomnode.work.models import make_engine
from storage import alerts, feedback, overview
from storage.breaker import DESTINATIONS, MODELS
from storage.db import Ledger, open_ledger
from storage.figures import NUMBER
from storage.objects import ObjectStore
from storage.part10 import file_head
from storage.pruning import DAY
from storage.records import AuditEvent, Instance, Job, Result
from storage.watch_records import Alert, Baseline, Drift, Notice, Run, Score, StageTime
from tests.alert_servers import MailServer, WebhookServer, over_tls, speaking_tls
from tests.certificates import Authority
from tests.storage_rows import CT, EXPLICIT, ready_job, some_jobs

MODEL, DIGEST = "ct-tissue@1.0.0", "d" * 64
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Place:
    """A ledger and a lookout on one folder."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.ledger: Ledger = open_ledger(folder)
        self.store = ObjectStore(folder, min_free=0)
        self.registry = registry
        self.lookout = self.with_settings()

    def with_settings(self, **tables: dict[str, Any]) -> Lookout:
        watch = {"scores": 40, "fewest_scores": 20, **tables.pop("watch", {})}
        made = Settings(**{"watch": watch, "storage": {"min_free": 0}, **tables})
        self.lookout = Lookout(made, self.ledger, self.store, self.registry, "node")
        return self.lookout

    def run(self, *scores: float, model: str = MODEL, digest: str = DIGEST, **more: Any) -> None:
        """One run a score."""
        stages, name = more.pop("stages", {"run": 1.0}), more.pop("name", "bone")
        with self.ledger.transaction() as change:
            for score in scores:
                row = Run.create(
                    job=Run.select().count() + 1,
                    model=model,
                    model_digest=digest,
                    **{"mode": "live", "provider": CPU, "findings": 1, "reviews": 0, **more},
                    finished_at=change.now + Run.select().count() * 1e-3,
                )
                Score.create(run=row, kind="finding", name=name, value=score)
                for stage, seconds in stages.items():
                    StageTime.insert(run=row, stage=stage, seconds=seconds).execute()

    def wrong(self, **tables: dict[str, Any]) -> list[str]:
        """What is raised after a look, rule and subject."""
        self.with_settings(**tables).look()
        return sorted(row.name for row in alerts.raised())


@pytest.fixture
def place(tmp_path: Path, registry: Registry) -> Iterator[Place]:
    made = Place(tmp_path / "node", registry)
    yield made
    made.store.close()
    made.ledger.close()


def spread(centre: float, count: int, seed: int = 1) -> Sequence[float]:
    noise = np.random.default_rng(seed).normal(centre, 0.08, count)
    return [float(value) for value in np.clip(noise, 0.0, 1.0)]


@pytest.mark.feature("P47", "F15")
def test_scores_that_drift_away_from_the_first_ones_raise_an_alert(place: Place) -> None:
    place.run(*spread(0.8, 40))
    assert place.wrong() == []
    (baseline,) = Baseline.select()
    assert (baseline.name, sum(json.loads(baseline.counts))) == ("bone", 40)
    place.run(*spread(0.8, 30, seed=2))
    assert place.wrong() == []
    (same,) = Drift.select()
    assert (same.reference, same.scores) == ("first runs", 30)
    assert same.p > 0.05
    place.run(*spread(0.4, 40))
    assert place.wrong() == [f"drift {MODEL}"]
    (row,) = alerts.raised()
    assert row.value > 1
    assert row.reason == "40 scores of 'bone' lie otherwise than those of its first runs here"
    place.run(*spread(0.8, 40, seed=3))
    assert place.wrong() == []


@pytest.mark.feature("F06", "F18")
def test_a_route_without_a_model_raises_an_alert_until_one_serves(
    place: Place, tmp_path: Path
) -> None:
    routes = {"routes": [{"name": "Chest", "when": {}, "model": "xr-quality"}]}
    made = tmp_path / "models" / "xr-quality" / "1.0.0"
    shutil.copytree(bundled_models_path() / "xr-quality" / "1.0.0", made)
    place.registry = Registry([made.parents[1]])
    assert place.wrong(**routes) == []
    reads = {"routes": [{**routes["routes"][0], "burned_in": "warn"}]}
    assert place.wrong(**reads) == ["models Chest"]
    assert "no production version of model 'burned-in-text'" in alerts.raised()[0].reason
    content = (made / "model.onnx").read_bytes()
    (made / "model.onnx").write_bytes(content + b"0")
    place.registry.refresh()
    assert place.wrong(**routes) == ["models Chest", "models xr-quality@1.0.0"]
    assert all("\n" not in row.reason for row in alerts.raised())
    (told,) = (row.reason for row in alerts.raised() if row.subject == "Chest")
    assert told.startswith("its images are not analysed: no production version")
    (made / "model.onnx").write_bytes(content)
    place.registry.refresh()
    assert place.wrong(**routes) == []


@pytest.mark.feature("P47", "F15")
def test_a_reference_of_the_package_is_what_scores_are_compared_with(
    place: Place, tmp_path: Path
) -> None:
    made = tmp_path / "models" / "xr-quality" / "1.0.0"
    shutil.copytree(bundled_models_path() / "xr-quality" / "1.0.0", made)
    usual = Histogram.of(spread(0.8, 500), [step / 10 for step in range(11)])
    none = {"image": {"mean": Spread(low=0, high=1, mean=0.5, sd=0.1)}}
    content = Reference(images=500, inputs=none, scores={"bone": usual}).model_dump_json()
    (made / REFERENCE).write_text(content)
    found = renew(made, made)
    place.registry = Registry([made.parents[1]])
    about = {"model": found.manifest.reference, "digest": found.digest}
    place.run(*spread(0.8, 25), **about)
    assert place.wrong() == []
    assert Baseline.select().count() == 0
    place.run(*spread(0.5, 40), **about)
    assert place.wrong() == [f"drift {about['model']}"]
    assert alerts.raised()[0].reason.endswith("than those of its reference")


def test_shadow_runs_and_those_of_other_bytes_are_not_compared(place: Place) -> None:
    place.run(*spread(0.8, 40))
    place.wrong()
    place.run(*spread(0.1, 40), mode="shadow")
    assert place.wrong() == []
    place.run(*spread(0.1, 40), digest="e" * 64)
    assert place.wrong() == []
    assert {row.model_digest for row in Baseline.select()} == {DIGEST, "e" * 64}


def test_too_few_scores_tell_no_drift(place: Place) -> None:
    place.run(*spread(0.8, 40))
    place.wrong()
    place.run(*spread(0.1, 19))
    assert place.wrong() == []
    assert Drift.select().count() == 0
    place.run(*spread(0.1, 1))
    assert place.wrong() == [f"drift {MODEL}"]


def test_a_score_that_was_always_the_same_drifts_when_it_is_not_any_more(place: Place) -> None:
    place.run(*[0.25] * 40)
    place.wrong()
    place.run(*[0.25] * 20)
    assert place.wrong() == []
    place.run(*[0.3] * 40)
    assert place.wrong() == [f"drift {MODEL}"]


@pytest.mark.feature("P47")
def test_a_finding_that_is_reported_more_often_than_it_was_raises_an_alert(place: Place) -> None:
    place.run(*[0, 0, 0, 0, 1] * 8, name=NUMBER)
    place.wrong()
    place.run(*[0, 0, 0, 0, 1] * 5, name=NUMBER)
    assert place.wrong() == []
    place.run(*[0, 1, 2, 1, 1] * 8, name=NUMBER)
    assert place.wrong() == [f"drift {MODEL}"]
    assert "'number of findings'" in alerts.raised()[0].reason


FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_for_any_values_the_bins_rise_and_hold_them_all(values: list[float]) -> None:
    edges = edges_of(values)
    assert all(low < high for low, high in pairwise(edges))
    assert edges[1] < min(values)
    assert max(values) < edges[-2]
    counts = Histogram.of(values, edges).counts
    assert sum(counts) == len(values)
    assert counts[0] == counts[-1] == 0


@pytest.mark.feature("P47")
def test_a_model_whose_answers_are_rejected_raises_an_alert(place: Place) -> None:
    jobs = some_jobs(place.ledger, 30)
    place.run(0.5)
    say(place, jobs[:1], "reject")
    assert place.wrong() == []  # one of one says little: its interval begins at 0.21
    say(place, jobs[1:19], "accept")
    assert place.wrong() == []
    say(place, jobs[19:], "reject")
    assert place.wrong(alerts={"rejection_rate": 0.2}) == [f"rejections {MODEL}"]
    assert alerts.raised()[0].reason == "12 of the last 30 assessed answers were rejected"
    assert place.wrong(alerts={"rejection_rate": 0.3}) == []
    assert place.wrong(watch={"scores": 20}) == [f"rejections {MODEL}"]  # 11 of the last 20
    Run.update(finished_at=Run.finished_at - 8 * 86400).execute()
    assert place.wrong(watch={"scores": 20}) == []  # the model is no longer in use


def say(place: Place, jobs: list[Job], verdict: str) -> None:
    said = feedback.Said(verdict=verdict, source="command", said_by="radiologist")
    with place.ledger.transaction() as change:
        for job in jobs:
            feedback.add(change, job, [said], actor="user:x")


def test_a_slow_model_raises_an_alert_whatever_its_queue(place: Place) -> None:
    place.run(*[0.5] * 20, stages={"queue": 500.0, "decode": 1.0, "run": 2.0, "deliver": 900.0})
    assert place.wrong() == []
    assert place.wrong(alerts={"latency_p95_seconds": 2.5}) == [f"latency {MODEL}"]
    assert alerts.raised()[0].reason == "the 95th percentile of 20 runs is 3.0 s"


def test_old_jobs_raise_an_alert(place: Place) -> None:
    some_jobs(place.ledger, 2)
    assert place.wrong() == []
    Job.update(created_at=Job.created_at - 1000).where(Job.id == 1).execute()
    assert place.wrong() == ["queue"]
    assert alerts.raised()[0].reason == "the oldest of 2 open jobs is 1000 s old"
    assert place.wrong(alerts={"queue_age_seconds": 0}) == []


def test_jobs_that_failed_for_good_raise_an_alert_for_as_long_as_the_window(place: Place) -> None:
    first, second = some_jobs(place.ledger, 2)
    with place.ledger.transaction() as change:
        change.move(first, "failed", reason="x", finished_at=change.now)
        change.move(second, "failed", reason="x", finished_at=change.now - 3601)
    assert place.wrong() == [f"failures {MODEL}"]
    assert place.wrong(alerts={"failures": 2}) == []


def test_a_provider_that_was_not_asked_for_raises_an_alert(place: Place) -> None:
    place.run(0.5)
    assert place.wrong(models={"providers": "auto"}) == []
    assert place.wrong(models={"providers": ["cuda", "cpu"]}) == [f"provider {MODEL}"]
    assert alerts.raised()[0].reason == "asked cuda, cpu, runs cpu"
    place.run(0.5, provider=CUDA)
    assert place.wrong(models={"providers": ["cuda", "cpu"]}) == []


def test_a_model_in_memory_says_why_it_runs_on_something_else(
    place: Place, registry: Registry
) -> None:
    asked = Settings(models={"providers": ["cuda"]})
    engine = make_engine(asked, registry, place.ledger.data_dir)
    engine.sessions.get(registry.find("xr-quality"))
    DeviceBoard(place.ledger.data_dir, asked, engine.sessions.loaded).show()
    if cuda_loads():
        assert place.wrong(models={"providers": ["cuda"]}) == []
    else:
        assert place.wrong(models={"providers": ["cuda"]}) == ["provider xr-quality@1.0.0"]
        assert alerts.raised()[0].reason.startswith("asked cuda, runs cpu: ")


def test_a_disk_that_gets_full_raises_an_alert(place: Place) -> None:
    free = place.store.free_bytes()
    place.store = ObjectStore(place.ledger.data_dir, min_free=int(free * 0.75))
    assert place.wrong() == ["disk"]
    assert place.wrong(alerts={"disk_free_times": 1}) == []
    place.store.close()


def test_a_certificate_that_ends_soon_raises_an_alert(place: Place, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    def shows(days: int) -> dict[str, Any]:
        identity = authority.issue("node", days=(-1, days))
        return {"certificate": identity.certificate, "private_key": identity.private_key}

    assert place.wrong(node={"tls": shows(40)}) == []
    assert place.wrong(node={"tls": shows(20)}) == ["certificates node.tls.certificate"]
    assert "ends on" in Alert.get_by_id("certificates node.tls.certificate").reason
    assert place.wrong(node={"tls": shows(20)}, alerts={"certificate_days": 10}) == []


def test_a_damaged_segment_of_the_journal_raises_an_alert_until_it_is_removed(
    place: Place,
) -> None:
    aside = place.ledger.data_dir / "journal-damaged"
    aside.mkdir()
    segment = aside / "0123456789abcdef-journal-0000"
    segment.touch()
    assert place.wrong() == ["damage"]
    assert "journal.damaged in the audit chain" in Alert.get_by_id("damage").reason
    segment.unlink()
    assert place.wrong() == []


def test_open_circuit_breakers_and_damaged_objects_raise_alerts(place: Place) -> None:
    with place.ledger.transaction() as change:
        for _ in range(3):
            DESTINATIONS.failed(change, "pacs", "it does not answer", change.now + 60)
            MODELS.failed(change, MODEL, "it has no weights", change.now + 60)
    overview.set_fact(place.ledger, "scrub.finding:instance:7", "damaged")
    assert place.wrong() == [f"breaker {MODEL}", "breaker pacs", "damage"]
    assert Alert.get_by_id("breaker pacs").reason == (
        "the destination failed 3 times in a row; its circuit breaker is open"
    )
    assert place.wrong(alerts={"breaker": False, "damage": False}) == []


def test_objects_that_went_to_quarantine_raise_an_alert(place: Place) -> None:
    some_jobs(place.ledger, 1)
    assert place.wrong() == []
    Instance.update(state="quarantined").where(Instance.id == 1).execute()
    assert place.wrong() == ["quarantine"]
    assert alerts.raised()[0].reason == "1 received object went to quarantine"
    assert place.wrong(alerts={"quarantine": False}) == []
    Instance.update(received_at=Instance.received_at - 3601).execute()
    assert place.wrong() == []


def to(server: WebhookServer, **more: Any) -> dict[str, Any]:
    return {"alerts": {"webhooks": ({"name": "on call", "url": server.url},), **more}}


@pytest.mark.feature("P30", "P47")
def test_a_webhook_that_fails_at_first_gets_the_alert_once_and_then_its_end(place: Place) -> None:
    some_jobs(place.ledger, 1)
    Job.update(created_at=Job.created_at - 1000).execute()
    with WebhookServer(500) as server:
        lookout = place.with_settings(**to(server, quiet_seconds=0))
        lookout.look()
        lookout.send()
        assert server.taken == []
        (notice,) = Notice.select()
        assert (notice.state, notice.attempt) == ("waiting", 1)
        assert notice.reason == "on call did not take an alert: it answered 500"
        lookout.look()
        lookout.send()  # not yet: it is tried later
        assert len(server.heard) == 1
        Notice.update(not_before=0.0).execute()
        lookout.send()
        lookout.send()
        Job.update(state="cancelled").execute()
        lookout.look()
        lookout.send()
    assert [(each["alert"], each["state"]) for each in server.taken] == [
        *(("queue", "raised"), ("queue", "cleared"))
    ]
    assert [each["id"] for each in server.taken] == ["node-1", "node-2"]
    assert {row.state for row in Notice.select()} == {"sent"}


@pytest.mark.feature("P30", "P47")
@pytest.mark.parametrize("kind", ["mail", "webhooks"])
def test_an_alert_waits_until_the_server_shows_a_certificate_that_is_trusted(
    kind: str, place: Place, tmp_path: Path
) -> None:
    some_jobs(place.ledger, 1)
    Job.update(created_at=Job.created_at - 1000).execute()
    authority = Authority(tmp_path)
    tls = speaking_tls(authority.issue("other", host="elsewhere.example"))
    with MailServer(tls) if kind == "mail" else WebhookServer(tls=tls) as server:
        lookout = place.with_settings(alerts=over_tls(kind, server.port, authority.path))
        lookout.look()
        lookout.send()
        (notice,) = Notice.select()
        assert (notice.state, notice.attempt) == ("waiting", 1)
        assert "its certificate is not trusted: Hostname mismatch" in notice.reason
        assert server.taken == []
        renewed = authority.issue("server")
        tls.load_cert_chain(renewed.certificate, renewed.private_key)
        lookout.send()
        assert server.taken == []  # not yet: it is tried later
        Notice.update(not_before=0.0).execute()
        lookout.send()
        assert len(server.taken) == 1
    assert [row.state for row in Notice.select()] == ["sent"]


def test_a_message_for_one_who_left_the_settings_waits(place: Place) -> None:
    some_jobs(place.ledger, 1)
    Job.update(created_at=Job.created_at - 1000).execute()
    with WebhookServer() as server:
        place.with_settings(**to(server)).look()
    place.with_settings().send()
    (notice,) = Notice.select()
    assert (notice.state, notice.reason) == ("waiting", "it is no longer in the settings")


@pytest.mark.parametrize("shadow_days", [30, 0])
def test_results_of_shadow_runs_are_pruned_when_their_days_are_over(
    shadow_days: float, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.work.lookout.PRUNE_SECONDS", 0.0)
    (job,) = some_jobs(place.ledger, 1)
    stored = place.store.put(file_head(CT, "2.25.1", EXPLICIT) + b"seg" * 20)
    ready_job(place.ledger, job, kinds=("seg",), destinations=())
    Job.update(mode="shadow").execute()
    Result.update(object_key=stored.key, created_at=Result.created_at - 31 * DAY).execute()
    place.with_settings(watch={"shadow_days": shadow_days}).look()
    assert place.store.path(stored.key).exists() == (shadow_days == 0)
    place.store.close()


def test_a_rule_that_fails_does_not_silence_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_jobs(place.ledger, 1)
    Job.update(created_at=Job.created_at - 1000).execute()
    place.store.close()

    def broken() -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place.store, "free_bytes", broken)
    assert place.wrong() == ["queue"]
    assert AuditEvent.select().where(AuditEvent.action == "alert.raised").count() == 1

"""From received objects to the job queue, over a real ledger and object store."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from pydicom.dataset import Dataset

from config.peers import PeerSettings
from config.schema import RouteSettings
from storage import attempts, jobs, overview, studies
from storage.records import AuditEvent, Instance, Job, Series, Study
from storage.series import force
from tests import factories
from tests.unit.dicomnode.work.conftest import (
    ROUTES,
    Node,
    inputs,
    job_states,
    only_series,
    only_study,
)
from tests.volumes import Grid, images_of


def ct(slices: int = 12, **other: object) -> list[Dataset]:
    return factories.ct_series(slices, **other)  # type: ignore[arg-type]


@pytest.mark.feature("P06", "P08", "P29")
def test_a_complete_series_becomes_one_job_of_the_model_its_rule_names(node: Node) -> None:
    node.receive(ct())
    assert node.step() == 1
    (job,) = Job.select()
    assert (job.route, job.model, job.state) == ("CT", "ct-tissue@1.0.0", "queued")
    assert len(inputs(job)) == 12
    series = only_series()
    assert (series.state, series.reason) == ("routed", "1 jobs, 1 of them new")
    assert json.loads(series.explanation)[0]["models"] == ["ct-tissue@1.0.0"]
    assert only_study().state == "settled"
    assert node.step() == 0


@pytest.mark.parametrize(
    ("route", "header", "priority"),
    [
        ("request", "STAT", "stat"),
        ("request", "ROUTINE", "routine"),
        ("routine", "STAT", "routine"),
        ("stat", "ROUTINE", "stat"),
    ],
)
def test_a_job_has_the_priority_of_its_route_or_of_the_request_and_a_source(
    node: Node, route: str, header: str, priority: str
) -> None:
    node.configure(routes=(ROUTES[0].model_copy(update={"priority": route}),))
    images = ct()
    for image in images:
        image.RequestedProcedurePriority = header
    node.receive(images, calling_ae="CT9")
    assert node.step() == 1
    (job,) = Job.select()
    assert (job.priority, job.source) == (priority, "CT9")


@pytest.mark.feature("P08")
def test_no_model_is_skipped_and_says_why(node: Node) -> None:
    node.receive(factories.mr_series())
    assert node.step() == 0
    series = only_series()
    assert series.state == "skipped"
    assert "not-there" in series.reason
    (unit,) = json.loads(series.explanation)
    assert unit["routes"] == ["MR"]
    assert unit["models"] == []
    assert unit["outcome"] == series.reason


def test_no_rule_and_what_is_unsound_say_why(node: Node) -> None:
    node.receive(ct(4))
    node.receive(ct(tilt=12, seed=1))
    assert node.step() == 0
    reasons = sorted(series.reason for series in Series.select())
    assert reasons[0] == "No model: no rule asks for it."
    assert "the gantry was tilted" in reasons[1]
    assert {series.state for series in Series.select()} == {"skipped"}


def test_reports_and_segmentations_are_never_routed(node: Node) -> None:
    node.configure(routes=[RouteSettings(name="all", when={}, model="ct-tissue")])
    node.receive([factories.structured_report(), factories.segmentation()])
    assert node.step() == 0
    assert all("never analysed" in series.reason for series in Series.select())


def test_an_open_association_holds_back_until_give_up(
    node: Node, later: Callable[[float], None]
) -> None:
    association = node.open()
    node.store_on(association, ct())
    later(3600)
    assert node.step() == 0
    assert only_series().state == "receiving"
    later(86401)
    assert node.step() == 1
    complete = [reason for reason in reasons_of("series.complete") if reason]
    assert complete[0].startswith("timeout: 12 came, 1 associations are open")
    node.release(association)


def test_it_is_taken_when_the_association_is_released(node: Node) -> None:
    association = node.open()
    node.store_on(association, ct())
    assert node.step() == 0
    node.release(association)
    assert node.step() == 1
    assert reasons_of("series.complete")[0].startswith("quiet: 12 came")


def test_a_gap_waits_for_the_slice_and_reads_its_files_once(
    node: Node, later: Callable[[float], None]
) -> None:
    whole = ct()
    node.receive([*whole[:5], *whole[6:]])
    assert node.step() == 0
    assert only_series().state == "receiving"
    # Nothing new came, so that nothing is read again: the files may be away for now.
    moved = node.store.objects.rename(node.store.objects.with_name("away"))
    assert node.step() == 0
    assert only_series().state == "receiving"
    moved.rename(node.store.objects)
    node.receive([whole[5]])
    assert node.step() == 1
    assert len(inputs(Job.get())) == 12


def test_a_gap_that_stays_ends_with_give_up(node: Node, later: Callable[[float], None]) -> None:
    whole = ct()
    node.receive([*whole[:5], *whole[6:]])
    node.step()
    later(86401)
    assert node.step() == 0
    assert "slices are missing" in only_series().reason
    (study,) = overview.studies()
    (verdict,) = study["series"][0]["quality"]
    assert verdict["subject"] == only_series().series_instance_uid
    assert [reason["code"] for reason in verdict["reasons"]] == ["gap"]


def test_forced_is_taken_as_it_is(node: Node) -> None:
    association = node.open()
    node.store_on(association, ct())
    node.step()
    assert force(node.ledger, only_series().series_instance_uid, "person")
    assert node.step() == 1
    assert reasons_of("series.complete")[0].startswith("forced")
    node.release(association)


@pytest.mark.feature("P43")
def test_a_series_that_no_model_answered_goes_to_one_that_serves_now(node: Node) -> None:
    lost = RouteSettings(name="CT", when={"Modality": "CT"}, model="not-there")
    node.configure(routes=[lost])
    node.receive(ct())
    assert node.step() == 0
    uid = only_series().series_instance_uid
    assert (only_series().state, only_study().state) == ("skipped", "settled")
    node.configure()
    assert not studies.ask_again(node.ledger, "1.2.3", "person")
    assert studies.ask_again(node.ledger, uid, "person")
    assert node.step() == 1
    assert (only_series().state, only_study().state) == ("routed", "settled")
    assert not studies.ask_again(node.ledger, uid, "person")
    (job,) = Job.select()
    attempts.cancel(node.ledger, job, "person")
    assert studies.ask_again(node.ledger, uid, "person")
    assert node.step() == 0
    assert job_states() == ["cancelled"]  # this very analysis: `jobs retry` queues it


@pytest.mark.parametrize("title", ["SLOW", "*"])
def test_a_peer_may_be_given_more_time(
    node: Node, later: Callable[[float], None], title: str
) -> None:
    peer = PeerSettings(ae_title=title, hosts=("127.0.0.1",), quiet_seconds=600)
    quick = PeerSettings(ae_title="CT1", hosts=("127.0.0.1",), quiet_seconds=0)
    node.configure(peers=[peer, quick])
    node.receive(ct(), calling_ae="SLOW")
    node.receive(ct(seed=1), calling_ae="CT1")
    assert node.step() == 1
    assert sorted(series.state for series in Series.select()) == ["receiving", "routed"]
    later(601)
    assert node.step() == 1


def test_a_late_slice_makes_a_new_job_that_supersedes_the_old(node: Node) -> None:
    whole = ct(14)
    node.receive(whole[:12])
    assert node.step() == 1
    node.receive(whole[12:])
    assert node.step() == 1
    assert job_states() == ["superseded", "queued"]
    old, new = Job.select().order_by(Job.id)
    assert (len(inputs(old)), len(inputs(new))) == (12, 14)
    assert old.identity != new.identity
    assert only_series().state == "routed"
    assert "series.reopened" in actions()
    assert "study.reopened" in actions()
    assert only_study().state == "settled"


def test_what_a_late_object_spoils_is_taken_back(node: Node) -> None:
    node.receive(ct())
    assert node.step() == 1
    scout = factories.localizer()
    scout.SeriesInstanceUID = only_series().series_instance_uid
    node.receive([scout])
    assert node.step() == 0
    assert job_states() == ["superseded"]
    assert only_series().state == "skipped"


def test_one_series_that_cannot_be_judged_does_not_hold_up_the_others(
    node: Node, later: Callable[[float], None]
) -> None:
    association = node.open()
    node.store_on(association, ct())
    node.step()
    node.store.path(Instance.get().object_key).unlink()
    node.release(association)
    node.receive(ct(seed=1))
    assert node.step() == 1
    lost = Series.get(Series.state == "skipped")
    assert lost.reason == "It could not be judged: it cannot be opened: No such file or directory"
    assert node.step() == 0


@pytest.mark.feature("P06")
def test_each_radiograph_of_a_series_is_a_job_of_its_own_at_once(node: Node) -> None:
    images = [factories.cr_image(seed=seed) for seed in range(3)]
    for image in images:
        image.StudyInstanceUID, image.SeriesInstanceUID = "2.25.1", "2.25.2"
    association = node.open()
    node.store_on(association, images[:2])
    assert node.step() == 2  # though the association is open
    node.store_on(association, images[2:])
    assert node.step() == 1
    assert job_states() == ["queued"] * 3
    assert {job.subject for job in Job.select()} == {image.SOPInstanceUID for image in images}
    node.release(association)


def test_a_study_settles_when_all_its_series_are_answered(node: Node) -> None:
    scan, prior = ct(), ct(seed=1)
    for image in prior:
        image.StudyInstanceUID = scan[0].StudyInstanceUID
    association = node.open()
    node.store_on(association, prior)
    node.receive(scan)
    node.step()
    assert only_study().state == "open"
    node.release(association)
    node.step()
    assert only_study().state == "settled"
    assert Study.select().count() == 1


def test_a_settled_study_waits_for_its_silence(node: Node) -> None:
    node.configure(series={"quiet_seconds": 0, "give_up_seconds": 900, "study_quiet_seconds": 3600})
    node.receive(ct())
    node.step()
    assert only_study().state == "open"


def test_a_job_is_the_same_one_on_any_day(node: Node) -> None:
    node.receive(ct())
    node.step()
    job = Job.get()
    assert len(job.identity) == 64
    assert jobs.input_ids_of(job) == {row.id for row in inputs(job)}


def reasons_of(action: str) -> list[str]:
    rows = AuditEvent.select().where(AuditEvent.action == action).order_by(AuditEvent.seq)
    return [json.loads(row.detail).get("reason", "") for row in rows]


def actions() -> set[str]:
    return {row.action for row in AuditEvent.select(AuditEvent.action)}


@pytest.mark.feature("P06")
def test_an_enhanced_object_is_complete_at_once_and_queued_by_itself(node: Node) -> None:
    grid = Grid((12, 6, 7))
    voxels = np.zeros(grid.shape, np.uint16)
    images = [images_of(voxels, grid, form="enhanced", seed=seed)[0] for seed in range(2)]
    images[1].SeriesInstanceUID = images[0].SeriesInstanceUID
    images[1].StudyInstanceUID = images[0].StudyInstanceUID
    association = node.open()
    for image in images:
        node.store_on(association, [image])
        assert node.step() == 1  # though the association is open
    subjects = {job.subject for job in Job.select()}
    assert subjects == {image.SOPInstanceUID for image in images}
    node.release(association)


def test_a_screenshot_that_comes_first_does_not_make_slices_complete(node: Node) -> None:
    slices, shot = ct(), factories.secondary_capture()
    shot.Modality = "CT"
    shot.StudyInstanceUID = slices[0].StudyInstanceUID
    shot.SeriesInstanceUID = slices[0].SeriesInstanceUID
    association = node.open()
    node.store_on(association, [shot])
    assert node.step() == 0
    node.store_on(association, slices[:11])
    assert node.step() == 0
    assert only_series().state == "reopened"
    node.store_on(association, slices[11:])
    node.release(association)
    assert node.step() == 1
    assert len(inputs(Job.get())) == len(slices)

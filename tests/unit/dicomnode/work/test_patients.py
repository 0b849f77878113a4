"""Models that compare with an earlier study of the same patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.engine import Engine
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from config.errors import SeriesError
from config.schema import ModelsSettings, RouteSettings, Settings
from dicomnode.results.provenance import made_here
from dicomnode.series.explain import explain
from dicomnode.work.pipeline import analyse, model_facts
from dicomnode.work.worker import Worker
from storage import jobs
from storage.records import Job, Study
from tests import factories, priors
from tests.model_packages import LABELS, head, primary_input, write_package
from tests.unit.dicomnode.results.cases import provenance
from tests.unit.dicomnode.work.conftest import AT_ONCE, Node, job_states

ROUTE = RouteSettings(name="Compare", scope="study", when={"Modality": "CT"}, model="denser")
OPTIONAL = RouteSettings(name="May", scope="study", when={"Modality": "CT"}, model="denser-alone")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, optional in (("denser", False), ("denser-alone", True)):
        first = primary_input(priors.inputs(optional=optional))
        output = LABELS.replace('layout = "NCHW"', 'layout = "NCDHW"')
        manifest = head(name, basis="rules") + first + output
        write_package(folder / name / "1.0.0", priors.denser_graph(), manifest)
    return folder


@pytest.fixture(scope="module")
def registry(models: Path) -> Registry:
    return Registry([bundled_models_path(), models])


@pytest.fixture
def node(tmp_path: Path, registry: Registry) -> Iterator[Node]:
    opened = Node(tmp_path / "node", registry, routes=(ROUTE,))
    yield opened
    opened.close()


def ct(seed: int, date: str, **more: str) -> list[Dataset]:
    images = factories.ct_series(12, seed=seed)
    said = {"PatientID": "P1", "IssuerOfPatientID": "A", "StudyDate": date, "StudyTime": "101500"}
    for image in images:
        for keyword, value in (said | more).items():
            setattr(image, keyword, value)
    return images


def chosen(job: Job) -> dict[str, str]:
    return {role: rows[0].series_instance_uid for role, rows in jobs.inputs_of(job).items()}


def study_of(images: list[Dataset]) -> Study:
    found: Study = Study.get_by_id(images[0].StudyInstanceUID)
    return found


@pytest.mark.feature("P08")
def test_the_newest_earlier_study_of_the_patient_that_fits_is_taken(node: Node) -> None:
    old, newer = ct(1, "20240101"), ct(2, "20250101")
    unsound = ct(3, "20250601")[:5] + ct(3, "20250601")[6:]
    later, other = ct(4, "20270101"), ct(5, "20250901", IssuerOfPatientID="B")
    node.configure(routes=())
    for images in (newer, old, later, other, unsound):
        node.receive(images)
    node.configure(routes=(ROUTE,), series={"give_up_seconds": 0, "quiet_seconds": 0})
    node.step()
    now = ct(6, "20260101")
    node.configure(routes=(ROUTE,))
    node.receive(now)
    node.step()
    job = Job.get(Job.study_instance_uid == now[0].StudyInstanceUID)
    assert chosen(job) == {
        "image": now[0].SeriesInstanceUID,
        "before": newer[0].SeriesInstanceUID,
    }
    (route,) = json.loads(study_of(now).explanation)
    (_, before) = route["choices"]
    assert [each["why_not"] is None for each in before["candidates"]] == [False, True]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"PatientID": "P2"}, ""),
        ({"PatientID": ""}, ""),
        ({"StudyDate": "20260101"}, ""),
        ({"StudyDate": "yesterday"}, ""),
        ({"PatientBirthDate": "19500101"}, "another PatientBirthDate"),
        ({"PatientSex": "O"}, "another PatientSex"),
    ],
)
def test_without_one_that_is_needed_the_study_is_skipped_with_its_reason(
    node: Node, change: dict[str, str], told: str
) -> None:
    person = {"PatientBirthDate": "19600101", "PatientSex": "F"}
    node.receive(ct(1, **({"date": "20250101"} | person | change)))  # type: ignore[arg-type]
    now = ct(2, "20260101", **person)
    node.receive(now)
    assert node.step() == 0
    study = study_of(now)
    assert study.reason.endswith(
        "No model: nothing in an earlier study of the patient is the input 'before'."
    )
    assert told in study.explanation


def test_an_optional_one_may_be_missing(node: Node) -> None:
    node.configure(routes=(OPTIONAL,))
    now = ct(2, "20260101")
    node.receive(now)
    assert node.step() == 1
    assert chosen(Job.get()) == {"image": now[0].SeriesInstanceUID}


def test_nothing_of_the_patient_is_kept_but_a_keyed_digest(node: Node, tmp_path: Path) -> None:
    node.receive(ct(1, "20250101"))
    node.step()
    (study,) = Study.select()
    assert len(study.patient) == 64
    assert study.taken_at == "20250101101500"
    other = Node(tmp_path / "other", node.registry)
    other.receive(ct(1, "20250101"))
    other.step()
    assert Study.get().patient != study.patient
    other.close()


def test_a_rejected_earlier_study_takes_back_what_was_made_with_it(node: Node) -> None:
    before, now = ct(1, "20250101"), ct(2, "20260101")
    node.receive(before)
    node.receive(now)
    node.step()
    assert job_states() == ["queued"]
    node.receive([factories.rejection_note(before)])
    node.step()
    assert job_states() == ["superseded"]


@pytest.mark.feature("P08", "P19")
def test_results_name_the_earlier_study_as_evidence(
    node: Node, models: Path, tmp_path: Path
) -> None:
    before, now = ct(1, "20250101"), ct(2, "20260101")
    node.receive(before)
    node.receive(now)
    node.step()
    options: dict[str, Any] = AT_ONCE | {"routes": (ROUTE,), "models": ModelsSettings(path=models)}
    worker = Worker(Settings(**options), tmp_path / "node")
    assert worker.runner.run_one()
    (job,) = Job.select()
    assert job.state == "ready", job.reason
    report = next(
        dcmread(worker.store.path(result.object_key))
        for result in jobs.results_of(job)
        if result.kind == "sr"
    )
    worker.close()
    assert report.StudyInstanceUID == now[0].StudyInstanceUID
    (study,) = report.PertinentOtherEvidenceSequence
    assert study.StudyInstanceUID == before[0].StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    named = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert named == {image.SOPInstanceUID for image in before}


def test_a_dry_run_finds_it_among_the_files(registry: Registry, tmp_path: Path) -> None:
    before, now = ct(1, "20250101"), ct(2, "20260101")
    factories.write([*now, *before], tmp_path)
    found = {
        study.study_instance_uid: study
        for study in explain([tmp_path], (ROUTE,), registry, made_here).studies
    }
    first, second = (found[each[0].StudyInstanceUID] for each in (before, now))
    assert first.package is None
    assert second.inputs["before"].subject == before[0].SeriesInstanceUID


@pytest.mark.parametrize(
    "keyword", ["PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"]
)
def test_nobody_is_compared_with_another_person(models: Path, tmp_path: Path, keyword: str) -> None:
    """Whoever chose the files, by hand say."""
    said = {"PatientBirthDate": "19600101", "PatientSex": "F"}
    other = said | {keyword: "19500101" if keyword == "PatientBirthDate" else "O"}
    before, now = ct(1, "20250101", **other), ct(2, "20260101", **said)
    with pytest.raises(SeriesError, match=f"'before': its patient has another {keyword}"):
        infer(models, factories.write(now, tmp_path / "now"), factories.write(before, tmp_path))


def infer(models: Path, now: list[Path], before: list[Path]) -> None:
    registry = Registry([models])
    package = registry.find("denser")
    engine = Engine(registry, SessionCache(("cpu",), 1))
    origin = provenance(model=model_facts(package))
    analyse(now, package, engine, origin, others={"before": before})

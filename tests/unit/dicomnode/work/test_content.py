"""What becomes of a job whose pixels do not show what its header says or its model is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ai.engine import Engine
from ai.package import Package, read_package
from ai.reference import REFERENCE, Reference, Spread
from ai.registry import Registry
from ai.seal import renew
from config.errors import ContentError, UsageError
from config.schema import RouteSettings, Settings
from dicomnode.cli.files import explain
from dicomnode.cli.jobs import retry
from dicomnode.series.volume import load_series
from dicomnode.work.content import judge
from dicomnode.work.models import make_engine
from dicomnode.work.pipeline import analyse, model_facts
from dicomnode.work.worker import Worker
from storage import attempts
from storage.records import AuditEvent, Job
from tests import factories
from tests.unit.ai import heads
from tests.unit.ai.trunks import STEP, Trunk
from tests.unit.dicomnode.results.cases import provenance
from tests.unit.dicomnode.work.conftest import Node, job_states
from tests.volumes import Grid, images_of


def screen_as_cr() -> Dataset:
    """A picture of a screen that calls itself a computed radiograph."""
    image = factories.cr_image()
    factories.set_pixels(image, heads.screen_plane().astype(np.uint16), bits_stored=8)
    return image


@pytest.fixture
def run_job(tmp_path: Path, registry: Registry) -> Callable[..., Job]:
    def run(image: Dataset, **route: Any) -> Job:
        given = {"name": "CR", "when": {"Modality": "CR"}, "model": "xr-quality", **route}
        routes = (RouteSettings(**given),)
        node = Node(tmp_path, registry, routes=routes)
        node.receive([image])
        assert node.step() == 1
        node.close()
        worker = Worker(Settings().model_copy(update={"routes": routes}), tmp_path)
        try:
            assert worker.runner.run_one()
        finally:
            worker.close()
        (job,) = Job.select()
        return job

    return run


def events(action: str) -> list[dict[str, Any]]:
    rows = AuditEvent.select().where(AuditEvent.action == action)
    return [json.loads(row.detail) for row in rows]


@pytest.mark.feature("F22")
def test_a_strict_route_skips_what_the_pixels_contradict(run_job: Callable[..., Job]) -> None:
    job = run_job(screen_as_cr(), content="skip")
    assert job.state == "skipped"
    assert job.reason == (
        "not given to xr-quality@1.0.0: the pixels look like a picture of a screen, as ultrasound "
        "and secondary captures are (1.00), where the header says CR"
    )
    (event,) = events("job.skipped")
    assert event["reason"] == job.reason
    assert not job.results.count()


@pytest.mark.feature("F22")
def test_a_route_that_warns_asks_for_a_human_look(run_job: Callable[..., Job]) -> None:
    job = run_job(screen_as_cr())
    assert job.state == "ready"
    assert job.reason.startswith("a human look is asked for: the pixels look like a picture of")
    (event,) = events("job.ready")
    assert event["reason"] == job.reason
    assert "content" in json.loads(job.seconds)


def test_a_route_may_do_without_the_look(run_job: Callable[..., Job]) -> None:
    job = run_job(screen_as_cr(), content="off")
    assert (job.state, job.reason) == ("ready", None)


def test_what_is_what_it_says_is_not_remarked_on(run_job: Callable[..., Job]) -> None:
    job = run_job(factories.cr_image(), content="skip")
    assert (job.state, job.reason) == ("ready", None)


def test_a_skipped_job_may_be_queued_again_by_hand(
    run_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = run_job(screen_as_cr(), content="skip")
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n', "utf-8")
    retry(job.id, config=config)
    assert job_states() == ["queued"]
    with pytest.raises(UsageError, match="failed, skipped and cancelled"):
        retry(job.id, config=config)


@pytest.fixture
def engine(registry: Registry) -> Engine:
    return make_engine(Settings(models={"providers": ("cpu",)}), registry)


@pytest.fixture
def for_heads(registry: Registry, tmp_path: Path) -> Package:
    """`mr-foreground`, for heads alone, with a reference that knows only long volumes."""
    source = registry.find("mr-foreground").folder
    folder = tmp_path / "site" / "mr-foreground" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    text = (source / "model.toml").read_text("utf-8")
    place = text.index("[output]")
    text = text[:place] + '[inputs.content]\nbody_part = ["head"]\n\n' + text[place:]
    (folder / "model.toml").write_text(text, "utf-8")
    spread = Spread(low=900.0, high=1100.0, mean=1000.0, sd=50.0)
    reference = Reference(images=20, inputs={"image": {"slices_mm": spread}})
    (folder / REFERENCE).write_text(reference.model_dump_json(), "utf-8")
    renew(folder, folder)
    return read_package(folder)


@pytest.mark.feature("F22")
def test_a_model_for_heads_gets_no_other_series_and_says_why(
    for_heads: Package, engine: Engine, tmp_path: Path
) -> None:
    paths = factories.write(factories.mr_series(slices=4), tmp_path / "source")
    with pytest.raises(ContentError, match="do not tell whether this is a head") as caught:
        analyse(paths, for_heads, engine, provenance(model=model_facts(for_heads)), content="skip")
    assert caught.value.reason == "content"


@pytest.mark.feature("F22")
def test_every_finding_of_a_doubtful_image_is_marked_with_all_doubts(
    for_heads: Package, engine: Engine, tmp_path: Path
) -> None:
    paths = factories.write(factories.mr_series(slices=4), tmp_path / "source")
    analysis = analyse(paths, for_heads, engine, provenance(model=model_facts(for_heads)))
    assert len(analysis.judgement.doubts) == 2
    (finding,) = analysis.answer.findings
    assert finding.needs_review
    assert "do not tell whether this is a head" in finding.review_reason
    assert "where the model's reference has 900 to 1.1e+03" in finding.review_reason
    report = next(
        pydicom.dcmread(BytesIO(result.content))
        for result in analysis.results
        if result.kind == "sr"
    )
    assert f"Needs review: {finding.review_reason}." in report.to_json()


def test_the_reference_is_asked_even_where_the_route_does_not_look(
    for_heads: Package, engine: Engine, tmp_path: Path
) -> None:
    paths = factories.write(factories.mr_series(slices=4), tmp_path / "source")
    analysis = analyse(
        paths, for_heads, engine, provenance(model=model_facts(for_heads)), content="off"
    )
    assert analysis.judgement.shown == {}
    (doubt,) = analysis.judgement.doubts
    assert doubt.startswith("slices_mm of the input 'image' is")


def test_a_skip_of_a_job_that_was_cancelled_meanwhile_is_no_fault(
    run_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = attempts.skip

    def cancelled_first(ledger: Any, job: Job, reason: str) -> None:
        attempts.cancel(ledger, Job.get_by_id(job.id), "user:test")
        skip(ledger, job, reason)

    monkeypatch.setattr(attempts, "skip", cancelled_first)
    assert run_job(screen_as_cr(), content="skip").state == "cancelled"


def test_a_dry_run_says_what_the_pixels_show_and_what_comes_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    factories.write([screen_as_cr()], tmp_path / "source")
    config = tmp_path / "node.toml"
    route = 'name = "CR"\nwhen = { Modality = "CR" }\nmodel = "xr-quality"\ncontent = "skip"'
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n[[routes]]\n{route}\n', "utf-8")
    explain([tmp_path / "source"], config)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "Pixels for xr-quality@1.0.0 (CR): modality screen (1.00), body part not"
    )
    assert "not given to xr-quality@1.0.0: the pixels look like a picture of a screen" in last
    explain([tmp_path / "source"], config, as_json=True)
    (look,) = json.loads(capsys.readouterr().out)["series"][0]["content"]
    assert look["shown"]["image"]["family"] == {"value": "screen", "confidence": 1.0}
    assert look["why_not"].startswith("not given to xr-quality@1.0.0")


def test_a_later_object_takes_the_place_of_a_skipped_job(
    run_job: Callable[..., Job], tmp_path: Path, registry: Registry
) -> None:
    first = screen_as_cr()
    run_job(first, content="skip")
    route = RouteSettings(name="CR", when={"Modality": "CR"}, model="xr-quality", content="skip")
    node = Node(tmp_path, registry, routes=(route,))
    corrected = screen_as_cr()
    corrected.PatientID = "CORRECTED"
    node.receive([corrected])
    assert node.step() == 1
    node.close()
    assert job_states() == ["superseded", "queued"]


def for_contrast(registry: Registry, folder: Path, wanted: str) -> Package:
    """`ct-tissue`, with contrast medium wanted or not."""
    source = registry.find("ct-tissue").folder
    folder = folder / "site" / "ct-tissue" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    text = (source / "model.toml").read_text("utf-8")
    place = text.index("[output]")
    text = f"{text[:place]}[inputs.content]\ncontrast = {wanted}\n\n{text[place:]}"
    (folder / "model.toml").write_text(text, "utf-8")
    renew(folder, folder)
    return read_package(folder)


def trunk(folder: Path, *, blood: float, **attributes: str) -> list[Path]:
    """A drawn trunk as a series of CT, with attributes of the contrast medium."""
    voxels = Trunk(blood=blood, height=120.0).volume().voxels
    grid = Grid(voxels.shape, spacing=(STEP, STEP, STEP))  # type: ignore[arg-type]
    images = images_of((voxels + 1024).astype(np.uint16), grid)
    for image in images:
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
    return factories.write(images, folder)


@pytest.mark.feature("F22")
def test_a_model_for_contrast_gets_no_series_whose_vessels_show_none(
    registry: Registry, engine: Engine, tmp_path: Path
) -> None:
    package = for_contrast(registry, tmp_path, "true")
    paths = trunk(tmp_path / "source", blood=40, ContrastBolusAgent="APPLIED")
    with pytest.raises(
        ContentError, match=r"no contrast medium .* \(1.00\), where the model wants"
    ):
        analyse(paths, package, engine, provenance(model=model_facts(package)), content="skip")


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({}, False),
        ({"ContrastBolusAgent": ""}, False),
        ({"ContrastBolusAgent": "APPLIED"}, True),
        ({"ContrastBolusAgent": "WATER", "ContrastBolusRoute": "ORAL"}, False),
        ({"ContrastBolusAgent": "TELEBRIX", "ContrastBolusRoute": "PER RECTUM"}, False),
        ({"ContrastBolusAgent": "GASTRO & OMNI", "ContrastBolusRoute": "Oral & IV"}, True),
        ({"ContrastBolusAgent": "OMNI", "ContrastBolusRoute": "INTRAVENOUS"}, True),
        ({"ContrastBolusAgent": "OMNI", "ContrastBolusRoute": "DIRECT INJECTION"}, True),
        ({"ContrastBolusRoute": "IV"}, False),
    ],
    ids=str,
)
def test_a_header_that_disagrees_about_the_agent_warns_and_stops_nothing(
    registry: Registry, tmp_path: Path, attributes: dict[str, str], named: bool
) -> None:
    package = for_contrast(registry, tmp_path, "true")
    paths = trunk(tmp_path / "source", blood=200, **attributes)
    judgement = judge(package, {package.manifest.input.role: load_series(paths)}, "skip")
    assert judgement.reason is None
    assert judgement.shown["image"].contrast.value == "enhanced"
    assert [("names no agent" in doubt) for doubt in judgement.doubts] == [True] * (not named)


@pytest.mark.parametrize(
    ("codes", "named"),
    [((), True), (("47625008",), True), (("26643006",), False), (("26643006", "47625008"), True)],
)
def test_coded_ways_of_an_agent_count(
    registry: Registry, tmp_path: Path, codes: tuple[str, ...], named: bool
) -> None:
    package = for_contrast(registry, tmp_path, "false")
    paths = trunk(tmp_path / "source", blood=40)
    loaded = load_series(paths)
    agent = Dataset()
    agent.ContrastBolusAdministrationRouteSequence = [Dataset() for _ in codes]
    for item, code in zip(agent.ContrastBolusAdministrationRouteSequence, codes, strict=True):
        item.CodeValue = code
    for header in loaded.headers:
        header.ContrastBolusAgentSequence = [agent]
    judgement = judge(package, {package.manifest.input.role: loaded}, "warn")
    assert [("names an agent" in doubt) for doubt in judgement.doubts] == [True] * named

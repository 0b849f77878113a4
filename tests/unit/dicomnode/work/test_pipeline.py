"""One model on one series, with the real models, and what becomes of its own results."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from ai.engine import Engine
from ai.registry import Registry
from config.errors import InferenceError, ModelFileError, SeriesError
from config.schema import RouteSettings, Settings
from dicomnode.work.models import make_engine
from dicomnode.work.pipeline import Analysis, analyse, model_facts, picture
from storage.records import Series
from tests import factories
from tests.unit.dicomnode.results.cases import provenance
from tests.unit.dicomnode.work.conftest import Node, job_states, only_series


@pytest.fixture(scope="module")
def engine(registry: Registry) -> Engine:
    return make_engine(Settings(models={"providers": ("cpu",)}), registry)


Run = Callable[..., Analysis]


@pytest.fixture
def run(tmp_path: Path, registry: Registry, engine: Engine) -> Run:
    def _run(images: list[Dataset], model: str, **more: object) -> Analysis:
        package = more.pop("package", None) or registry.find(model)
        paths = factories.write(images, tmp_path / "source")
        return analyse(paths, package, engine, provenance(model=model_facts(package)), **more)  # type: ignore[arg-type]

    return _run


def objects(analysis: Analysis) -> list[Dataset]:
    return [pydicom.dcmread(BytesIO(result.content)) for result in analysis.results]


@pytest.mark.feature("P09", "P19", "P44")
def test_a_ct_gives_a_segmentation_and_a_report_that_refers_to_it(run: Run) -> None:
    images = factories.ct_series(12, rows=32, columns=40)
    proving: list[bool] = []
    analysis = run(images, "ct-tissue", on_proving=lambda: proving.append(True))
    assert [result.kind for result in analysis.results] == ["seg", "sr"]
    segmentation, report = objects(analysis)
    for result, dataset in zip(analysis.results, (segmentation, report), strict=True):
        assert result.sop_instance_uid == dataset.SOPInstanceUID
        assert result.sop_class_uid == dataset.SOPClassUID
        assert dataset.StudyInstanceUID == images[0].StudyInstanceUID
        assert dataset.PatientID == images[0].PatientID
    assert segmentation.SOPInstanceUID in report.to_json()
    assert proving == [True]
    assert set(analysis.seconds) == {
        "decode",
        "content",
        "preprocess",
        "run",
        "postprocess",
        "encode",
        "prove",
    }
    assert analysis.answer.labels is not None
    assert analysis.answer.labels.shape == (12, 32, 40)


@pytest.mark.feature("P24")
def test_the_same_job_gives_the_same_bytes(run: Run) -> None:
    images = factories.ct_series(12, rows=32, columns=40)
    first = run(images, "ct-tissue")
    again = run(factories.shuffled(images, 3), "ct-tissue")
    assert [r.content for r in first.results] == [r.content for r in again.results]


@pytest.mark.feature("P17", "P34")
def test_a_radiograph_gives_a_report_and_a_picture(run: Run, registry: Registry) -> None:
    analysis = run([factories.cr_image()], "xr-quality")
    assert [result.kind for result in analysis.results] == ["sr"]
    assert picture(analysis, registry.find("xr-quality")).startswith(b"\x89PNG")


def test_nothing_is_made_when_the_time_is_up_before_the_model_runs(run: Run) -> None:
    with pytest.raises(InferenceError, match=r"ct-tissue@1\.0\.0 was stopped: its time was up"):
        run(factories.ct_series(12, rows=32, columns=40), "ct-tissue", deadline_seconds=1e-4)


def test_nothing_is_proved_when_the_time_is_up_after_it_ran(run: Run) -> None:
    limit, images = 30.0, factories.ct_series(12, rows=32, columns=40)
    before = time.monotonic

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(InferenceError, match="its time was up"),
    ):
        run(
            images,
            "ct-tissue",
            deadline_seconds=limit,
            on_proving=lambda: patch.setattr(time, "monotonic", lambda: before() + limit),
        )


def test_what_the_model_cannot_take_is_said_before_it_runs(run: Run) -> None:
    with pytest.raises(
        SeriesError, match=r"xr-quality@1\.0\.0 cannot take it: modality CT"
    ) as told:
        run(factories.ct_series(12), "xr-quality")
    assert told.value.reason == "model-input"


def test_an_unsound_series_is_refused(run: Run) -> None:
    with pytest.raises(SeriesError) as told:
        run(factories.ct_series(12, drop=[4]), "ct-tissue")
    assert told.value.reason == "gap"


def test_a_model_whose_files_were_changed_does_not_run(
    run: Run, registry: Registry, tmp_path: Path
) -> None:
    package = registry.find("ct-tissue")
    copy = tmp_path / "model"
    copy.mkdir()
    for path in package.folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(package.folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / "model.onnx").write_bytes(b"changed")
    changed = replace(package, folder=copy, digest="0" * 64)
    with pytest.raises(ModelFileError):
        run(factories.ct_series(12), "ct-tissue", package=changed)


EVERYTHING = [
    RouteSettings(name="all", when={}, model="ct-tissue"),
    RouteSettings(name="derived", when={"derived": True}, model="ct-tissue"),
    RouteSettings(name="by class", when={"SOPClassUID": {"exists": True}}, model="xr-quality"),
]


@pytest.mark.feature("P06")
def test_own_results_that_come_back_are_never_analysed(run: Run, node: Node) -> None:
    """Whatever the rules ask for, and although they belong to the study of their source."""
    node.configure(routes=EVERYTHING)
    images = factories.ct_series(12, rows=32, columns=40)
    node.receive(objects(run(images, "ct-tissue")))
    assert node.step() == 0
    assert Series.select().count() == 2
    for series in Series.select():
        assert series.state == "skipped"
        assert "results of this node" in series.reason
    assert job_states() == []


@pytest.mark.feature("P06")
def test_an_own_result_among_images_keeps_its_series_from_any_model(run: Run, node: Node) -> None:
    node.configure(routes=EVERYTHING)
    images = factories.ct_series(12, rows=32, columns=40)
    _, report = objects(run(images, "ct-tissue"))
    report.SeriesInstanceUID = images[0].SeriesInstanceUID
    node.receive([*images, report])
    assert node.step() == 0
    assert "results of this node" in only_series().reason


@pytest.mark.feature("P08")
def test_a_derived_image_is_analysed_only_on_request(node: Node) -> None:
    images = factories.ct_series(12)
    for image in images:
        image.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    plain = [RouteSettings(name="plain", when={"Modality": "CT"}, model="ct-tissue")]
    node.configure(routes=plain)
    node.receive(images)
    assert node.step() == 0
    assert only_series().reason == "No model: no rule asks for it."

    asked = [RouteSettings(name="asked", when={"ImageType": "DERIVED"}, model="ct-tissue")]
    node.configure(routes=asked)
    corrected = [deepcopy(image) for image in images]
    for image in corrected:
        image.AccessionNumber = "SAMPLE02"
    node.receive(corrected)
    assert node.step() == 1

"""Routes of studies: which series is which input, when they run, and what they run on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai.models.graph import Graph
from ai.registry import Registry, bundled_models_path
from config.schema import RouteInputSettings, RouteSettings, Settings
from dicomnode.results.provenance import made_here
from dicomnode.series.explain import Explanation, explain
from dicomnode.work.models import make_registry
from dicomnode.work.worker import Worker
from storage import jobs
from storage.records import Job, Study
from tests import factories
from tests.model_packages import LABELS, SLICES, head, primary_input, write_package
from tests.unit.dicomnode.work.conftest import AT_ONCE, Node, job_states, only_study

ROLE = '\n[[inputs]]\nrole = "{}"\n{}tensor = "{}"\nmodality = ["MR"]\nunits = "1"\n' + SLICES
CHOICES = (
    RouteInputSettings(
        role="t1",
        when={"SeriesDescription": {"regex": "T1"}},
        prefer=({"SeriesDescription": {"regex": "contrast"}}, {"slices": {"min": 6}}),
    ),
    RouteInputSettings(role="flair", when={"SeriesDescription": "FLAIR"}),
    RouteInputSettings(role="t2", when={"SeriesDescription": "T2"}),
)
ROUTE = RouteSettings(
    name="Brain",
    scope="study",
    when={"Modality": "MR"},
    model="brain",
    inputs=CHOICES,
)


def brain_graph() -> bytes:
    """1 where the sum of all inputs is above zero."""
    g = Graph("brain")
    shape = ("N", 1, "H", "W")
    both = g.op("Add", g.op("Add", "t1", "flair"), "t2")
    g.named("Cast", [g.op("Greater", both, g.real(0.0))], ["y"], to=TensorProto.UINT8)
    inputs = [(name, TensorProto.FLOAT, shape) for name in ("t1", "flair", "t2")]
    return g.serialized(inputs, [("y", TensorProto.UINT8, shape)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    manifest = head("brain", basis="rules")
    manifest += primary_input(SLICES, role="t1", tensor="t1", modality="MR", units="1")
    manifest += ROLE.format("flair", "", "flair") + ROLE.format("t2", "optional = true\n", "t2")
    manifest += LABELS.partition("[output.intensity]")[0]
    manifest += LABELS[LABELS.index("[[output.segment]]") :]
    write_package(folder / "brain" / "1.0.0", brain_graph(), manifest)
    return folder


@pytest.fixture(scope="module")
def brain(models: Path) -> Registry:
    return Registry([bundled_models_path(), models])


OPTIONS: dict[str, Any] = {"routes": (ROUTE,)}


@pytest.fixture
def node(tmp_path: Path, brain: Registry) -> Iterator[Node]:
    opened = Node(tmp_path / "node", brain, **OPTIONS)
    yield opened
    opened.close()


def scan(description: str, seed: int, slices: int = 5, **more: Any) -> list[Dataset]:
    """A series of the one study of these tests."""
    images = factories.mr_series(slices, seed=seed, **more)
    for image in images:
        image.StudyInstanceUID, image.PatientID = "2.25.10", "SYNTHETIC"
        image.FrameOfReferenceUID = "2.25.11"
        image.SeriesDescription = description
    return images


T1, CONTRAST, FLAIR, T2 = "T1", "T1 contrast", "FLAIR", "T2"


def series_of(images: Sequence[Dataset]) -> str:
    return str(images[0].SeriesInstanceUID)


def chosen(job: Job) -> dict[str, str]:
    return {role: rows[0].series_instance_uid for role, rows in sorted(jobs.inputs_of(job).items())}


@pytest.mark.feature("P06", "P08")
def test_a_settled_study_gives_one_job_with_a_series_for_each_role(node: Node) -> None:
    t1, flair = scan(T1, 1), scan(FLAIR, 2)
    node.receive([*t1, *flair])
    assert node.step() == 1
    (job,) = Job.select()
    assert (job.route, job.model, job.subject) == ("Brain", "brain@1.0.0", "2.25.10")
    assert job.series_instance_uid == series_of(t1)
    assert chosen(job) == {"t1": series_of(t1), "flair": series_of(flair)}
    assert only_study().state == "settled"
    assert "Goes to brain@1.0.0" in only_study().reason
    assert node.step() == 0


def test_nothing_runs_before_the_study_is_quiet(node: Node) -> None:
    series = {"quiet_seconds": 0, "give_up_seconds": 900, "study_quiet_seconds": 3600}
    node.configure(**OPTIONS, series=series)
    node.receive([*scan(T1, 1), *scan(FLAIR, 2)])
    assert node.step() == 0
    assert only_study().state == "open"


def test_the_preferred_series_is_taken_then_the_one_with_more_slices(node: Node) -> None:
    plain, long, contrast = scan(T1, 1), scan(T1, 3, slices=7), scan(CONTRAST, 4)
    node.receive([*plain, *long, *scan(FLAIR, 2)])
    node.step()
    assert chosen(Job.get())["t1"] == series_of(long)
    node.receive(contrast)
    assert node.step() == 1
    assert job_states() == ["superseded", "queued"]
    assert chosen(Job.get(Job.state == "queued"))["t1"] == series_of(contrast)


def test_an_optional_series_that_comes_late_makes_a_new_job(node: Node) -> None:
    node.receive([*scan(T1, 1), *scan(FLAIR, 2)])
    node.step()
    t2 = scan(T2, 5)
    node.receive(t2)
    assert node.step() == 1
    assert job_states() == ["superseded", "queued"]
    assert chosen(Job.get(Job.state == "queued"))["t2"] == series_of(t2)
    assert Job.get(Job.state == "superseded").reason == "newer objects of the study came"


def test_the_same_series_in_other_roles_are_another_analysis(node: Node) -> None:
    node.receive([*scan(T1, 1), *scan(FLAIR, 2)])
    node.step()
    first = Job.get().identity
    for job in Job.select():
        inputs = json.loads(job.input_instances)
        assert set(inputs) == {"t1", "flair"}
    turned = ROUTE.model_copy(
        update={
            "inputs": (
                RouteInputSettings(role="t1", when={"SeriesDescription": FLAIR}),
                RouteInputSettings(role="flair", when={"SeriesDescription": T1}),
            )
        }
    )
    node.configure(routes=(turned,))
    node.receive(scan("other", 9))
    assert node.step() == 1
    assert Job.get(Job.state == "queued").identity != first


def test_a_study_without_a_needed_series_says_so(node: Node) -> None:
    node.receive(scan(T1, 1))
    assert node.step() == 0
    assert only_study().reason.endswith("nothing in the study is the input 'flair'.")
    assert json.loads(only_study().explanation)[0]["inputs"] == {"t1": series_of(scan(T1, 1))}


def test_a_series_in_another_frame_of_reference_is_no_input(node: Node) -> None:
    flair = scan(FLAIR, 2)
    for image in flair:
        image.FrameOfReferenceUID = "2.25.99"
    node.receive([*scan(T1, 1), *flair])
    assert node.step() == 0
    assert "'flair'" in only_study().reason
    candidates = json.loads(only_study().explanation)[0]["choices"][1]["candidates"]
    (told,) = {each["why_not"] for each in candidates if each["decision"]["matched"]}
    assert told == "it lies in another frame of reference than the primary input"


def test_what_is_asked_of_a_study_no_more_is_taken_back(node: Node) -> None:
    node.receive([*scan(T1, 1), *scan(FLAIR, 2)])
    node.step()
    node.configure(routes=(ROUTE.model_copy(update={"when": {"Modality": "CT"}}),))
    node.receive(scan("other", 9))
    assert node.step() == 0
    assert job_states() == ["superseded"]


def test_a_late_slice_of_one_series_leaves_the_job_until_the_study_is_judged(node: Node) -> None:
    whole = scan(T1, 1, slices=8)
    node.receive([*whole[:7], *scan(FLAIR, 2)])
    node.step()
    association = node.open()
    node.store_on(association, whole[7:])
    node.step()
    assert job_states() == ["queued"]
    node.release(association)
    assert node.step() == 1
    assert job_states() == ["superseded", "queued"]


def test_explain_prints_what_the_node_does(node: Node, tmp_path: Path, brain: Registry) -> None:
    t1, flair, scout = scan(T1, 1), scan(FLAIR, 2), scan("scout", 6)
    for number, images in enumerate((t1, flair, scout)):
        factories.write(images, tmp_path / str(number))
    found: Explanation = explain([tmp_path], [ROUTE], brain, made_here)
    (study,) = found.studies
    node.receive([*t1, *flair, *scout])
    node.step()
    assert {role: unit.subject for role, unit in study.inputs.items()} == chosen(Job.get())
    assert json.loads(Study.get().explanation) == json.loads(json.dumps([study.as_json()]))
    lines = list(found.sentences())
    assert f"  Input 't1' is {series_of(t1)}" in lines
    assert "  Input 't2' (optional) is not there" in lines
    assert f"    {series_of(flair)}: its conditions do not hold" in lines
    assert any("wanted matches T1; found" in line and "yes" in line for line in lines)
    assert "routes" in found.as_json()["series"][0]


@pytest.mark.feature("P09", "P24")
def test_the_model_gets_its_inputs_and_the_results_lie_in_the_primary(
    tmp_path: Path, models: Path
) -> None:
    route = ROUTE.model_copy(update={"send_to": ("pacs",)})
    options = {"routes": (route,), "models": {"path": models, "workers": 1}}
    destination = {"name": "pacs", "ae_title": "P", "host": "127.0.0.1", "port": 1}
    settings = Settings(**AT_ONCE | options, destinations=[destination | {"results": ["seg"]}])
    node = Node(tmp_path, make_registry(settings), **options, destinations=[destination])
    node.ledger.close()
    worker = Worker(settings, tmp_path)
    node.ledger = worker.ledger
    node.configure(**options, destinations=[destination])
    t1 = scan(T1, 1, cosines=factories.AXIAL)
    flair = scan(FLAIR, 2, slices=9, step=2.0, cosines=factories.AXIAL)
    node.receive([*t1, *flair])
    assert node.step() == 1
    assert worker.runner.run_one()
    job = Job.get()
    assert (job.state, job.reason) == ("ready", None)
    seg = next(result for result in jobs.results_of(job) if result.kind == "seg")
    written = dcmread(node.store.path(seg.object_key))
    primary, beside = written.ReferencedSeriesSequence
    assert [primary.SeriesInstanceUID, beside.SeriesInstanceUID] == [
        series_of(t1),
        series_of(flair),
    ]
    sources = {
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in written.PerFrameFunctionalGroupsSequence
    }
    assert sources == {image.SOPInstanceUID for image in t1}
    assert written.NumberOfFrames == len(t1)
    worker.close()
    node.close()

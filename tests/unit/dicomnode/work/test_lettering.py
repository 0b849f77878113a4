"""Burned-in text with networks drawn by hand: one finds what is white, one reads DOE 17 in it.

The real networks on real ultrasound: tests/interop/test_burned_in.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydicom.dataset import Dataset

from ai.content.lettering import READER, Piece, Reader, read_lettering
from ai.engine import Engine
from ai.importing.build import import_model
from ai.importing.draft import read_answers
from ai.models.graph import Graph
from ai.package import Package
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from ai.types import Volume
from config.errors import ModelError, ModelFileError
from config.schema import RouteSettings, Settings
from dicomnode.work.lettering import Written, named_in
from dicomnode.work.worker import Worker
from storage.records import AuditEvent, Job, ModelBreaker
from tests import factories
from tests.model_packages import from_x_to_y, head, write_package
from tests.unit.dicomnode.work.conftest import Node

LETTERS = "D\nO\nE\n1\n7"
MANIFEST = (
    head("burned-in-text", results=["seg"])
    + """
[[inputs]]
role = "image"
primary = true
tensor = "x"
modality = ["CR", "US"]
units = "1"
dimensions = "2D"
apply = "slices"
batch = 1
colour = "luminance"
normalisation = { kind = "minmax" }
layout = "NCHW"

[output]
task = "segmentation"

[output.labels]
tensor = "y"
layout = "NCHW"
encoding = "channels"
select = "threshold"

[[output.segment]]
number = 1
channel = 0
label = "lettering"
category = ["309825002", "SCT", "Spatial and Relational Concept"]
type = ["111099", "DCM", "Selected region"]
color = [240, 200, 80]
description = "Lettering."
"""
)


def finder() -> bytes:
    """1 where the image is nearly white."""
    g = Graph("finder")
    g.named("Cast", [g.op("Greater", "x", g.real(0.9))], ["y"], to=TensorProto.FLOAT)
    return from_x_to_y(g)


def reader(sure: float = 1.0) -> bytes:
    """Reads ``DOE 17`` in everything, a blank between repeated scores and a space before the 1."""
    order = [1, 1, 0, 2, 3, 0, 6, 4, 5, 5]
    scores = np.zeros((1, len(order), 7), np.float32)
    scores[0, range(len(order)), order] = sure
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 48, "W")),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, scores.shape),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "none"], ["zero"]),
        helper.make_node("Add", ["scores", "zero"], ["y"]),
    ]
    held = [
        numpy_helper.from_array(scores, "scores"),
        numpy_helper.from_array(np.float32(0), "none"),
    ]
    graph = helper.make_graph(nodes, "reader", ends[:1], ends[1:], held)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    helper.set_model_props(model, {"character": LETTERS})
    content: bytes = model.SerializeToString()
    return content


Maker = Callable[..., Package]


@pytest.fixture
def make_checker(tmp_path: Path) -> Maker:
    def make(read_by: bytes | None = None) -> Package:
        more = {} if read_by is None else {READER: read_by}
        place = tmp_path / "site" / "burned-in-text" / "1.0.0"
        return write_package(place, finder(), MANIFEST, more)

    return make


@pytest.fixture
def engine(registry: Registry) -> Engine:
    return Engine(registry, SessionCache(("cpu",), 1))


def frames(count: int, *words: int) -> Volume:
    """Black frames, each with so many white bars."""
    voxels = np.zeros((count, 64, 96), np.uint8)
    for frame, many in zip(voxels, words, strict=True):
        for word in range(many):
            frame[4 + 15 * word : 12 + 15 * word, 10:50] = 255
    return Volume(voxels, "1", None, (None, None, None), (0.0, 255.0))


@pytest.mark.parametrize(("words", "seen"), [((2,), 2), ((1, 2, 3), 6), ((1, 4, 2, 4, 3), 6)])
def test_every_piece_of_the_first_middle_and_last_frame_is_read(
    make_checker: Maker, engine: Engine, words: tuple[int, ...], seen: int
) -> None:
    package = make_checker(reader())
    volume = frames(len(words), *words)
    pieces = list(read_lettering(package, engine, Reader(package), volume))
    assert pieces == [Piece("DOE 17", 1.0)] * seen
    assert all(piece.is_lettering for piece in pieces)


def test_an_image_of_one_value_holds_nothing(make_checker: Maker, engine: Engine) -> None:
    package = make_checker(reader())
    assert list(read_lettering(package, engine, Reader(package), frames(1, 0))) == []


@pytest.mark.parametrize(
    ("piece", "counts"),
    [
        (Piece("DOE", 0.8), True),
        (Piece("D 7", 0.9), False),
        (Piece("-----", 1.0), False),
        (Piece("DOE 17", 0.79), False),
    ],
)
def test_what_is_short_or_not_surely_read_does_not_count(piece: Piece, counts: bool) -> None:
    assert piece.is_lettering == counts


@pytest.mark.parametrize("content", [b"no graph", finder(), None])
def test_a_package_that_reads_nothing_is_told(make_checker: Maker, content: bytes | None) -> None:
    package = make_checker(content)
    with pytest.raises(ModelFileError, match=r"reader\.onnx"):
        Reader(package)


def header(**values: str) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("text", "values", "named"),
    [
        ("DOE, JANE", {"PatientName": "Doe^Jane"}, ("PatientName",)),
        ("Jane D.", {"PatientName": "Doe^Jane"}, ("PatientName",)),
        ("17-0815.X", {"PatientID": "170815x"}, ("PatientID",)),
        ("Dob 31.12.1969", {"PatientBirthDate": "19691231"}, ("PatientBirthDate",)),
        ("12/31/1969", {"PatientBirthDate": "19691231"}, ("PatientBirthDate",)),
        ("B4PTIST MED CTR", {"InstitutionName": "Baptist Med Ctr"}, ("InstitutionName",)),
        ("B4PT1ST MED CTR", {"InstitutionName": "Baptist Med Ctr"}, ()),
        ("MI 0.9", {"PatientName": "Doe^Jane", "PatientID": "0.9"}, ()),
        ("TIS 0.4", {"PatientName": "Li^A"}, ()),
    ],
)
def test_what_lettering_repeats_of_the_header_is_told_by_keyword(
    text: str, values: dict[str, str], named: tuple[str, ...]
) -> None:
    assert named_in([Piece("49Hz", 1.0), Piece(text, 1.0)], header(**values)) == named


def test_a_doubt_names_attributes_and_no_value() -> None:
    assert Written(0, ()).doubt is None
    assert Written(1, ()).doubt == "1 piece of lettering in the pixels"
    said = Written(3, ("PatientID", "PatientName")).doubt
    assert said == (
        "3 pieces of lettering in the pixels, which repeats PatientID and PatientName of the header"
    )


def written_on() -> Dataset:
    """A radiograph with two white bars in it."""
    image = factories.cr_image()
    pixels = np.zeros((64, 96), np.uint16)
    pixels[4:12, 10:50] = pixels[30:38, 10:50] = 4095
    factories.set_pixels(image, pixels, bits_stored=12)
    image.PatientName = "Doe^Jane"
    return image


TEXT_MODEL = "burned-in-text@1.0.0"


@pytest.fixture
def run_job(
    tmp_path: Path, make_checker: Maker, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Job]:
    def run(image: Dataset, burned_in: str, read_by: bytes | None = None, charged: int = 0) -> Job:
        make_checker(reader() if read_by is None else read_by)
        route = RouteSettings(
            name="X", when={"Modality": ["CR", "DX"]}, model="xr-quality", burned_in=burned_in
        )
        site = tmp_path / "site"
        node = Node(tmp_path / "node", Registry([bundled_models_path()]), routes=(route,))
        node.receive([image])
        assert node.step() == 1
        if charged:
            with node.ledger.transaction():
                ModelBreaker.create(name=TEXT_MODEL, failures=charged)
        node.close()
        settings = Settings(models={"path": site, "providers": ("cpu",)})
        worker = Worker(settings.model_copy(update={"routes": (route,)}), tmp_path / "node")
        try:
            assert worker.runner.run_one()
        finally:
            worker.close()
        (job,) = Job.select()
        kept = json.dumps([row.detail for row in AuditEvent.select()]) + capsys.readouterr().out
        assert "DOE" not in kept.upper()
        return job

    return run


SAID = "2 pieces of lettering in the pixels, which repeats PatientName of the header"


@pytest.mark.feature("F03")
@pytest.mark.parametrize(
    ("burned_in", "state", "reason"),
    [
        ("off", "ready", None),
        ("warn", "ready", f"a human look is asked for: {SAID}"),
        ("skip", "skipped", f"not given to xr-quality@1.0.0: {SAID}"),
    ],
)
def test_a_route_decides_what_becomes_of_burned_in_text(
    run_job: Callable[..., Job], burned_in: str, state: str, reason: str | None
) -> None:
    job = run_job(written_on(), burned_in)
    assert (job.state, job.reason) == (state, reason)


def test_lettering_that_names_nobody_keeps_no_model_from_an_image(
    run_job: Callable[..., Job],
) -> None:
    image = written_on()
    image.PatientName = "Roe^Jack"
    job = run_job(image, "skip")
    assert job.state == "ready"
    assert job.reason == "a human look is asked for: 2 pieces of lettering in the pixels"


def test_without_a_model_that_reads_the_job_fails_and_says_so(run_job: Callable[..., Job]) -> None:
    job = run_job(written_on(), "warn", b"no graph")
    assert job.state in ("failed", "queued")
    assert job.reason == "reader.onnx of burned-in-text@1.0.0 reads no lettering"


def test_a_model_of_text_that_breaks_counts_against_itself_alone(
    run_job: Callable[..., Job],
) -> None:
    run_job(written_on(), "warn", b"no graph")
    charged = {row.name: (row.failures, row.reason) for row in ModelBreaker.select()}
    assert charged == {TEXT_MODEL: (1, f"reader.onnx of {TEXT_MODEL} reads no lettering")}


@pytest.mark.parametrize(("image", "failures"), [(written_on, 0), (factories.dx_image, 2)])
def test_a_model_of_text_that_read_again_is_forgiven_and_one_that_was_not_asked_is_not(
    run_job: Callable[..., Job], image: Callable[[], Dataset], failures: int
) -> None:
    assert run_job(image(), "warn", charged=2).state == "ready"
    assert ModelBreaker.get_by_id(TEXT_MODEL).failures == failures


def test_a_wheel_without_the_networks_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "rapidocr.whl"
    wheel.write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"is not rapidocr-onnxruntime 1\.4\.4"):
        import_model("rapidocr", wheel, tmp_path / "into", read_answers(None))

"""What runs a model: asked, had, and why it is not the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from ai import devices
from ai.compiled import CompiledGraphs
from ai.engine import Engine
from ai.golden import Case, verify, write_case
from ai.loaded import bound, plainly
from ai.models.graph import Graph
from ai.package import MANIFEST, Package, read_package
from ai.registry import Registry
from ai.seal import sealed
from ai.session import SessionCache
from ai.types import Volume
from config.errors import ModelError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]
SHAPE = ("N", 1, "H", "W")
needs_cuda = pytest.mark.skipif(
    not devices.cuda_loads(), reason=f"no GPU: {devices.why_not('cuda')}"
)


def above(limit: float) -> bytes:
    g = Graph("above")
    g.named("Cast", [g.op("Greater", "x", g.real(limit))], ["y"], to=TensorProto.UINT8)
    return g.serialized([("x", TensorProto.FLOAT, SHAPE)], [("y", TensorProto.UINT8, SHAPE)])


def test_auto_is_content_with_the_cpu_and_says_why(make_package: PackageMaker) -> None:
    loaded = SessionCache("auto", 1).get(make_package())
    assert loaded.asked == "auto"
    assert loaded.provider == loaded.session.get_providers()[0]
    why = devices.why_not("cuda")
    assert (loaded.runs, loaded.reason) == (("cpu", why) if why else ("cuda", ""))


def test_a_provider_that_cannot_be_had_is_told_with_its_reason(make_package: PackageMaker) -> None:
    loaded = SessionCache(("tensorrt", "cuda"), 1).get(make_package())
    assert loaded.asked == "tensorrt, cuda"
    if loaded.runs == "cpu":
        assert loaded.reason == (
            f"tensorrt: {devices.why_not('tensorrt')}; cuda: {devices.why_not('cuda')}"
        )


def test_the_cpu_that_was_asked_for_needs_no_reason(make_package: PackageMaker) -> None:
    loaded = SessionCache(("cpu",), 1).get(make_package())
    assert (loaded.asked, loaded.runs, loaded.reason) == ("cpu", "cpu", "")


def test_tensors_bound_to_the_device_give_the_same_bytes(make_package: PackageMaker) -> None:
    loaded = SessionCache(("cpu",), 1).get(make_package())
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 1, 40, 30)).astype(np.float32)}
    (wanted,) = plainly(loaded, feeds, ort.RunOptions())
    (given,) = bound(loaded, feeds, ort.RunOptions())
    assert given.dtype == wanted.dtype
    assert np.array_equal(given, wanted)


@needs_cuda
def test_on_a_gpu_the_provider_is_cuda_and_its_inputs_are_page_locked(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    package = make_package()
    sessions = SessionCache(("cuda",), 1)
    loaded = sessions.get(package)
    assert (loaded.provider, loaded.reason) == ("CUDAExecutionProvider", "")
    image = np.random.default_rng(1).integers(-5, 5, (9, 64, 48)).astype(np.int16)
    answer = Engine(Registry([]), sessions).run(package, {"image": make_volume(image)})
    assert answer.provider == "CUDAExecutionProvider"
    assert np.array_equal(answer.labels, image > 0)
    assert loaded.staging is not None
    assert loaded.staging._free


def test_a_compiled_graph_is_used_again_and_one_that_was_changed_is_made_anew(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    package, kept = make_package(), CompiledGraphs(tmp_path / "cache")
    feeds = {"x": np.array([[[[-1.0, 2.0]]]], np.float32)}
    plain = SessionCache(("cpu",), 1).get(package).run(feeds, None)["y"]

    def answer() -> np.ndarray:
        return SessionCache(("cpu",), 1, compiled=kept).get(package).run(feeds, None)["y"]

    assert np.array_equal(answer(), plain)
    (entry,) = kept.folder.iterdir()
    graph = entry / "model.onnx"
    first = graph.read_bytes()
    written = graph.stat().st_mtime_ns
    assert np.array_equal(answer(), plain)
    assert graph.stat().st_mtime_ns == written
    graph.write_bytes(above(5.0))  # a sound graph, but not the one that was written
    assert np.array_equal(answer(), plain)
    assert graph.read_bytes() == first
    assert kept.proved(entry.name) == entry
    (entry / "proof.json").write_text("[]", "utf-8")
    assert kept.proved(entry.name) is None
    assert not entry.exists()


def test_a_compiled_graph_belongs_to_one_model_provider_and_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CompiledGraphs(tmp_path)
    keys = {
        kept.key("a", "model.onnx", "cpu"),
        kept.key("b", "model.onnx", "cpu"),
        kept.key("a", "fp16.onnx", "cpu"),
        kept.key("a", "model.onnx", "tensorrt"),
    }
    monkeypatch.setattr(ort, "__version__", "0")
    assert len(keys | {kept.key("a", "model.onnx", "cpu")}) == 5


def test_a_full_disk_only_costs_the_compiled_graph(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = CompiledGraphs(tmp_path / "file" / "cache")  # no folder can be made there
    assert SessionCache(("cpu",), 1, compiled=kept).get(make_package()).runs == "cpu"


def with_variant(package: Package, graph: bytes, text: str) -> Package:
    (package.folder / "other.onnx").write_bytes(graph)
    manifest = (package.folder / MANIFEST).read_text("utf-8")
    manifest = manifest.replace(
        "[output]\n", f'[[variants]]\ngraph = "other.onnx"\n{text}\n[output]\n', 1
    )
    (package.folder / MANIFEST).write_text(sealed(manifest, package.folder), "utf-8")
    return read_package(package.folder)


def golden(package: Package, voxels: np.ndarray, make_volume: VolumeMaker) -> Package:
    folder = package.folder / "golden"
    folder.mkdir()
    labels = (voxels > 0).astype(np.uint8)
    (found,) = (
        Engine(Registry([]), SessionCache(("cpu",), 1))
        .run(package, {"image": make_volume(voxels)})
        .findings
    )
    numbers = tuple(entry.value for entry in found.measurements)
    expected = {"name": "dense", "confidence": None, "measurements": numbers, "evaluations": ()}
    case = Case("ramp", make_volume(voxels), labels, [{**expected, "region": None}], 0.0, 0.0)
    write_case(folder, case)
    text = (package.folder / MANIFEST).read_text("utf-8")
    (package.folder / MANIFEST).write_text(sealed(text, package.folder), "utf-8")
    return read_package(package.folder)


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
@pytest.mark.parametrize(
    ("limit", "tolerance", "passes"),
    [(0.0, "", True), (1.5, "", False), (1.5, "voxels = 0.03\nrelative = 0.6\n", True)],
)
def test_a_variant_passes_the_golden_cases_within_its_own_tolerance(
    make_package: PackageMaker,
    make_volume: VolumeMaker,
    *,
    limit: float,
    tolerance: str,
    passes: bool,
    provider: str,
) -> None:
    ramp = np.arange(-50, 50, dtype=np.int16).reshape(1, 10, 10)
    package = golden(make_package(), ramp, make_volume)
    declared = f'precision = "fp16"\nproviders = ["{provider}"]\n{tolerance}'
    package = with_variant(package, above(limit), declared)
    report = verify(package, Engine(Registry([]), SessionCache(("cpu",), 1)))
    assert [case.name for case in report.cases] == ["ramp", "ramp (fp16)"]
    assert [case.passed for case in report.cases] == [True, passes]


def test_a_variant_runs_where_its_provider_runs(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    package = with_variant(make_package(), above(5.0), 'precision = "int8"\nproviders = ["cpu"]\n')
    sessions = SessionCache(("cpu",), 1)
    answer = Engine(Registry([]), sessions).run(
        package, {"image": make_volume(np.array([[[1, 6]]], np.int16))}
    )
    assert answer.labels is not None
    assert answer.labels.tolist() == [[[0, 1]]]
    assert sessions.get(package).graph == "other.onnx"


def test_a_variant_whose_graph_is_not_there_is_refused(make_package: PackageMaker) -> None:
    package = make_package()
    text = (package.folder / MANIFEST).read_text("utf-8")
    lost = '[[variants]]\ngraph = "lost.onnx"\nprecision = "fp16"\nproviders = ["cuda"]\n[output]\n'
    (package.folder / MANIFEST).write_text(text.replace("[output]\n", lost, 1), "utf-8")
    with pytest.raises(ModelError, match=r"graph 'lost\.onnx' is not in files"):
        read_package(package.folder)


def test_free_memory_is_told_and_bounded_by_the_machine() -> None:
    free = devices.free_memory()
    assert free is not None
    assert 0 < free < 1 << 50

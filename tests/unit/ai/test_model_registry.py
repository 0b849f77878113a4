from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry, bundled_models_path
from ai.types import Volume
from config.errors import InferenceError, ManifestError, ModelError, ModelFileError

PackageMaker = Callable[..., Package]
VolumeMaker = Callable[..., Volume]


def test_the_newest_production_version_is_found_by_number(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    make_package(version="1.9.0")
    make_package(version="1.10.0")
    make_package(version="2.0.0", status="validation")
    make_package(version="0.1.0", status="retired")
    registry = Registry([None, tmp_path / "absent", tmp_path / "site"])
    assert registry.find("test-model").manifest.version == "1.10.0"
    assert registry.find("test-model@2.0.0").manifest.status == "validation"
    assert [entry.manifest.version for entry in registry.packages()] == [
        "0.1.0",
        "1.9.0",
        "1.10.0",
        "2.0.0",
    ]
    with pytest.raises(ModelError, match="retired"):
        registry.find("test-model@0.1.0")
    with pytest.raises(ModelError, match=r"no model 'test-model@3.0.0'; there is: .*1\.9\.0"):
        registry.find("test-model@3.0.0")
    with pytest.raises(ModelError, match="none of that name"):
        registry.find("other")


def test_a_faulty_package_hides_no_other(make_package: PackageMaker, tmp_path: Path) -> None:
    make_package()
    broken = make_package(name="broken")
    (broken.folder / "model.onnx").write_bytes(b"other")
    registry = Registry([tmp_path / "site"])
    assert [entry.manifest.name for entry in registry.packages()] == ["test-model"]
    assert list(registry.faults) == ["broken@1.0.0"]
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        registry.find("broken@1.0.0")
    with pytest.raises(ModelError, match=r"faulty: broken@1\.0\.0"):
        registry.find("broken")


def test_one_version_cannot_be_there_twice(make_package: PackageMaker, tmp_path: Path) -> None:
    make_package()
    registry = Registry([tmp_path / "site", tmp_path / "site"])
    assert isinstance(registry.faults["test-model@1.0.0"], ManifestError)


@pytest.mark.feature("F05")
def test_a_changed_graph_is_not_loaded(
    make_package: PackageMaker, make_volume: VolumeMaker, engine: Engine
) -> None:
    package = make_package()
    graph = package.folder / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        engine.run(package, {"image": make_volume(np.zeros((1, 4, 4), np.int16))})


def test_files_that_nobody_named_and_links_that_lead_out_are_refused(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    package = make_package()
    (package.folder / "notes.txt").write_text("x")
    assert "notes.txt" in str(Registry([tmp_path / "site"]).faults["test-model@1.0.0"])
    (package.folder / "notes.txt").unlink()
    graph = package.folder / "model.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    assert "leads elsewhere" in str(Registry([tmp_path / "site"]).faults["test-model@1.0.0"])
    graph.unlink()
    assert "cannot be read" in str(Registry([tmp_path / "site"]).faults["test-model@1.0.0"])


def test_a_folder_is_called_after_its_manifest(make_package: PackageMaker, tmp_path: Path) -> None:
    package = make_package()
    package.folder.rename(package.folder.parent / "1.0.1")
    assert "test-model/1.0.1" in str(Registry([tmp_path / "site"]).faults["test-model@1.0.1"])


def test_the_digest_names_every_byte_of_the_package(make_package: PackageMaker) -> None:
    first = make_package(version="1.0.0")
    status = make_package(version="1.0.1")
    assert first.digest != status.digest
    assert len(first.digest) == 64


@pytest.mark.parametrize(
    "case",
    [
        ({}, "CT", None),
        ({}, "MR", "modality MR where CT is wanted"),
        ({"units": "1"}, "CT", "units 1 where"),
        ({"spacing": (None, 0.5, 0.5)}, "CT", "no volume can be measured"),
    ],
)
def test_an_input_is_accepted_or_the_reason_is_told(
    make_package: PackageMaker,
    make_volume: VolumeMaker,
    engine: Engine,
    case: tuple[dict[str, object], str, str | None],
) -> None:
    changes, modality, said = case
    package = make_package()
    volume = make_volume(np.zeros((2, 4, 4), np.int16), **changes)
    reason = package.accepts(volume, modality)
    assert reason is None if said is None else said in str(reason)
    if package.misfit(volume):
        with pytest.raises(InferenceError, match="cannot take the input"):
            engine.run(package, {"image": volume})


def test_a_model_says_what_image_it_needs(
    make_package: PackageMaker, make_volume: VolumeMaker
) -> None:
    two = make_volume(np.zeros((2, 4, 4), np.int16))
    nowhere = dataclasses.replace(two, affine=None, spacing=(None, None, None))
    plain = 'dimensions = "2D"\nlayout = "NCHW"'
    many = 'dimensions = "2D"\napply = "slices"\nlayout = "NCHW"\n'
    wanting = {
        "single image": (plain, two),
        "fewer than 3": (many + "min_slices = 3", two),
        "more than 1": (many + "max_slices = 1", two),
        "orientation": (many + 'orientation = "SPL"', nowhere),
        "spacing is not known": (many + "spacing = [1.0, 1.0]", nowhere),
    }
    for number, (said, (spec, volume)) in enumerate(wanting.items()):
        package = make_package(name=f"wants-{number}", input=spec)
        assert said in str(package.accepts(volume, "CT"))
    package = make_package()
    assert package.misfit(make_volume(np.zeros((0, 4, 4)))) is not None
    assert package.misfit(make_volume(np.zeros((1, 4, 4), np.complex64))) is not None


def test_the_bundled_models_are_sound_and_in_production() -> None:
    registry = Registry([bundled_models_path()])
    assert registry.faults == {}
    for name in ("ct-tissue", "xr-quality"):
        manifest = registry.find(name).manifest
        assert manifest.basis == "rules"
        assert "not trained" in manifest.description
        assert "Not a diagnosis" in manifest.description

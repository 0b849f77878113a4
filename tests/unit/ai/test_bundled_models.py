from __future__ import annotations

import filecmp
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from ai.engine import Engine
from ai.golden import Case, read_cases, verify, write_case
from ai.models import (
    build_ct_tissue,
    build_mr_foreground,
    build_us_region,
    build_xr_quality,
)
from ai.package import Package, list_files, read_package
from ai.registry import Registry, bundled_models_path
from ai.seal import renew
from ai.types import Answer, Volume

BUILDERS = {
    "ct-tissue": build_ct_tissue,
    "mr-foreground": build_mr_foreground,
    "us-region": build_us_region,
    "xr-quality": build_xr_quality,
}
VolumeMaker = Callable[..., Volume]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([bundled_models_path()])


@pytest.mark.feature("F06")
@pytest.mark.parametrize("name", BUILDERS)
def test_golden_cases_pass(registry: Registry, engine: Engine, name: str) -> None:
    report = verify(registry.find(name), engine)
    assert [case.problems for case in report.cases] == [()] * len(report.cases)
    assert report.passed
    assert report.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("name", BUILDERS)
def test_a_rebuild_gives_the_package_that_is_shipped(name: str, tmp_path: Path) -> None:
    shipped, folder = BUILDERS[name].FOLDER, tmp_path / name / "1.0.0"
    BUILDERS[name].build(folder)
    assert list_files(folder) == list_files(shipped)
    for file in list_files(shipped):
        if file.endswith(".npz"):  # the same arrays; zlib's bytes may change with its release
            with np.load(folder / file) as built, np.load(shipped / file) as kept:
                assert built.files == kept.files
                for key in kept.files:
                    np.testing.assert_array_equal(built[key], kept[key])
        else:
            assert filecmp.cmp(folder / file, shipped / file, shallow=False), file
    built_text, kept_text = (
        (path / "model.toml").read_text("utf-8").partition("[files]")[0]
        for path in (folder, shipped)
    )
    assert built_text == kept_text


def test_a_wrong_expectation_fails_its_case(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "ct-tissue" / "1.0.0"
    build_ct_tissue.build(folder)
    right = build_ct_tissue.golden()
    assert right.labels is not None
    moved = np.roll(right.labels, 1, axis=2)
    heavier = [dict(entry) for entry in right.findings]
    heavier[0]["measurements"] = [value * 1.01 for value in heavier[0]["measurements"]]
    for name, labels, findings in (
        ("moved", moved, right.findings),
        ("heavier", right.labels, heavier),
        ("fewer", right.labels, right.findings[1:]),
    ):
        write_case(folder / "golden", Case(name, right.volume, labels, findings, 0.0, 1e-5))
    renew(folder, folder)
    report = verify(read_package(folder), engine)
    assert {case.name: case.passed for case in report.cases} == {
        "phantom": True,
        "moved": False,
        "heavier": False,
        "fewer": False,
    }
    assert not report.passed


def test_a_package_without_golden_case_does_not_pass(
    make_package: Callable[..., Package], engine: Engine
) -> None:
    assert not verify(make_package(), engine).passed


def sample_ct(name: str) -> Volume:
    """A slice of pydicom's test files as HU."""
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    hu = dataset.pixel_array[None].astype(np.float32) * slope + intercept
    rows, columns = (float(step) for step in dataset.PixelSpacing)
    return Volume(hu, "[hnsf'U]", None, (5.0, rows, columns), (-1024.0, 3071.0))


def of(answer: Answer, name: str) -> dict[str, float]:
    """Volume and mean HU of a tissue."""
    finding = next(entry for entry in answer.findings if entry.name == name)
    volume, mean = (entry.value for entry in finding.measurements)
    return {"volume": volume, "mean": mean}


@pytest.mark.feature("F09", "P10")
@pytest.mark.parametrize("name", ["explicit_VR-UN.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_tissues_of_a_real_ct_are_where_they_should_be(
    registry: Registry, engine: Engine, name: str
) -> None:
    volume = sample_ct(name)
    answer = engine.run(registry.find("ct-tissue"), {"image": volume})
    labels = answer.labels
    assert labels is not None
    corners = labels[0, :40, :40], labels[0, -40:, -40:], labels[0, :40, -40:], labels[0, -40:, :40]
    assert not any(corner.any() for corner in corners)
    assert -120 < of(answer, "fat")["mean"] < -70
    assert 20 < of(answer, "soft tissue")["mean"] < 90
    assert of(answer, "bone")["mean"] > 250
    assert of(answer, "gas in the body")["mean"] < -600
    per_voxel = volume.voxel_volume_ml
    assert per_voxel is not None
    for segment in answer.segments:
        voxels = np.count_nonzero(labels == segment.number)
        assert of(answer, segment.label)["volume"] == pytest.approx(voxels * per_voxel)
        inside = volume.voxels[labels == segment.number].astype(np.float64)
        assert of(answer, segment.label)["mean"] == pytest.approx(inside.mean(), abs=1e-3)
    solid = volume.voxels[0] >= build_ct_tissue.GAS_BELOW
    missed = np.count_nonzero(solid & (labels[0] == 0)) / np.count_nonzero(solid)
    assert missed < 0.1  # the table and its edge


@pytest.mark.feature("P07", "P11")
def test_rules_give_no_confidence(registry: Registry, engine: Engine) -> None:
    answer = engine.run(registry.find("ct-tissue"), {"image": sample_ct("CT_small.dcm")})
    assert {entry.confidence.basis for entry in answer.findings} == {"none: rule-based"}
    assert {entry.confidence.value for entry in answer.findings} == {None}


def test_a_long_series_needs_little_more_than_its_labels(
    registry: Registry, engine: Engine
) -> None:
    hu = np.full((400, 128, 128), -1000, np.int16)
    hu[:, 20:100, 30:110] = 40
    volume = Volume(hu, "[hnsf'U]", None, (1.0, 1.0, 1.0), (-1024.0, 3071.0))
    package = registry.find("ct-tissue")
    engine.sessions.get(package)
    tracemalloc.start()
    try:
        answer = engine.run(package, {"image": volume})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert of(answer, "soft tissue")["volume"] == pytest.approx(400 * 6.4)
    # float32 copies of the whole would be four bytes a voxel.
    assert peak < 1.5 * hu.size


def radiograph(name: str, *, flipped: bool) -> Volume:
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    highest = 2.0 ** int(dataset.BitsStored) - 1
    white = (dataset.PhotometricInterpretation == "MONOCHROME1") != flipped
    pixels = dataset.pixel_array[None]
    return Volume(pixels, "1", None, (None, None, None), (0.0, highest), lowest_is_white=white)


@pytest.mark.feature("P12", "P16")
def test_the_field_of_a_collimated_radiograph_is_found(registry: Registry, engine: Engine) -> None:
    volume = radiograph("RG3_UNCR.dcm", flipped=False)
    answer = engine.run(registry.find("xr-quality"), {"image": volume})
    field = next(entry for entry in answer.findings if entry.region is not None)
    assert field.region is not None
    left, top = field.region.points.min(axis=0)
    right, bottom = field.region.points.max(axis=0)
    # A leg between two collimator blades, from the first row to the last.
    assert 400 < left < 480
    assert 1230 < right < 1310
    assert (top, bottom) == (0, 1759)


@pytest.mark.parametrize(("flipped", "said"), [(False, "No"), (True, "Yes")])
def test_a_limb_on_bright_air_looks_inverted(
    registry: Registry, engine: Engine, flipped: bool, said: str
) -> None:
    volume = radiograph("RG3_UNCR.dcm", flipped=flipped)
    answer = engine.run(registry.find("xr-quality"), {"image": volume})
    quality = next(entry for entry in answer.findings if entry.name == "technical quality")
    assert [entry.value.meaning for entry in quality.evaluations] == [
        "Limited quality" if flipped else "Diagnostic quality",
        said,
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (33, 5), (64, 64)])
@pytest.mark.parametrize("value", [0, 77])
def test_a_flat_radiograph_is_limited_and_has_no_field(
    registry: Registry, engine: Engine, shape: tuple[int, int], value: int
) -> None:
    pixels = np.full((1, *shape), value, np.uint8)
    volume = Volume(pixels, "1", None, (None, None, None), (0.0, 255.0))
    answer = engine.run(registry.find("xr-quality"), {"image": volume})
    by_name = {entry.name: entry for entry in answer.findings}
    assert by_name["exposed field"].region is None
    assert by_name["technical quality"].evaluations[0].value.value == "RID13"


def test_a_case_is_read_back_as_it_was_written(registry: Registry) -> None:
    (case,) = read_cases(registry.find("ct-tissue"))
    drawn = build_ct_tissue.golden()
    assert np.array_equal(case.volume.voxels, drawn.volume.voxels)
    assert case.volume.spacing == drawn.volume.spacing
    assert case.findings == drawn.findings
    buffer = io.BytesIO(registry.find("ct-tissue").read("golden/phantom.npz"))
    assert buffer.getbuffer().nbytes < 10_000

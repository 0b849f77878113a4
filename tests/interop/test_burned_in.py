"""Burned-in text on real ultrasound, read by the networks of rapidocr-onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.golden import verify
from ai.importing.build import import_model
from ai.importing.draft import read_answers
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from dicomnode.series.volume import load_series
from dicomnode.work.lettering import LetteringCheck, Written
from tests.interop.fetched import wheel
from tests.interop.real import of_pydicom_data

pytestmark = [pytest.mark.tools, pytest.mark.feature("F03")]

MODEL = "burned-in-text@1.4.4"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    import_model("rapidocr", wheel("rapidocr-onnxruntime"), folder, read_answers(None))
    return folder


@pytest.fixture(scope="module")
def package(site: Path) -> Package:
    return Registry([site]).find(MODEL)


@pytest.fixture(scope="module")
def engine(site: Path) -> Engine:
    return Engine(Registry([site]), SessionCache(("cpu",), 2))


def look(site: Path, engine: Engine, path: Path) -> Written | None:
    return LetteringCheck(Registry([site]), engine, MODEL).look(load_series([path]))


def test_the_converted_package_is_proved(package: Package, engine: Engine) -> None:
    assert verify(package, engine).passed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("US1_UNCR.dcm", Written(12, ("InstitutionName",))),
        ("OBXXXX1A.dcm", Written(12, ("PatientID", "InstitutionName"))),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", Written(8, ())),
    ],
)
def test_lettering_of_a_real_scan_is_found_and_held_against_the_header(
    site: Path, engine: Engine, tmp_path: Path, name: str, expected: Written
) -> None:
    (path,) = of_pydicom_data(tmp_path, name)
    written = look(site, engine, path)
    assert written is not None
    assert written.pieces >= expected.pieces
    assert written.named == expected.named


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_UNCR.dcm"])
def test_a_radiograph_with_a_side_marker_alone_has_none(
    site: Path, engine: Engine, tmp_path: Path, name: str
) -> None:
    (path,) = of_pydicom_data(tmp_path, name)
    assert look(site, engine, path) == Written(0, ())


def test_what_is_found_lies_where_the_lettering_is(
    package: Package, engine: Engine, tmp_path: Path
) -> None:
    (path,) = of_pydicom_data(tmp_path, "US1_UNCR.dcm")
    labels = engine.run(package, {"image": load_series([path]).volume}).labels
    assert labels is not None
    # As measured by eye: two blocks of lines at the top, the scan with its scale in the middle.
    assert np.count_nonzero(labels[0, 20:70, 20:150]) > 500
    assert np.count_nonzero(labels[0, 130:220, 200:450]) == 0

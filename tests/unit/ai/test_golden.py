from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai.engine import Engine
from ai.golden import read_cases, verify
from ai.models import build_xr_quality
from ai.seal import renew
from config.errors import ModelFileError


@pytest.mark.parametrize(
    ("key", "wrong", "said"),
    [
        ("measurements", [50.0, 0.8, 2.5, 49.0], "measurements"),
        ("measurements", [50.0], "measurements"),
        ("evaluations", ["RID12", "373067005"], "answers"),
        ("confidence", 0.9, "confidence"),
        ("region", None, "region"),
        ("region", [[12.0, 20.0], [129.0, 20.0], [129.0, 99.0], [12.0, 99.0]], "region"),
        ("slice_index", 1, "on slice 0, not on slice 1"),
        ("name", "another", "findings"),
    ],
)
def test_each_wrong_expectation_of_a_finding_is_told(
    tmp_path: Path, engine: Engine, key: str, wrong: Any, said: str
) -> None:
    folder = tmp_path / "xr-quality" / "1.0.0"
    build_xr_quality.build(folder)
    path = folder / "golden" / "inverted.json"
    case = json.loads(path.read_text("utf-8"))
    finding = case["findings"][1 if key == "evaluations" else 0]
    assert finding.get(key) != wrong
    finding[key] = wrong
    path.write_text(json.dumps(case), "utf-8")
    report = verify(renew(folder, folder), engine)
    assert not report.passed
    by_name = {entry.name: entry.problems for entry in report.cases}
    assert by_name["upright"] == ()
    (problem,) = by_name["inverted"]
    assert said in problem


@pytest.mark.parametrize(
    "spoil",
    [
        lambda golden: (golden / "upright.npz").write_bytes(b"no arrays"),
        lambda golden: (golden / "upright.npz").write_bytes(b"PK\x03\x04 and nothing more"),
        lambda golden: vast(golden / "upright.npz"),
        lambda golden: claiming(golden / "upright.npz"),
        lambda golden: (golden / "upright.json").write_text("no JSON"),
        lambda golden: (golden / "upright.json").write_text("[]"),
        lambda golden: (golden / "upright.json").unlink(),
        lambda golden: drop(golden / "upright.json", "evaluations"),
        lambda golden: drop(golden / "upright.json", "name"),
    ],
    ids=[
        "no zip",
        "half a zip",
        "a bomb",
        "a claim",
        "no JSON",
        "a list",
        "missing",
        "no evaluations",
        "no name",
    ],
)
def test_a_file_that_is_no_golden_case_is_a_fault_of_the_package(
    tmp_path: Path, engine: Engine, spoil: Callable[[Path], object]
) -> None:
    folder = tmp_path / "xr-quality" / "1.0.0"
    build_xr_quality.build(folder)
    spoil(folder / "golden")
    package = renew(folder, folder)
    with pytest.raises(ModelFileError, match=r"upright"):
        read_cases(package)
    with pytest.raises(ModelFileError):
        verify(package, engine)


def vast(path: Path) -> None:
    """A zip whose directory says that its array takes two gigabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("voxels.npy", b"")
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = (2 << 30).to_bytes(4, "little")
    path.write_bytes(content)


def claiming(path: Path) -> None:
    """An array whose header claims a petabyte."""
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 47,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("voxels.npy", buffer.getvalue())


def drop(path: Path, key: str) -> None:
    case = json.loads(path.read_text("utf-8"))
    del case["findings"][0][key]
    path.write_text(json.dumps(case), "utf-8")

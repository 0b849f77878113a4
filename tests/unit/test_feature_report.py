"""The report of features, the refusal of marks that name none, and of skipped tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SAMPLE = """
import pytest

@pytest.fixture
def broken():
    yield
    raise RuntimeError("torn down badly")

@pytest.mark.feature("P01", "F02")
def test_holds():
    pass

@pytest.mark.feature("P01")
def test_fails():
    assert False

@pytest.mark.feature("F02")
def test_fails_late(broken):
    pass

@pytest.mark.feature("F03")
@pytest.mark.skipif("True", reason="nothing to run")
def test_left_out():
    pass
"""


def run_pytest(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_sample.py").write_text(source, encoding="utf-8")
    arguments = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "markers=feature\ntools"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--feature-report=out.json", "test_sample.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_report_gives_each_test_its_worst_outcome_under_each_feature(tmp_path: Path) -> None:
    run_pytest(tmp_path, SAMPLE)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {
        "F02": {
            "test_sample.py::test_fails_late": "failed",
            "test_sample.py::test_holds": "passed",
        },
        "F03": {"test_sample.py::test_left_out": "skipped"},
        "P01": {
            "test_sample.py::test_fails": "failed",
            "test_sample.py::test_holds": "passed",
        },
    }


def test_a_mark_that_names_no_feature_stops_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SAMPLE.replace('"F02")\ndef test_fails_late', '"P2")\ndef test_x'))
    assert done.returncode == 4
    assert "test_sample.py::test_x: 'P2'" in done.stderr


def test_a_test_that_misses_its_tool_fails(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.tools\ndef test_x():\n    pytest.skip('no storescu')\n"
    done = run_pytest(tmp_path, source)
    assert done.returncode == 1
    assert "no storescu" in done.stdout

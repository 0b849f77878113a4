from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ai.boxes import Boxes, ObjectTable
from ai.engine import Engine
from ai.ensemble import Ensemble
from ai.inputs import Crop, Input, Normalisation, Sliding, Window
from ai.manifest import Manifest
from ai.outputs import EvaluationTable, FindingTable, MeasurementTable, Output, Score
from ai.registry import Registry
from ai.segments import Cleaning, Intensity, Labels, SegmentTable
from ai.session import SessionCache
from ai.types import Volume
from ai.variants import Variant

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/model-packages.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, timeout=120)


@pytest.mark.feature("F04", "F06", "F25")
def test_the_worked_example_is_a_package_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "chest-example" / "1.0.0"
    folder.mkdir(parents=True)
    (manifest,), (seal, verify) = blocks("toml"), blocks("sh")
    for script in blocks("python"):
        run(folder, "-c", script)
    (folder / "model.toml").write_text(manifest, "utf-8")
    run(tmp_path, *seal.split()[1:])
    (tmp_path / "medai_node.toml").write_text('[models]\npath = "."\n', "utf-8")
    run(tmp_path, "-m", "dicomnode", *verify.split()[1:])
    registry = Registry([tmp_path])
    assert registry.faults == {}
    package = registry.find("chest-example@1.0.0")
    bright = np.full((1, 300, 200), 200, np.uint8)
    volume = Volume(bright, "1", None, (None, None, None), (0.0, 255.0))
    assert package.accepts(volume, "DX") is None
    answer = Engine(registry, SessionCache(("cpu",), 1)).run(package, {"image": volume})
    (finding,) = answer.findings
    assert finding.name == "opacity"
    mean = 200 / 255 * 2 - 1
    assert finding.confidence.value == pytest.approx(1 / (1 + np.exp(-4 * mean)), abs=1e-5)
    assert finding.confidence.basis == "model"
    assert not finding.needs_review


def test_every_key_of_the_format_is_on_the_page() -> None:
    tables = (
        Manifest, Ensemble, Input, Sliding, Crop, Window, Normalisation, Output, Labels,
        SegmentTable, Cleaning, Intensity, Boxes, ObjectTable, Score, FindingTable,
        MeasurementTable, EvaluationTable, Variant,
    )  # fmt: skip
    missing = [
        f"{table.__name__}.{key}"
        for table in tables
        for key in table.model_fields
        if not re.search(rf"\b{key}\b", PAGE)
    ]
    assert missing == []

"""A MONAI bundle on its whole way: imported, added, verified, promoted, run on a CT series.

Run where the extra ``import`` is installed: ``pytest -m imports``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
import torch
from monai.networks.nets import UNet

from tests import factories
from tests.unit.ai.importing.sources import UNET, write_bundle

pytestmark = [pytest.mark.imports, pytest.mark.filterwarnings("default")]

ANSWERS = """\
name = "spleen-example"
licence = "Apache-2.0"
clinical_domain = "Radiology"
results = ["sr", "seg"]
"""
SETTINGS = '[node]\ndata_dir = "var"\n\n[models]\npath = "site"\n'


@pytest.mark.feature("F25")
def test_a_bundle_is_imported_added_promoted_and_run_on_a_series(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dicomnode", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    bundle = write_bundle(tmp_path / "spleen", inference={"patch": "$(32, 32, 32)"})
    torch.manual_seed(1)
    torch.save(UNet(**UNET).state_dict(), bundle / "models/model.pt")
    (tmp_path / "answers.toml").write_text(ANSWERS, "utf-8")
    (tmp_path / "medai_node.toml").write_text(SETTINGS, "utf-8")
    factories.write(factories.ct_series(20), tmp_path / "ct")

    said = run("models", "import", "monai", "spleen", "-o", "packages", "-a", "answers.toml")
    assert "the golden case random expects spleen" in said
    run("models", "add", "packages/spleen-example/0.5.3")
    assert "as expected" in run("models", "verify", "spleen-example@0.5.3")
    run("models", "promote", "spleen-example@0.5.3", "--to", "production")
    run("infer", "ct", "-m", "spleen-example", "-o", "results")
    run("validate", "results/seg.dcm", "results/sr.dcm")
    (segment,) = pydicom.dcmread(tmp_path / "results/seg.dcm").SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "78961009"

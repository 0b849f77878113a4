"""mr-brain: deepbet's networks as one ONNX graph say on a real head what deepbet itself says.

Needs the extra ``import``, ``tests/interop/deepbet.txt`` and Debian's ``mricron-data``.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai.engine import Engine
from ai.golden import verify
from ai.importing.build import Imported, import_model
from ai.importing.draft import read_answers
from ai.registry import Registry
from ai.session import SessionCache
from dicomnode.work.pipeline import analyse, model_facts
from tests.interop.fetched import wheel
from tests.interop.real import T1_HEAD, brain_mask, head_mr
from tests.unit.dicomnode.results.cases import provenance

pytestmark = [pytest.mark.imports, pytest.mark.timeout(900)]

MOST_DIFFERENT = 0.001  # of the voxels


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return import_model(
        "deepbet", wheel("deepbet"), tmp_path_factory.mktemp("site"), read_answers(None)
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Registry([]), SessionCache(("cpu",), 2))


def said_by_deepbet(folder: Path) -> tuple[Any, float]:
    """The mask towards head, back and left, and the volume in mL, by the package as it is."""
    with zipfile.ZipFile(wheel("deepbet")) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        import nibabel
        from deepbet.bet import BrainExtraction

        image = nibabel.load(T1_HEAD)
        _, mask, volume = BrainExtraction(no_gpu=True).run(image)
    finally:
        sys.path.remove(str(folder))
    return np.asarray(mask.dataobj)[::-1, ::-1, :].transpose(2, 1, 0) > 0, float(volume)


def test_both_networks_answer_as_their_originals_and_the_golden_case_passes(
    imported: Imported, engine: Engine
) -> None:
    assert imported.package.manifest.reference == "mr-brain@1.0.2"
    assert imported.notes[0].count("differs from the network by") == 2
    assert verify(imported.package, engine).passed


@pytest.mark.filterwarnings("ignore")  # of the library it is compared with
def test_a_real_head_has_the_mask_and_the_volume_that_deepbet_gives(
    imported: Imported, engine: Engine, tmp_path: Path
) -> None:
    package = imported.package
    origin = provenance(model=model_facts(package))
    analysis = analyse(head_mr(tmp_path / "head"), package, engine, origin, content="skip")
    assert [result.kind for result in analysis.results] == ["seg", "sr"]
    assert analysis.judgement.doubts == ()
    assert analysis.answer.labels is not None
    mask, volume = said_by_deepbet(tmp_path / "deepbet")
    differ = float(np.mean(mask != (analysis.answer.labels > 0)))
    print(f"\n{differ:.5%} of {mask.size} voxels differ from deepbet's own mask")
    assert differ < MOST_DIFFERENT
    (finding,) = analysis.answer.findings
    assert finding.measurements[0].value == pytest.approx(volume, rel=MOST_DIFFERENT)
    brain = brain_mask()
    both = np.count_nonzero(brain & (analysis.answer.labels > 0))
    assert both / np.count_nonzero(brain) > 0.95, "what its publishers hold for brain is in it"

"""Results of golden cases at the gate, made of images that stand in for their slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.golden import read_cases
from ai.package import Package
from ai.registry import Registry, bundled_models_path
from ai.session import SessionCache
from ai.types import Volume
from config.errors import SeriesError
from config.peers import DestinationSettings
from config.schema import Settings
from dicomnode.results.gate import CHECKS
from dicomnode.results.multiframe import check_alignment
from dicomnode.work.life import Proof, prove
from dicomnode.work.rehearsal import rehearse, stand_ins
from tests.model_packages import measuring

FLAT = Volume(np.full((1, 8, 8), 5, np.int16), "1", None, (None, None, None), (-100.0, 100.0))
ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
STEPS = (2.0, 1.5, 1.25)


def proof_of(package: Package) -> Proof:
    return prove(package, Settings(), Engine(Registry([]), SessionCache(("cpu",), 1)))


@pytest.mark.feature("F06")
def test_a_fault_that_only_the_gate_sees_fails_the_proof(tmp_path: Path) -> None:
    sound = proof_of(measuring(tmp_path / "sound", FLAT, modality="CR", units="1"))
    assert sound.holds
    assert [(each.case, each.kinds) for each in sound.rehearsals] == [("flat", ("sr",))]
    below = Volume(-FLAT.voxels, "1", None, FLAT.spacing, FLAT.value_range)
    wrong = proof_of(measuring(tmp_path / "wrong", below, modality="CR", units="1"))
    assert wrong.golden is not None
    assert wrong.golden.passed, "the answer is the one that the case expects"
    assert wrong.problems == (
        "golden case flat: its results fail the gate: value: sr: a size is negative (PS3.3 C.18.1)",
    )


@pytest.mark.feature("F06")
def test_a_case_without_a_place_shows_nothing_of_a_ct(tmp_path: Path) -> None:
    placeless = Volume(FLAT.voxels, "[hnsf'U]", None, (2.0, 1.0, 1.0), FLAT.value_range)
    proof = proof_of(measuring(tmp_path / "ct", placeless, modality="CT", units="[hnsf'U]"))
    assert proof.holds
    (said,) = proof.not_shown
    assert said.startswith("golden case flat does not show what its results look like: ")
    assert proof.rehearsals[0].kinds == ()


@pytest.mark.parametrize("name", ["ct-tissue", "mr-foreground", "us-region", "xr-quality"])
def test_the_results_of_the_bundled_models_pass_the_gate_in_every_form(name: str) -> None:
    package = Registry([bundled_models_path()]).find(name)
    engine = Engine(Registry([]), SessionCache(("cpu",), 1))
    wants = DestinationSettings(
        name="pacs", ae_title="PACS", host="127.0.0.1", port=104, results=tuple(CHECKS)
    )
    case = read_cases(package)[0]
    answer = engine.run(package, {package.manifest.input.role: case.volume})
    found = rehearse(package, case, answer, Settings(destinations=(wants,)))
    assert (found.problems, found.not_shown) == ((), None)
    never = {"fractional", "saliency"}
    never |= {"seg", "labelmap"} if answer.labels is None else set()
    assert set(found.kinds) == set(CHECKS) - never


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_stand_ins_lie_where_the_volume_does(tmp_path: Path, modality: str) -> None:
    package = measuring(tmp_path / "m", FLAT, modality=modality, units="1")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([np.cross(ROW, COLUMN), COLUMN, ROW]) * STEPS
    affine[:3, 3] = (10.0, -3.0, 7.0)
    volume = Volume(np.zeros((4, 6, 5), np.int16), "1", affine, STEPS, (0.0, 1.0))
    headers = stand_ins(package.manifest.input, volume, "primary")
    check_alignment(volume, headers)
    of_us = measuring(tmp_path / "us", FLAT, modality="US", units="1").manifest.input
    with pytest.raises(SeriesError, match="no place"):
        stand_ins(of_us, volume, "primary")

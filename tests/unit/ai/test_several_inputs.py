"""Models with several inputs: roles, the grid of the primary one, and what may be missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from ai import align
from ai.engine import Engine
from ai.golden import Case, _read, write_case
from ai.manifest import parse_manifest
from ai.models.graph import Graph
from ai.types import Volume
from config.errors import InferenceError, ManifestError
from tests.model_packages import SLICES
from tests.unit.ai.conftest import PackageMaker

VolumeMaker = Callable[..., Volume]

SECOND = f"""
[[inputs]]
role = "second"
optional = true
tensor = "z"
modality = ["MR"]
units = "1"
pad_value = -5.0
{SLICES}

[inputs.facts]
there = "present"
"""


def larger_graph() -> bytes:
    """1 where the first input is above the second."""
    g = Graph("larger")
    shape = ("N", 1, "H", "W")
    used = g.op("Add", "z", g.op("Mul", "there", g.real(0.0)))
    g.named("Cast", [g.op("Greater", "x", used)], ["y"], to=TensorProto.UINT8)
    inputs = [("x", TensorProto.FLOAT, shape), ("z", TensorProto.FLOAT, shape)]
    return g.serialized(
        [*inputs, ("there", TensorProto.FLOAT, (1,))], [("y", TensorProto.UINT8, shape)]
    )


@pytest.fixture
def both(make_package: PackageMaker):
    return make_package(larger_graph(), input=SLICES + SECOND)


def affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]):
    slices, rows, columns = spacing
    made = np.zeros((4, 4))
    made[2, 0], made[1, 1], made[0, 2], made[3, 3] = slices, rows, columns, 1.0
    made[:3, 3] = origin
    return made


def ramp(shape: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """A value that is linear in patient space, so that linear interpolation gives it back."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ matrix[:3, :3].T + matrix[:3, 3]
    return (places @ np.array([1.0, 10.0, 100.0])).astype(np.float32)


def placed(make_volume: VolumeMaker, shape, spacing, origin, **more) -> Volume:
    matrix = affine(spacing, origin)
    return make_volume(ramp(shape, matrix), affine=matrix, spacing=spacing, **more)


def test_values_come_to_the_voxels_of_the_other_grid_by_their_places(
    make_volume: VolumeMaker,
) -> None:
    grid = placed(make_volume, (4, 6, 5), (2.0, 1.0, 1.5), (0.0, 0.0, 0.0))
    moving = placed(make_volume, (9, 20, 20), (1.5, 0.7, 0.9), (-3.0, -2.0, -1.0))
    found = align.onto(grid, moving)
    assert found.voxels.shape == grid.voxels.shape
    assert np.allclose(found.voxels, grid.voxels, atol=1e-2)
    assert np.array_equal(found.affine, grid.affine)
    assert found.spacing == grid.spacing


def test_another_orientation_comes_to_the_same_voxels(make_volume: VolumeMaker) -> None:
    grid = placed(make_volume, (4, 6, 5), (2.0, 1.0, 1.5), (0.0, 0.0, 0.0))
    sagittal = np.array([[1.0, 0, 0, -2], [0, 0, 0.8, -2], [0, -0.9, 0, 9], [0, 0, 0, 1]])
    moving = make_volume(ramp((12, 16, 14), sagittal), affine=sagittal, spacing=(1.0, 0.9, 0.8))
    assert np.allclose(align.onto(grid, moving).voxels, grid.voxels, atol=1e-2)


def test_where_the_other_has_nothing_its_lowest_value_stands(make_volume: VolumeMaker) -> None:
    grid = placed(make_volume, (4, 6, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    moving = placed(make_volume, (2, 6, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    found = align.onto(grid, moving).voxels
    assert np.array_equal(found[:2], moving.voxels)
    assert np.all(found[2:] == moving.voxels.min())


def test_the_same_grid_is_left_as_it_is(make_volume: VolumeMaker) -> None:
    grid = placed(make_volume, (2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert align.onto(grid, grid) is grid


@pytest.mark.parametrize("change", [{"affine": None}, {"affine": affine((1, 1, 1), (999, 0, 0))}])
def test_what_cannot_be_brought_together_says_so(make_volume: VolumeMaker, change) -> None:
    grid = placed(make_volume, (2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(InferenceError, match="input"):
        align.onto(grid, make_volume(np.ones((2, 3, 4), np.float32), **change))


def test_a_model_gets_its_inputs_by_role_on_the_grid_of_the_primary(
    both, engine: Engine, make_volume: VolumeMaker
) -> None:
    first = make_volume(np.zeros((3, 4, 4), np.int16))
    finer = affine((1.0, 0.25, 0.25), (0.0, 0.0, 0.0))
    second = make_volume(
        np.ones((6, 8, 8), np.float32), units="1", affine=finer, spacing=(1.0, 0.25, 0.25)
    )
    second.voxels[:3] = -1
    answer = engine.run(both, {"image": first, "second": second})
    assert answer.labels is not None
    assert answer.labels.shape == (3, 4, 4)
    assert answer.labels[0].all()
    assert not answer.labels[2].any()


def test_an_optional_input_may_be_missing_and_a_needed_one_not(
    both, engine: Engine, make_volume: VolumeMaker
) -> None:
    first = make_volume(np.zeros((3, 4, 4), np.int16))
    answer = engine.run(both, {"image": first})
    assert answer.labels is not None
    assert answer.labels.all()  # 0 is above the padding
    for inputs in ({}, {"second": first}, {"image": first, "third": first}):
        with pytest.raises(InferenceError, match="wants the inputs 'image', 'second'"):
            engine.run(both, inputs)


def test_each_input_is_held_to_its_own_role(both, make_volume: VolumeMaker) -> None:
    volume = make_volume(np.zeros((3, 4, 4), np.int16))
    assert both.accepts(volume, "CT") is None
    assert both.accepts(volume, "CT", "second") == "modality CT where MR is wanted"
    assert "units" in (both.accepts(volume, "MR", "second") or "")
    nowhere = make_volume(np.zeros((3, 4, 4), np.int16), affine=None)
    assert both.accepts(nowhere, "CT") == "its place in the patient is not known"


def test_all_faults_of_several_inputs_are_told_at_once(manifest_text: str) -> None:
    second = SECOND.replace("[[inputs]]", "[[inputs]]\nprimary = true")
    second = second.replace('role = "second"', 'role = "image"').replace('"z"', '"x"')
    second += '\n[[inputs]]\nrole = "third"\ntensor = "t"\nmodality = ["CT"]\nunits = "1"\n'
    second += 'dimensions = "3D"\nlayout = "NCDHW"\n'
    with pytest.raises(ManifestError) as caught:
        parse_manifest(manifest_text.replace(SLICES, SLICES + second))
    told = str(caught.value)
    assert "the primary input cannot be optional" in told
    fixed = second.replace("optional = true\n", "")
    with pytest.raises(ManifestError) as caught:
        parse_manifest(manifest_text.replace(SLICES, SLICES + fixed))
    told = str(caught.value)
    for said in (
        "exactly one of the inputs is primary",
        "each input has a role of its own",
        "each input and fact has a tensor of its own",
        "dimensions of the input 'third' is that of the primary one",
        "apply of the input 'third' is that of the primary one",
    ):
        assert said in told


def test_a_golden_case_holds_all_inputs(both, make_volume: VolumeMaker) -> None:
    first = make_volume(np.zeros((3, 4, 4), np.int16))
    second = make_volume(np.ones((3, 4, 4), np.float32), units="1")
    folder = both.folder / "golden"
    folder.mkdir()
    write_case(folder, Case("two", first, None, [], 0.0, 0.0, {"second": second}))

    class Read:
        """The package as it would be with these files named."""

        manifest = both.manifest

        @staticmethod
        def read(name: str) -> bytes:
            return (both.folder / name).read_bytes()

    again = _read(Read(), "golden/two.npz")  # type: ignore[arg-type]
    assert np.array_equal(again.others["second"].voxels, second.voxels)
    assert again.others["second"].units == "1"
    assert np.array_equal(again.volume.voxels, first.voxels)

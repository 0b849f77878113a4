"""Packages made for one test, with a graph of a few nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from ai.session import SessionCache
from ai.types import Volume
from tests.model_packages import (
    LABELS,
    SLICES,
    above_zero,
    head,
    primary_input,
    unsealed,
    write_package,
)

PackageMaker = Callable[..., Package]


@pytest.fixture
def make_package(tmp_path: Path) -> PackageMaker:
    """Writes a package under ``tmp_path / "site"`` and reads it back."""

    def make(
        graph: bytes | None = None,
        *,
        name: str = "test-model",
        version: str = "1.0.0",
        status: str = "production",
        basis: str = "rules",
        input: str = SLICES,
        output: str = LABELS,
    ) -> Package:
        manifest = head(name, version=version, status=status, basis=basis)
        manifest += primary_input(input) + output
        folder = tmp_path / "site" / name / version
        return write_package(folder, above_zero() if graph is None else graph, manifest)

    return make


@pytest.fixture
def manifest_text() -> str:
    """A manifest without faults, as text."""
    return unsealed(head(basis="rules") + primary_input() + LABELS)


@pytest.fixture
def engine() -> Engine:
    return Engine(Registry([]), SessionCache(("cpu",), 1))


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """A volume of HU with the usual axial geometry unless told otherwise."""

    def make(voxels: np.ndarray, **changes: object) -> Volume:
        affine = np.array(
            [[0.0, 0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0, 0, 0, 1.0]]
        )
        given: dict[str, object] = {
            "units": "[hnsf'U]",
            "affine": affine,
            "spacing": (2.0, 0.5, 0.5),
            "value_range": (-1024.0, 3071.0),
        }
        return Volume(voxels, **(given | changes))  # type: ignore[arg-type]

    return make

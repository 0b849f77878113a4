"""Golden cases: small inputs whose answer is known, kept in the package of a model.

A case is two files in ``golden/``: ``NAME.npz`` with the input and, for a segmentation, the
expected labels, and ``NAME.json`` with the tolerance and the expected findings.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.engine import Engine
from ai.label_values import LabelVolume
from ai.package import Package
from ai.tables import Number, Table
from ai.types import Answer, Finding, Volume
from ai.variants import Variant
from config.errors import InferenceError, ModelFileError

LARGEST_CASE = 1 << 30
"""Bytes that the arrays of one case may take."""


@dataclass(frozen=True)
class Case:
    """A golden case.

    Attributes:
        name: Its file name without ending.
        volume: The primary input.
        labels: Expected labels in the input's grid, as of `Answer.labels`, or None.
        findings: Expected findings in any order: ``name``, ``confidence``, ``measurements`` (their
            values), ``evaluations`` (their code values), ``region`` (its points) and, where it
            matters, ``slice_index`` (the region's slice, from 0).
        voxels: Share of voxels whose label may differ.
        relative: By how much a number may differ, as a share of the expected one; pixels of a
            region may differ by one where it is not 0.
        others: The inputs beside the primary one, by role.
    """

    name: str
    volume: Volume
    labels: LabelVolume | None
    findings: Sequence[Mapping[str, Any]]
    voxels: float
    relative: float
    others: Mapping[str, Volume] = field(default_factory=dict)


class _Expected(Table):
    name: str
    confidence: Number | None
    measurements: tuple[Number, ...]
    evaluations: tuple[str, ...]
    region: tuple[tuple[Number, Number], ...] | None
    slice_index: int | None = None


@dataclass(frozen=True)
class CaseResult:
    """What came of one case.

    Attributes:
        name: The case.
        problems: One sentence each; none when the case passed.
        labels_differ: Share of voxels with another label than expected, or None without labels.
    """

    name: str
    problems: tuple[str, ...]
    labels_differ: float | None = None

    @property
    def passed(self) -> bool:
        """The answer was the expected one, within tolerance."""
        return not self.problems


@dataclass(frozen=True)
class GoldenReport:
    """What came of all cases of a package."""

    reference: str
    digest: str
    provider: str | None
    cases: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """There was a case, and all passed."""
        return bool(self.cases) and all(case.passed for case in self.cases)


def verify(
    package: Package,
    engine: Engine,
    deadline_seconds: float | None = None,
    seen: Callable[[Case, Answer], None] = lambda case, answer: None,
) -> GoldenReport:
    """Runs every golden case of a package, and each again with every variant of its graph.

    Graph and variants are run on what is there, whatever they are made for: this shows that they
    say the same.

    Args:
        package: The model.
        engine: Runs it.
        deadline_seconds: Time limit of one case; None for no limit.
        seen: Called with each case and what was said of it, expected or not.

    Raises:
        ModelFileError: A file of a case is not the one the manifest names, or cannot be read.
    """
    results: list[CaseResult] = []
    provider = None
    for variant in (None, *package.manifest.variants):
        for case in read_cases(package):
            result, runs = _tried(package, engine, case, variant, deadline_seconds, seen=seen)
            results.append(result)
            provider = runs if variant is None and runs else provider
    return GoldenReport(package.manifest.reference, package.digest, provider, tuple(results))


def _tried(
    package: Package,
    engine: Engine,
    case: Case,
    variant: Variant | None,
    deadline_seconds: float | None,
    *,
    seen: Callable[[Case, Answer], None],
) -> tuple[CaseResult, str | None]:
    # Named, for where a variant takes its place the model's own graph is proved all the same.
    graph = package.manifest.graph
    if variant is not None:
        graph = variant.graph
        case = replace(
            case,
            name=f"{case.name} ({variant.precision})",
            voxels=max(case.voxels, variant.voxels),
            relative=max(case.relative, variant.relative),
        )
    try:
        inputs = {package.manifest.input.role: case.volume, **case.others}
        answer = engine.run(package, inputs, deadline_seconds, graph=graph)
    except InferenceError as error:
        return CaseResult(case.name, (str(error),)), None
    seen(case, answer)
    return _compare(case, answer), answer.provider


def read_cases(package: Package) -> list[Case]:
    """The golden cases of a package, by name."""
    inputs = sorted(name for name in package.manifest.files if name.endswith(".npz"))
    return [_read(package, name) for name in inputs if name.startswith("golden/")]


def write_case(folder: Path, case: Case) -> None:
    """Writes ``NAME.npz`` and ``NAME.json`` of a case into a folder."""
    arrays = _arrays(case.volume, "")
    for role, volume in case.others.items():
        arrays |= _arrays(volume, f"{role}.")
    if case.labels is not None:
        arrays["labels"] = case.labels
    np.savez_compressed(folder / f"{case.name}.npz", **arrays)  # type: ignore[arg-type]
    expected = {
        "tolerance": {"voxels": case.voxels, "relative": case.relative},
        "findings": list(case.findings),
    }
    text = json.dumps(expected, indent=1, sort_keys=True) + "\n"
    (folder / f"{case.name}.json").write_text(text, "utf-8")


def _arrays(volume: Volume, prefix: str) -> dict[str, NDArray[Any]]:
    arrays = {
        "voxels": volume.voxels,
        "units": np.array(volume.units),
        "spacing": np.array([math.nan if step is None else step for step in volume.spacing]),
        "value_range": np.array(volume.value_range),
        "lowest_is_white": np.array(volume.lowest_is_white),
    }
    for key, array in (("affine", volume.affine), ("rgb", volume.rgb)):
        if array is not None:
            arrays[key] = array
    return {f"{prefix}{key}": array for key, array in arrays.items()}


def _volume(held: Mapping[str, NDArray[Any]], prefix: str) -> Volume:
    steps = [None if math.isnan(step) else float(step) for step in held[f"{prefix}spacing"]]
    low, high = (float(value) for value in held[f"{prefix}value_range"])
    return Volume(
        voxels=held[f"{prefix}voxels"],
        units=str(held[f"{prefix}units"]),
        affine=held.get(f"{prefix}affine"),
        spacing=(steps[0], steps[1], steps[2]),
        value_range=(low, high),
        lowest_is_white=bool(held[f"{prefix}lowest_is_white"]),
        colour=f"{prefix}rgb" in held,
        rgb=held.get(f"{prefix}rgb"),
    )


def _read(package: Package, name: str) -> Case:
    stem = name.removesuffix(".npz")
    try:
        held = _held(package.read(name))
        expected = json.loads(package.read(f"{stem}.json"))
        others = sorted(key.removesuffix(".voxels") for key in held if key.endswith(".voxels"))
        return Case(
            name=stem.removeprefix("golden/"),
            volume=_volume(held, ""),
            others={role: _volume(held, f"{role}.") for role in others},
            labels=held.get("labels"),
            findings=[
                _Expected.model_validate(entry).model_dump(mode="json", exclude_unset=True)
                for entry in expected["findings"]
            ],
            voxels=float(expected["tolerance"]["voxels"]),
            relative=float(expected["tolerance"]["relative"]),
        )
    except (
        *(KeyError, TypeError, ValueError, IndexError, EOFError),
        *(zipfile.BadZipFile, zlib.error, MemoryError),  # of an array that claims to be huge
    ) as error:
        reference = package.manifest.reference
        raise ModelFileError(f"{stem} of {reference} is no golden case: {error}") from error


def _held(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``, which is a zip: a small one may claim to be vast."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        size = sum(info.file_size for info in packed.infolist())
    if size > LARGEST_CASE:
        raise ValueError(f"its arrays take {size} bytes, more than {LARGEST_CASE}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _compare(case: Case, answer: Answer) -> CaseResult:
    problems: list[str] = []
    differ = None
    if (case.labels is None) != (answer.labels is None):
        problems.append("labels are expected or given, not both")
    elif case.labels is not None and answer.labels is not None:
        if case.labels.shape != answer.labels.shape:
            problems.append(f"labels of shape {answer.labels.shape}, not {case.labels.shape}")
        else:
            differ = float(np.mean(case.labels != answer.labels))
            if differ > case.voxels:
                problems.append(f"{differ:.4%} of the labels differ, more than {case.voxels:.4%}")
    given = {finding.name: finding for finding in answer.findings}
    wanted = {str(expected["name"]): expected for expected in case.findings}
    if set(given) != set(wanted):
        problems.append(f"findings {sorted(given)}, not {sorted(wanted)}")
    for name in sorted(set(given) & set(wanted)):
        problems += _differences(given[name], wanted[name], case.relative)
    return CaseResult(case.name, tuple(problems), differ)


def _differences(given: Finding, wanted: Mapping[str, Any], relative: float) -> list[str]:
    problems = []
    answers = [entry.value.value for entry in given.evaluations]
    if answers != wanted["evaluations"]:
        problems.append(f"{given.name}: answers {answers}, not {wanted['evaluations']}")
    place, slice_index = given.region, wanted.get("slice_index")
    if slice_index is not None and (place is None or place.slice_index != slice_index):
        where = "nowhere" if place is None else f"on slice {place.slice_index}"
        problems.append(f"{given.name}: {where}, not on slice {slice_index}")
    points = None if given.region is None else given.region.points.reshape(-1).tolist()
    corners = None if wanted["region"] is None else np.ravel(wanted["region"]).tolist()
    for what, found, expected, slack in (
        ("measurements", [m.value for m in given.measurements], wanted["measurements"], 0.0),
        ("confidence", [given.confidence.value], [wanted["confidence"]], 0.0),
        ("region", [points] if points is None else points, corners, 1.0 if relative else 0.0),
    ):
        wished = [None] if expected is None else expected
        if len(found) != len(wished) or not all(
            a is b
            if a is None or b is None
            else math.isclose(a, b, rel_tol=relative, abs_tol=slack)
            for a, b in zip(found, wished, strict=False)
        ):
            problems.append(f"{given.name}: {what} {found}, not {wished}")
    return problems

"""Makes a model's reference from images that it is meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from ai.engine import Engine
from ai.package import Package
from ai.reference import REFERENCE, Reference, make_reference
from ai.seal import renew
from ai.types import Answer, Volume
from config.errors import InferenceError, InputError, ModelFileError, SeriesError
from dicomnode.series.headers import read_header
from dicomnode.series.unit import Unit, units_of
from dicomnode.series.volume import load_series


@dataclass(frozen=True)
class Made:
    """What came of it.

    Attributes:
        reference: As it was made.
        package: With the reference in it, of another digest than before.
        left_out: Why each file or series that is not in it is not, one sentence each.
    """

    reference: Reference
    package: Package
    left_out: tuple[str, ...]


def add_reference(
    package: Package,
    engine: Engine,
    paths: Sequence[Path],
    on_image: Callable[[], None] = lambda: None,
) -> Made:
    """Run a model on every image it can take, and keep in its package how they are and answer.

    Args:
        package: Of one input; its folder is written to and sealed again.
        engine: Runs it.
        paths: Files, of any series.
        on_image: Called after each image.

    Raises:
        ModelFileError: The model wants several inputs, or its folder cannot be written.
        InferenceError: There are too few images that it can take.
    """
    role = package.manifest.input.role
    if any(not spec.primary and not spec.optional for spec in package.manifest.inputs):
        raise ModelFileError(f"{package.manifest.reference} wants several inputs at once")
    units, left_out = _units(paths)
    images: list[tuple[dict[str, Volume], Answer]] = []
    for unit in units:
        name = unit.files[0].name
        try:
            series = load_series(unit.files)
            misfit = package.accepts(series.volume, series.modality)
            if misfit is None:
                volumes = {role: series.volume}
                images.append((volumes, engine.run(package, volumes)))
        except (InputError, SeriesError, InferenceError) as error:
            misfit = str(error)
        if misfit is not None:
            left_out.append(f"{name}: {misfit}")
        on_image()
    reference = make_reference(images)
    try:
        text = reference.model_dump_json(indent=1) + "\n"
        (package.folder / REFERENCE).write_text(text, "utf-8")
        renewed = renew(package.folder, package.folder)
    except OSError as error:
        raise ModelFileError(
            f"{REFERENCE} of {package.manifest.reference} cannot be written: {error.strerror}"
        ) from error
    return Made(reference, renewed, tuple(left_out))


def _units(paths: Sequence[Path]) -> tuple[list[Unit], list[str]]:
    files: list[Path] = []
    headers: list[Dataset] = []
    left_out = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except InputError as error:
            left_out.append(f"{path.name}: {error}")
        else:
            files.append(path)
    return units_of(files, headers), left_out

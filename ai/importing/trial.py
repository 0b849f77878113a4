"""The golden case of an imported package: an image and what the graph says to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from ai.engine import Engine
from ai.golden import Case, write_case
from ai.inputs import Input
from ai.package import Package
from ai.preprocess import resample
from ai.types import Answer, Finding, Volume
from config.errors import ModelFileError, UsageError

# Another processor rounds otherwise: a few voxels lie on the edge of a decision.
_VOXELS, _RELATIVE = 0.005, 0.001
_TRIES = 8
# Values an image may hold, by unit: lowest, highest and how they are stored.
_VALUES: Mapping[str, tuple[float, float, type[np.generic]]] = {
    "[hnsf'U]": (-1024.0, 1500.0, np.int16),
    "1": (0.0, 4095.0, np.uint16),
}
_OTHER_VALUES = (0.0, 100.0, np.float32)
_LARGEST = 64  # voxels along an axis of a volume that no model asks for


def write_trial(package: Package, engine: Engine, image: Path | None, seed: int) -> str:
    """Writes a golden case into the package's folder; gives a sentence on what it holds.

    Args:
        package: Sealed, without a golden case.
        engine: What the package runs on.
        image: A file of the image to use; a random one where it is None.
        seed: Of the random image.

    Raises:
        InferenceError: The model gives no usable answer.
        ModelFileError: The image cannot be read or does not fit the model.
    """
    specs = package.manifest.inputs
    if image is not None:
        if len(specs) > 1:
            raise UsageError("a golden image can be given to a model with one input")
        volume = read_image(image, specs[0])
        if reason := package.misfit(volume):
            raise ModelFileError(f"{image.name} does not fit the model: {reason}")
        return _write(package, engine, {specs[0].role: volume}, "given")
    for number in range(seed, seed + _TRIES):
        inputs = {spec.role: random_image(spec, number + at) for at, spec in enumerate(specs)}
        answer = engine.run(package, inputs)
        if answer.findings:
            break
    return _write(package, engine, inputs, "random")


def _write(package: Package, engine: Engine, inputs: dict[str, Volume], name: str) -> str:
    answer = engine.run(package, inputs)
    role = package.manifest.input.role
    primary = inputs.pop(role)
    case = Case(
        *(name, primary, answer.labels, [_expected(each) for each in answer.findings]),
        *(_VOXELS, _RELATIVE, inputs),
    )
    folder = package.folder / "golden"
    folder.mkdir()
    write_case(folder, case)
    return f"the golden case {name} expects {_told(answer)}"


def _told(answer: Answer) -> str:
    if answer.findings:
        names = ", ".join(finding.name for finding in answer.findings)
        return names if len(names) < 100 else f"{len(answer.findings)} findings"
    return "no finding, which shows little: give an image in which there is something"


def _expected(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "confidence": finding.confidence.value,
        "measurements": [each.value for each in finding.measurements],
        "evaluations": [each.value.value for each in finding.evaluations],
        "region": None if finding.region is None else finding.region.points.tolist(),
    }


def random_image(spec: Input, seed: int) -> Volume:
    """A smooth random image that an input takes, in the usual axial geometry."""
    low, high, kind = _VALUES.get(spec.units, _OTHER_VALUES)
    random = np.random.default_rng(seed)
    shape = _shape(spec)
    coarse = random.random((6, 6, 6), np.float32)
    scale = [6 / n for n in shape]
    smooth = resample(coarse, (scale[0], scale[1], scale[2]), shape)
    smooth = 0.9 * smooth + 0.1 * random.random(shape, np.float32)
    voxels = (low + (high - low) * smooth).astype(kind)
    if spec.dimensions == "2D" and spec.apply == "whole":
        return Volume(voxels, spec.units, None, (None, None, None), (low, high))
    steps = _steps(spec)
    affine = np.array([[0, 0, steps[2], 0], [0, steps[1], 0, 0], [steps[0], 0, 0, 0], [0, 0, 0, 1]])
    return Volume(voxels, spec.units, affine.astype(np.float64), steps, (low, high))


def read_image(path: Path, spec: Input) -> Volume:
    """An image of NIfTI, NRRD, MetaImage, PNG or another format that SimpleITK reads.

    Raises:
        ModelFileError: It cannot be read.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ModelFileError(f"{path.name} is no image that can be read") from error
    voxels: NDArray[Any] = sitk.GetArrayFromImage(image)
    colour = image.GetNumberOfComponentsPerPixel() > 1
    if colour or voxels.ndim not in (2, 3):
        raise ModelFileError(f"{path.name} is no grey image of two or three axes")
    low, high = float(voxels.min()), float(voxels.max())
    if voxels.ndim == 2 or (spec.dimensions == "2D" and spec.apply == "whole"):
        flat = voxels.reshape(1, *voxels.shape[-2:])
        return Volume(flat, spec.units, None, (None, None, None), (low, high))
    steps = [float(step) for step in reversed(image.GetSpacing())]
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = (directions * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(voxels, spec.units, affine, (steps[0], steps[1], steps[2]), (low, high))


def _shape(spec: Input) -> tuple[int, int, int]:
    """Somewhat larger than what the graph sees, so that what is resampled is seen to be."""
    sizes = [n + n // 8 for n in spec.size] if spec.size else [_LARGEST] * spec.axes
    sizes = [1 if spec.apply == "whole" else 3] * (3 - len(sizes)) + sizes
    sizes[0] = max(spec.min_slices, min(sizes[0], spec.max_slices))
    return (sizes[0], sizes[1], sizes[2])


def _steps(spec: Input) -> tuple[float, float, float]:
    wanted = list(spec.spacing) if spec.spacing else [1.0] * spec.axes
    steps = [1.0] * (3 - len(wanted)) + [0.9 * step if spec.spacing else step for step in wanted]
    if spec.orientation is None:
        return (steps[0], steps[1], steps[2])
    # The image lies axially: its slices run along S, its rows along P, its columns along L.
    places = dict(zip(spec.orientation, steps, strict=True))
    along = [next(places[each] for each in pair if each in places) for pair in ("SI", "AP", "LR")]
    return (along[0], along[1], along[2])

"""Where the slices of a series lie in the patient, from their headers.

Slices are put in order by their position along the normal of the image plane, never by instance
number. Positions and directions are those of PS3.3 C.7.6.2.1.1: millimetres, LPS,
ImagePositionPatient the centre of the first pixel, ImageOrientationPatient first the direction in
which the column index grows, then that of the row index; PixelSpacing first the distance between
rows, then between columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.errors import MalformedError, SeriesError
from dicomnode.series.headers import distinct, number, numbers, text

COSINE_TOLERANCE = 1e-3
SAME_PLACE_MM = 0.01
STEP_TOLERANCE = 0.05  # of the usual step, and at least STEP_TOLERANCE_MM
STEP_TOLERANCE_MM = 0.02  # positions are often written with two decimals
DRIFT_TOLERANCE = 0.25  # of the mean step, of any slice from its place in an even stack
SHIFT_TOLERANCE_MM = 0.1
TILT_TOLERANCE_DEGREES = 0.1
GAP = 1.5  # steps
AXIS_DEGREES = 20.0
FARTHEST_MM = 1e5


@dataclass(frozen=True)
class Reason:
    """One thing that keeps a series from being taken.

    Attributes:
        code: Short and stable, ``gap``.
        text: One plain sentence without patient identifiers.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Geometry:
    """The grid of a series.

    Attributes:
        order: Index into the headers for each slice, ascending along the normal, which is the
            cross product of ImageOrientationPatient's first direction with its second.
        affine: ``(4, 4)``, ``(slice, row, column, 1)`` to LPS mm. A lone slice that does not say
            how thick it is gets a step of 1 mm.
        spacing: mm along (slices, rows, columns); the first is None for such a lone slice.
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]
    spacing: tuple[float | None, float, float]


@dataclass(frozen=True)
class Examination:
    """What was found: a geometry when there is one, and every reason why it is not sound."""

    geometry: Geometry | None
    reasons: tuple[Reason, ...]


def locate(headers: Sequence[Dataset]) -> Geometry:
    """The grid of a sound series.

    Args:
        headers: One or more headers of one series, in any order.

    Raises:
        SeriesError: With the first reason of `examine`.
    """
    found = examine(headers)
    if found.reasons or found.geometry is None:
        raise SeriesError(found.reasons[0].code, found.reasons[0].text)
    return found.geometry


def examine(headers: Sequence[Dataset]) -> Examination:
    """Look for everything that is wrong with the geometry of a series.

    Args:
        headers: One or more headers of one series, in any order.
    """
    fields, reasons = _read(headers)
    reasons += _mixed(headers)
    if fields is None or any(reason.code.startswith(("mixed", "bad")) for reason in reasons):
        return Examination(None, tuple(reasons))
    row_direction, column_direction = fields.directions
    normal = np.cross(row_direction, column_direction)
    ties = _ties(headers)
    depths = fields.positions @ normal
    order = sorted(range(len(headers)), key=lambda index: (depths[index], ties[index]))
    positions = fields.positions[order]
    if len(order) == 1:
        thickness = _thickness(headers[0])
        step = normal * (thickness or 1.0)
    else:
        thickness = None
        reasons += _steps(positions, normal)
        step = (positions[-1] - positions[0]) / (len(order) - 1)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column_direction * fields.spacing[0]
    affine[:3, 2] = row_direction * fields.spacing[1]
    affine[:3, 3] = positions[0]
    between = thickness if len(order) == 1 else float(np.linalg.norm(step))
    return Examination(Geometry(tuple(order), affine, (between, *fields.spacing)), tuple(reasons))


def orientation(header: Dataset) -> str | None:
    """The plane of an image: ``axial``, ``coronal``, ``sagittal``, else ``oblique``.

    A plane is named for an axis when its normal is within 20 degrees of it; None where the header
    does not say.
    """
    try:
        cosines = numbers(header, "ImageOrientationPatient", 6)
    except MalformedError:
        return None
    if cosines is None:
        return None
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    axis = int(np.argmax(normal))
    if normal[axis] < np.cos(np.radians(AXIS_DEGREES)):
        return "oblique"
    return ("sagittal", "coronal", "axial")[axis]


def _ties(headers: Sequence[Dataset]) -> list[str]:
    # What the grid is read from must not depend on the order of the files.
    return [text(header, "SOPInstanceUID") for header in headers]


@dataclass(frozen=True)
class _Fields:
    positions: NDArray[np.float64]  # (images, 3)
    directions: tuple[NDArray[np.float64], NDArray[np.float64]]
    spacing: tuple[float, float]


_WANTED: tuple[tuple[str, int, str], ...] = (
    ("ImagePositionPatient", 3, "no-position"),
    ("ImageOrientationPatient", 6, "no-orientation"),
    ("PixelSpacing", 2, "no-pixel-spacing"),
)


def _read(headers: Sequence[Dataset]) -> tuple[_Fields | None, list[Reason]]:
    reasons: list[Reason] = []
    columns: dict[str, list[tuple[float, ...]]] = {}
    for keyword, length, code in _WANTED:
        found: list[tuple[float, ...]] = []
        for header in headers:
            try:
                entry = numbers(header, keyword, length)
            except MalformedError as error:
                reasons.append(Reason("bad-geometry", f"{error} in at least one image"))
                break
            if entry is not None:
                found.append(entry)
        else:
            if missing := len(headers) - len(found):
                reasons.append(Reason(code, f"{missing} of {len(headers)} images: no {keyword}"))
        columns[keyword] = found
    if reasons:
        return None, reasons
    cosines = np.array(columns["ImageOrientationPatient"])
    spacings = np.array(columns["PixelSpacing"])
    if np.ptp(cosines, axis=0).max() > COSINE_TOLERANCE:
        reasons.append(Reason("mixed-orientations", "the images do not lie in parallel planes"))
    if np.ptp(spacings, axis=0).max() > 1e-3 * abs(spacings).max():
        reasons.append(Reason("mixed-pixel-spacing", "the images differ in PixelSpacing"))
    if spacings.min() <= 0 or spacings.max() > FARTHEST_MM:
        reasons.append(Reason("bad-geometry", "PixelSpacing is not a distance within a patient"))
    positions = np.array(columns["ImagePositionPatient"])
    if abs(positions).max() > FARTHEST_MM:
        reasons.append(Reason("bad-geometry", "ImagePositionPatient is farther off than 100 m"))
    ties = _ties(headers)
    reference = ties.index(min(ties))
    row, column = cosines[reference, :3], cosines[reference, 3:]
    lengths = np.array([row @ row, column @ column])
    if abs(lengths - 1).max() > 2 * COSINE_TOLERANCE or abs(row @ column) > COSINE_TOLERANCE:
        reasons.append(
            Reason(
                "bad-geometry", "ImageOrientationPatient is not two unit vectors at right angles"
            )
        )
    spacing = (float(spacings[reference, 0]), float(spacings[reference, 1]))
    return _Fields(positions, (row, column), spacing), reasons


def _mixed(headers: Sequence[Dataset]) -> list[Reason]:
    checks: tuple[tuple[str, str, Callable[[Dataset], object]], ...] = (
        (
            "mixed-sizes",
            "the images differ in Rows or Columns",
            lambda header: (text(header, "Rows"), text(header, "Columns")),
        ),
        (
            "mixed-frames-of-reference",
            "the images belong to different frames of reference",
            lambda header: text(header, "FrameOfReferenceUID"),
        ),
    )
    reasons = [
        Reason(code, sentence) for code, sentence, key in checks if distinct(map(key, headers)) > 1
    ]
    if not any(text(header, "FrameOfReferenceUID") for header in headers):
        reasons.append(Reason("no-frame-of-reference", "the images have no FrameOfReferenceUID"))
    return reasons


def _steps(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> list[Reason]:
    """Reasons from ordered positions ``(n, 3)``, n at least 2."""
    steps = np.diff(positions @ normal)
    same = steps < SAME_PLACE_MM
    if same.all():
        return [Reason("duplicate", f"all {len(positions)} images lie at the same place")]
    reasons = []
    if same.any():
        reasons.append(
            Reason("duplicate", f"{int(same.sum())} images lie where another one already lies")
        )
    usual = float(np.median(steps[~same]))
    tolerance = max(STEP_TOLERANCE * usual, STEP_TOLERANCE_MM)
    gaps = np.flatnonzero(steps > GAP * usual)
    if gaps.size:
        first = int(gaps[0])
        reasons.append(
            Reason(
                "gap",
                f"slices are missing at {gaps.size} places, first after slice {first + 1}: "
                f"{steps[first]:.2f} mm where {usual:.2f} mm is usual",
            )
        )
    uneven = ~same & (np.abs(steps - usual) > tolerance) & (steps <= GAP * usual)
    if uneven.any():
        first = int(np.flatnonzero(uneven)[0])
        reasons.append(
            Reason(
                "uneven-spacing",
                f"{int(uneven.sum())} steps are uneven, first after slice {first + 1}: "
                f"{steps[first]:.2f} mm where {usual:.2f} mm is usual",
            )
        )
    if not reasons:
        reasons += _drift(positions @ normal)
    return reasons + _shear(positions, normal)


def _drift(depths: NDArray[np.float64]) -> list[Reason]:
    """Whether steps that are each near enough add up to slices that lie elsewhere."""
    even = np.linspace(depths[0], depths[-1], len(depths))
    farthest = float(abs(depths - even).max())
    if farthest <= DRIFT_TOLERANCE * (depths[-1] - depths[0]) / (len(depths) - 1):
        return []
    return [
        Reason("uneven-spacing", f"a slice lies {farthest:.2f} mm off its place in an even stack")
    ]


def _shear(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> list[Reason]:
    """Whether slices slide sideways along the stack: evenly (a tilted gantry) or not."""
    depths = (positions - positions[0]) @ normal
    sideways = (positions - positions[0]) - np.outer(depths, normal)
    slope = sideways[-1] / depths[-1]
    if np.linalg.norm(sideways - np.outer(depths, slope), axis=1).max() > SHIFT_TOLERANCE_MM:
        return [Reason("shifted-slices", "slices are shifted sideways against each other")]
    degrees = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    moved = float(np.linalg.norm(sideways[-1]))
    if degrees > TILT_TOLERANCE_DEGREES and moved > SHIFT_TOLERANCE_MM:
        return [
            Reason(
                "gantry-tilt",
                f"the stack leans by {degrees:.1f} degrees: the gantry was tilted",
            )
        ]
    return []


def _thickness(header: Dataset) -> float | None:
    try:
        thickness = number(header, "SliceThickness")
    except MalformedError:
        return None
    return thickness if thickness and thickness > 0 else None

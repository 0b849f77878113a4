"""An asymmetric phantom in patient space, the ways to acquire it, and a reader of what came of it.

Provenance: as in `tests.factories`; the phantom is made of formulas. It stands upright in LPS: the
left lung is larger than the right one, a ball lies in the upper lobe of the left, and each octant
has a body of its own shape and size, so that no flip, swap, shift or turn goes unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from ai.types import Answer, Code, Confidence, Finding, Measurement, Region, Segment, Volume
from tests.volumes import FEET_FIRST_PRONE, OBLIQUE, Form, Grid, Order, images_of

LEFT_LUNG, RIGHT_LUNG, BALL, BODIES = 1, 2, 3, 4
BALL_CENTRE = (0.45, -0.1, 0.45)
_TISSUE = Code("85756007", "SCT", "Tissue")
SEGMENTS = (
    Segment(LEFT_LUNG, "left lung", _TISSUE, Code("44029006", "SCT", "Left lung"), (0, 0, 255)),
    Segment(RIGHT_LUNG, "right lung", _TISSUE, Code("3341006", "SCT", "Right lung"), (0, 200, 0)),
    Segment(BALL, "ball", _TISSUE, Code("27925004", "SCT", "Nodule"), (255, 0, 0)),
    Segment(BODIES, "bodies", _TISSUE, Code("91723000", "SCT", "Structure"), (200, 200, 0)),
)
_AIR, _STEP = -1000, 100
# What a segment holds beside its own label where segments overlap: the lung with the ball in it.
_WITHIN = {LEFT_LUNG: (BALL,)}


@dataclass(frozen=True)
class Acquisition:
    """How the phantom is acquired.

    Attributes:
        grid: Where the voxels lie; its centre is the phantom's.
        order: Of the images along the normal.
        offset: Of the phantom from the grid's centre, LPS mm.
    """

    grid: Grid
    order: Order = "against"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def labels_at(self, points: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The phantom's label at places in LPS mm, ``(..., 3)``."""
        return phantom((points - self.centre) / self.reach)

    @property
    def centre(self) -> NDArray[np.float64]:
        """LPS mm of the phantom's centre."""
        middle = (np.array(self.grid.shape) - 1) / 2
        return np.asarray((self.grid.affine @ [*middle, 1])[:3] + self.offset)

    @property
    def reach(self) -> float:
        """Half of the phantom's size in mm: it fits in the narrowest of the grid's sides."""
        steps = np.linalg.norm(self.grid.affine[:3, :3], axis=0)
        return float((np.array(self.grid.shape) * steps).min()) / 2

    def images(self, form: Form, syntax: str, seed: int = 0) -> list[Dataset]:
        """The objects of the series; HU say which label a voxel has."""
        labels = self.labels_at(self.grid.points)
        voxels = (labels.astype(np.int16) * _STEP + _AIR + 1024).astype(np.uint16)
        return images_of(voxels, self.grid, form=form, order=self.order, syntax=syntax, seed=seed)


def phantom(p: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Labels of places ``(..., 3)`` in units of the phantom's half size, LPS from its centre."""
    x, y, z = np.moveaxis(p, -1, 0)
    labels = np.zeros(x.shape, np.uint8)
    for number, (right, front, low) in enumerate(product((1, -1), (1, -1), (1, -1))):
        # Eight corners, each with a superellipsoid of its own exponent and half axes.
        power = (1.0, 2.0, 4.0, 8.0)[number % 4]
        half = 0.12 + 0.02 * number
        parts = (x - 0.7 * right, (y - 0.7 * front) * (1 + 0.1 * number), z - 0.65 * low)
        labels[sum(np.abs(part / half) ** power for part in parts) <= 1] = BODIES
    labels[((x - 0.45) / 0.4) ** 2 + ((y + 0.02) / 0.5) ** 2 + (z / 0.85) ** 2 <= 1] = LEFT_LUNG
    labels[((x + 0.45) / 0.3) ** 2 + ((y - 0.05) / 0.4) ** 2 + ((z + 0.1) / 0.7) ** 2 <= 1] = (
        RIGHT_LUNG
    )
    ball = sum((part - middle) ** 2 for part, middle in zip((x, y, z), BALL_CENTRE, strict=True))
    labels[ball <= 0.25**2] = BALL
    return labels


def part_of(labels: NDArray[np.uint8], number: int, *, overlap: bool) -> NDArray[np.bool_]:
    """The voxels of one segment among the phantom's labels, of any shape."""
    return np.isin(labels, (number, *(_WITHIN.get(number, ()) if overlap else ())))


def answer_of(volume: Volume, *, overlap: bool = False) -> Answer:
    """What a model that knows the phantom's HU would say of a loaded volume.

    Args:
        volume: ``(slices, rows, columns)``.
        overlap: The left lung holds the ball too.
    """
    labels = np.rint((volume.voxels - _AIR) / _STEP).astype(np.uint8)
    voxel_ml = volume.voxel_volume_ml or 1.0
    findings = [
        Finding(
            name=segment.label,
            category=segment.category,
            type=segment.type,
            description=f"Volume of the {segment.label}.",
            confidence=Confidence(None, "none: rule-based"),
            segment=segment.number,
            measurements=(
                Measurement(
                    Code("118565006", "SCT", "Volume"),
                    float(np.count_nonzero(part_of(labels, segment.number, overlap=overlap)))
                    * voxel_ml,
                    Code("mL", "UCUM", "mL"),
                ),
            ),
        )
        for segment in SEGMENTS
    ]
    place, row, column = (int(at) for at in _middle_of(labels == BALL))
    box = np.array([[-2, -1], [2, -1], [2, 1], [-2, 1]]) * 0.5 + (column, row)
    findings.append(
        replace(
            findings[BALL - 1],
            name="mark",
            segment=None,
            region=Region(place, box),
            measurements=(),
        )
    )
    if overlap:
        parts = [part_of(labels, each.number, overlap=True) for each in SEGMENTS]
        labels = np.packbits(parts, axis=0, bitorder="little")[0]
    return Answer(tuple(findings), labels, SEGMENTS, overlap=overlap)


def _middle_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.rint(np.argwhere(mask).mean(axis=0)))


def segments_in_space(
    written: Dataset,
) -> dict[int, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Every voxel of a written binary segmentation in patient space, without code of the node.

    Args:
        written: Read from its file.

    Returns:
        By segment number: centres of all voxels of its frames ``(n, 3)`` in LPS mm, and which of
        them belong to it ``(n,)``.
    """
    rows, columns, frames = written.Rows, written.Columns, int(written.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(written.PixelData, np.uint8), bitorder="little")
    masks = bits[: frames * rows * columns].reshape(frames, rows, columns).astype(bool)
    shared = written.SharedFunctionalGroupsSequence[0]
    down, across = np.mgrid[:rows, :columns]
    found: dict[int, list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = {}
    for mask, own in zip(masks, written.PerFrameFunctionalGroupsSequence, strict=True):

        def macro(name: str, own: Dataset = own) -> Dataset:
            holder = own if name in own else shared
            item: Dataset = holder[name].value[0]
            return item

        start = np.array(macro("PlanePositionSequence").ImagePositionPatient, float)
        cosines = np.array(macro("PlaneOrientationSequence").ImageOrientationPatient, float)
        spacing = np.array(macro("PixelMeasuresSequence").PixelSpacing, float)
        # PS3.3 Equation C.7.6.2.1-1
        places = (
            start
            + across[..., None] * spacing[1] * cosines[:3]
            + down[..., None] * spacing[0] * cosines[3:]
        )
        number = int(macro("SegmentIdentificationSequence").ReferencedSegmentNumber)
        found.setdefault(number, []).append((places.reshape(-1, 3), mask.reshape(-1)))
    return {
        number: (np.concatenate([e[0] for e in each]), np.concatenate([e[1] for e in each]))
        for number, each in found.items()
    }


def point_in_space(item: Dataset, images: Sequence[Dataset]) -> NDArray[np.float64]:
    """The middle of an SCOORD item in LPS mm, by the header of the image it lies on."""
    reference = item.ContentSequence[0].ReferencedSOPSequence[0]
    image = next(e for e in images if e.SOPInstanceUID == reference.ReferencedSOPInstanceUID)
    position, cosines, spacing = _plane_of(image, reference.get("ReferencedFrameNumber"))
    corners = np.array(item.GraphicData, float).reshape(-1, 2)[:-1]
    column, row = corners.mean(axis=0) - 0.5  # PS3.3 C.18.6.1.2: 0\0 is the first pixel's corner
    return np.asarray(position + column * spacing[1] * cosines[:3] + row * spacing[0] * cosines[3:])


def _plane_of(image: Dataset, frame: int | None) -> tuple[NDArray[np.float64], ...]:
    if frame is None:
        holders = (image, image, image)
    else:
        own = image.PerFrameFunctionalGroupsSequence[int(frame) - 1]
        shared = image.SharedFunctionalGroupsSequence[0]
        holders = (
            own.PlanePositionSequence[0],
            shared.PlaneOrientationSequence[0],
            shared.PixelMeasuresSequence[0],
        )
    keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    return tuple(
        np.array(holder[keyword].value, float)
        for holder, keyword in zip(holders, keywords, strict=True)
    )


def turned(x: float, y: float, z: float, w: float) -> tuple[float, ...]:
    """Two directions at right angles, from a quaternion."""
    x, y, z, w = np.array([x, y, z, w]) / np.linalg.norm([x, y, z, w])
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    column = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    return (*(float(each) for each in row), *(float(each) for each in column))


_GRID = Grid((24, 30, 26), spacing=(5.0, 4.5, 4.0), origin=(-60.0, -70.0, -40.0))
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def _grid(cosines: tuple[float, ...] = _AXIAL, **changes: object) -> Grid:
    return replace(_GRID, cosines=cosines, **changes)  # type: ignore[arg-type]


ACQUISITIONS: Mapping[str, Acquisition] = {
    "axial, head last": Acquisition(_grid(), "along"),
    "axial, head first": Acquisition(_grid(), "against"),
    "axial, in no order": Acquisition(_grid(), "shuffled"),
    "coronal": Acquisition(_grid(_CORONAL)),
    "coronal, in no order": Acquisition(_grid(_CORONAL), "shuffled"),
    "coronal, upside down": Acquisition(_grid((1.0, 0.0, 0.0, 0.0, 0.0, 1.0)), "along"),
    "sagittal": Acquisition(_grid(_SAGITTAL)),
    "sagittal from the right": Acquisition(_grid((0.0, -1.0, 0.0, 0.0, 0.0, -1.0)), "along"),
    "oblique": Acquisition(_grid(OBLIQUE)),
    "oblique, in no order": Acquisition(_grid(OBLIQUE), "shuffled"),
    "double oblique": Acquisition(_grid(turned(0.2, -0.3, 0.1, 0.9))),
    "nearly axial": Acquisition(_grid(turned(0.004, -0.003, 0.002, 1.0))),
    "nearly coronal": Acquisition(_grid(turned(-0.7, 0.01, 0.02, 0.7)), "along"),
    "turned by a third": Acquisition(_grid(turned(0.5, 0.5, 0.5, 0.5))),
    "feet first, supine": Acquisition(_grid((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0))),
    "feet first, prone": Acquisition(_grid(FEET_FIRST_PRONE)),
    "head first, prone": Acquisition(_grid((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)), "along"),
    "left side down": Acquisition(_grid((0.0, 1.0, 0.0, -1.0, 0.0, 0.0))),
    "right side down": Acquisition(_grid((0.0, -1.0, 0.0, 1.0, 0.0, 0.0)), "shuffled"),
    "square pixels": Acquisition(_grid(spacing=(5.0, 4.0, 4.0))),
    "wide pixels": Acquisition(_grid(spacing=(5.0, 3.0, 5.5))),
    "tall pixels, coronal": Acquisition(_grid(_CORONAL, spacing=(4.0, 6.0, 2.5))),
    "thick slices": Acquisition(_grid(shape=(24, 36, 40), spacing=(8.0, 3.5, 3.25))),
    "thin slices": Acquisition(_grid(shape=(40, 24, 28), spacing=(1.25, 5.5, 5.0))),
    "isotropic, 1 mm": Acquisition(_grid(shape=(28, 28, 28), spacing=(1.0, 1.0, 1.0))),
    "spacing of many digits": Acquisition(_grid(spacing=(3.333333333, 4.123456789, 3.987654321))),
    "tiny offset": Acquisition(_grid(origin=(-60.0004, -70.0003, -40.0002))),
    "off centre": Acquisition(_grid(), offset=(8.0, -6.0, 5.0)),
    "far from the origin": Acquisition(_grid(origin=(512.5, -333.25, -1801.125))),
    "many rows": Acquisition(_grid(shape=(24, 40, 25))),
    "odd size, oblique": Acquisition(_grid(OBLIQUE, shape=(25, 27, 31))),
}

# Name → form of the objects and their transfer syntax.
ENCODINGS: Mapping[str, tuple[Form, str]] = {
    "single-frame": ("single-frame", ExplicitVRLittleEndian),
    "enhanced": ("enhanced", ExplicitVRLittleEndian),
    "compressed": ("single-frame", JPEGLSLossless),
    "big endian": ("single-frame", ExplicitVRBigEndian),
    "enhanced, compressed": ("enhanced", RLELossless),
}

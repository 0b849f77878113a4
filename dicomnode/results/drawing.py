"""Images of a source with what was found drawn over them.

An image differs from its plain rendering only where something found is drawn: text, legend and
side marks stand outside (see `rendering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from ai.label_values import Mask
from ai.types import Answer, Finding, Volume
from dicomnode.results.regions import fullest, key_slices, segment_mask
from dicomnode.results.sides import Sides, sides_of
from dicomnode.results.voi import as_shown, voi_of

PANEL: Final = 420  # longer side of an image of the quick look, in pixels
_PALETTE: Final = (
    (255, 90, 60),
    (60, 180, 255),
    (120, 220, 80),
    (255, 210, 60),
    (210, 110, 255),
    (70, 230, 210),
)
_WEAKEST: Final = 0.25
_STRONGEST: Final = 0.55
_REGION_FILL: Final = 0.25  # what a polygon says is its border: the image inside stays readable

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """One image of the rendering.

    Attributes:
        title: What it shows.
        sides: Letters of the patient's side at the left, right, top and bottom edge, empty where
            not known.
        plain: ``(rows, columns, 3)``, the source alone.
        annotated: The same with what was found.
        regions: Drawn pixels ``(rows, columns)`` by the finding's index in the answer.
        pixels_per_mm: How long a millimetre is on it, None where the source does not say.
        on_detector: That millimetre is one of the detector or film, not of the patient.
    """

    title: str
    sides: Sides
    plain: Pixels
    annotated: Pixels
    regions: dict[int, Mask]
    pixels_per_mm: float | None = None
    on_detector: bool = False


def render(volume: Volume, answer: Answer, sources: Sequence[Dataset]) -> tuple[Panel, ...]:
    """The images of the quick look, without what stands around them.

    Args:
        volume: The primary input, ``(slices, rows, columns)``.
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.

    Returns:
        Enough slices that every located finding is drawn on one, then a coronal cut of volumes.
    """
    shown = key_slices(answer, volume.voxels.shape[0])
    panels = [draw_cut(volume, answer, sources, index) for index in shown]
    if volume.affine is not None and volume.voxels.shape[0] > 1:
        row = fullest(answer, 1, volume.voxels.shape[1])
        panels.append(draw_cut(volume, answer, sources, row, axis=1))
    return tuple(panels)


def draw_cut(
    volume: Volume,
    answer: Answer,
    sources: Sequence[Dataset],
    index: int,
    *,
    axis: int = 0,
    longest: int = PANEL,
) -> Panel:
    """One cut through a volume with what was found on it.

    Args:
        volume: ``(slices, rows, columns)``.
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.
        index: Which slice, or which row of all slices.
        axis: 0 for a slice, 1 for a cut across them.
        longest: Longer side of the image in pixels; its proportions are those in millimetres.
    """
    header = sources[index if axis == 0 else len(sources) // 2]
    cut = as_shown(volume, voi_of(header, volume), np.take(volume.voxels, index, axis=axis))
    steps = [each or 1.0 for each in volume.spacing]
    down, across = (steps[1], steps[2]) if axis == 0 else (steps[0], steps[2])
    scale = longest / max(cut.shape[0] * down, cut.shape[1] * across)
    size = (
        max(1, round(cut.shape[1] * across * scale)),
        max(1, round(cut.shape[0] * down * scale)),
    )
    flip = axis == 1 and _points_down(volume)
    image = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BILINEAR))
    plain_image = np.repeat(image[::-1, :, None] if flip else image[:, :, None], 3, axis=2)
    annotated = plain_image.copy()
    regions: dict[int, Mask] = {}
    # The most significant finding is drawn last, on top.
    for number in reversed(range(len(answer.findings))):
        finding = answer.findings[number]
        mask = _drawn(answer, finding, axis=axis, index=index, size=size, shape=cut.shape)
        if mask is None or not mask.any():
            continue
        mask = mask[::-1] if flip else mask
        fill = _REGION_FILL if finding.region is not None else 1.0
        _paint(annotated, mask, color_of(answer, number), strength_of(finding), fill)
        regions[number] = mask
    left, right, top, bottom = sides_of(volume, header, axis)
    known = all(volume.spacing[each] for each in range(3) if each != axis)
    return Panel(
        title=_title(volume, axis, index),
        sides=(left, right, bottom, top) if flip else (left, right, top, bottom),
        plain=plain_image,
        annotated=annotated,
        regions=regions,
        pixels_per_mm=float(scale) if known else None,
        on_detector=volume.affine is None and "PixelSpacing" not in header,
    )


def _title(volume: Volume, axis: int, index: int) -> str:
    count = volume.voxels.shape[axis]
    if axis == 0 and count == 1:
        return "image"
    return f"{'slice' if axis == 0 else 'across slices, row'} {index + 1} of {count}"


def _points_down(volume: Volume) -> bool:
    # Slices that ascend to the head are shown with the head on top.
    return volume.affine is not None and bool(volume.affine[2, 0] > 0)


def _drawn(
    answer: Answer,
    finding: Finding,
    *,
    axis: int,
    index: int,
    size: tuple[int, int],
    shape: tuple[int, ...],
) -> Mask | None:
    if finding.region is not None and axis == 0:
        if finding.region.slice_index != index:
            return None
        # Places on the canvas of pixel centres: half a pixel from the image's corner.
        factor = np.array([size[0] / shape[1], size[1] / shape[0]])
        points = (finding.region.points + 0.5) * factor - 0.5
        drawing = Image.new("1", size)
        ImageDraw.Draw(drawing).polygon([tuple(point) for point in points.tolist()], fill=1)
        return np.asarray(drawing)
    mask = segment_mask(answer, finding, index, axis)
    if mask is None:
        return None
    # Nearest neighbour could lose what is thinner than a pixel of the canvas; a box does not.
    enlarged = Image.fromarray((mask * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return np.asarray(enlarged) > (127 if min(size) >= max(shape) else 0)


def color_of(answer: Answer, number: int) -> tuple[int, int, int]:
    """Colour of a finding: its segment's, or one of a fixed palette."""
    finding = answer.findings[number]
    for segment in answer.segments:
        if segment.number == finding.segment:
            return segment.color
    return _PALETTE[number % len(_PALETTE)]


def strength_of(finding: Finding) -> float:
    """Opacity of a finding: grows with its confidence, the middle where the model gives none."""
    value = 0.5 if finding.confidence.value is None else finding.confidence.value
    return _WEAKEST + (_STRONGEST - _WEAKEST) * min(1.0, max(0.0, value))


def _paint(
    image: Pixels, mask: Mask, color: tuple[int, int, int], strength: float, fill: float
) -> None:
    tint = np.array(color, np.float32)
    outline = mask & ~(_eroded(mask) if fill == 1.0 else _eroded(_eroded(mask)))
    shade = strength * fill
    # Written so that rounding, too, brings no pixel nearer to the image where the strength grows.
    image[mask] = (image[mask] + (tint - image[mask]) * shade).astype(np.uint8)
    edge = 0.4 + strength
    image[outline] = (image[outline] + (tint - image[outline]) * edge).astype(np.uint8)


def _eroded(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    return (
        padded[1:-1, 1:-1]
        & padded[:-2, 1:-1]
        & padded[2:, 1:-1]
        & padded[1:-1, :-2]
        & padded[1:-1, 2:]
    )

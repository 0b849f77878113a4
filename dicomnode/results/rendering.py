"""A quick look at an answer: source slices with what was found drawn over them, as PNG.

Text, legend and side marks stand outside the images, so an image differs from its plain rendering
only where something found is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ai.types import Answer, Finding, Volume
from dicomnode.results.provenance import plain

NOTICE: Final = "AI output - not for diagnosis without validation"

_PANEL: Final = 420  # longer side of an image on the canvas, in pixels
_MARGIN: Final = 28
_LINE: Final = 22
_FONT: Final = ImageFont.load_default(15)
_BARS_MM: Final = (500, 200, 100, 50, 20, 10, 5, 2, 1)
_CT_WINDOW: Final = (-160.0, 240.0)  # HU, soft tissue
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

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """One image of the rendering.

    Attributes:
        title: What it shows.
        sides: Letters of the patient's side at the left and right edge, empty where not known.
        plain: ``(rows, columns, 3)``, the source alone.
        annotated: The same with what was found.
        regions: Drawn pixels ``(rows, columns)`` by the finding's index in the answer.
        pixels_per_mm: How long a millimetre is on it, None where the source does not say.
    """

    title: str
    sides: tuple[str, str]
    plain: Pixels
    annotated: Pixels
    regions: dict[int, Mask]
    pixels_per_mm: float | None = None


def annotated_png(volume: Volume, answer: Answer, caption: str) -> bytes:
    """The answer drawn over the source, with legend, caption and side marks.

    Args:
        volume: The primary input, ``(slices, rows, columns)``.
        answer: What the model said.
        caption: Model name and version.

    Returns:
        A PNG in 8-bit RGB; the same bytes for the same input.
    """
    canvas = _compose(render(volume, answer), answer, caption)
    buffer = BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def render(volume: Volume, answer: Answer) -> tuple[Panel, ...]:
    """The images of the quick look, without what stands around them.

    Args:
        volume: The primary input, ``(slices, rows, columns)``.
        answer: What the model said.

    Returns:
        Enough slices that every located finding is drawn on one, then a coronal cut of volumes.
    """
    window = _window(volume)
    shown = _slices_to_show(volume, answer)
    panels = [_panel(volume, answer, window, 0, index) for index in shown]
    if volume.affine is not None and volume.voxels.shape[0] > 1:
        rows = volume.voxels.shape[1]
        panels.append(_panel(volume, answer, window, 1, _fullest(answer.labels, 1, rows)))
    return tuple(panels)


def _window(volume: Volume) -> tuple[float, float]:
    if volume.units == "[hnsf'U]":
        return _CT_WINDOW
    step = max(1, round((volume.voxels.size / 1e6) ** (1 / 3)))
    low, high = np.nanpercentile(volume.voxels[::step, ::step, ::step], (1, 99))
    return float(low), float(high)


def _grey(cut: NDArray[Any], window: tuple[float, float], inverted: bool) -> Pixels:
    low, high = window
    scaled = (cut.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    grey: Pixels = np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)
    return 255 - grey if inverted else grey


def _fullest(labels: Any, axis: int, length: int) -> int:
    # The cut that shows most of every segment, however small; the middle one where there are none.
    if labels is None or not labels.any():
        return length // 2
    cuts = (np.take(labels, index, axis=axis).ravel() for index in range(length))
    areas = np.stack([np.bincount(cut, minlength=256)[1:] for cut in cuts])
    shown = (areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1)
    return int(np.argmax(shown))


def _slices_to_show(volume: Volume, answer: Answer) -> list[int]:
    first = next((each.region.slice_index for each in answer.findings if each.region), None)
    if first is None or answer.labels is not None:
        first = _fullest(answer.labels, 0, volume.voxels.shape[0])
    shown = [first]
    for finding in answer.findings:
        if finding.region is not None and finding.region.slice_index not in shown:
            shown.append(finding.region.slice_index)
        elif finding.region is None and (mask := _segment_mask(answer, finding)) is not None:
            areas = np.count_nonzero(mask, axis=(1, 2))
            if areas.any() and not areas[shown].any():
                shown.append(int(areas.argmax()))
    return shown


def _segment_mask(answer: Answer, finding: Finding) -> Any:
    if answer.labels is None or finding.segment is None:
        return None
    return answer.labels == finding.segment


def _panel(
    volume: Volume, answer: Answer, window: tuple[float, float], axis: int, index: int
) -> Panel:
    cut = _grey(np.take(volume.voxels, index, axis=axis), window, volume.lowest_is_white)
    steps = [each or 1.0 for each in volume.spacing]
    down, across = (steps[1], steps[2]) if axis == 0 else (steps[0], steps[2])
    scale = _PANEL / max(cut.shape[0] * down, cut.shape[1] * across)
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
        mask = _drawn(
            answer, answer.findings[number], axis=axis, index=index, size=size, shape=cut.shape
        )
        if mask is None or not mask.any():
            continue
        mask = mask[::-1] if flip else mask
        finding = answer.findings[number]
        fill = _REGION_FILL if finding.region is not None else 1.0
        _paint(annotated, mask, color_of(answer, number), strength_of(finding), fill)
        regions[number] = mask
    name = "slice" if axis == 0 else "across slices, row"
    count = volume.voxels.shape[axis]
    title = f"{name} {index + 1} of {count}" if max(axis, count - 1) else "image"
    known = all(volume.spacing[each] for each in range(3) if each != axis)
    return Panel(
        title, _sides(volume), plain_image, annotated, regions, float(scale) if known else None
    )


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
    if answer.labels is None or finding.segment is None:
        return None
    mask = np.take(answer.labels, index, axis=axis) == finding.segment
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
    image[mask] = (image[mask] * (1 - shade) + tint * shade).astype(np.uint8)
    edge = 0.4 + strength
    image[outline] = (image[outline] * (1 - edge) + tint * edge).astype(np.uint8)


def _eroded(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    return (
        padded[1:-1, 1:-1]
        & padded[:-2, 1:-1]
        & padded[2:, 1:-1]
        & padded[1:-1, :-2]
        & padded[1:-1, 2:]
    )


def _sides(volume: Volume) -> tuple[str, str]:
    # LPS: along a growing column index x grows to the patient's left.
    if volume.affine is None:
        return "", ""
    step = volume.affine[:3, 2]
    if abs(step[0]) < 0.5 * float(np.linalg.norm(step)):
        return "", ""
    return ("R", "L") if step[0] > 0 else ("L", "R")


def _compose(panels: Sequence[Panel], answer: Answer, caption: str) -> Image.Image:
    across = min(3, len(panels))
    lines = [panels[start : start + across] for start in range(0, len(panels), across)]
    heights = [max(panel.annotated.shape[0] for panel in line) for line in lines]
    entries = [_legend(finding) for finding in answer.findings]
    words = max((_FONT.getlength(plain(each)) for each in (caption, NOTICE, *entries)), default=0.0)
    width = max(across * (_PANEL + 2 * _MARGIN), round(words) + 3 * _MARGIN)
    # Above each image its title, below it the bar.
    frame = 3 * _LINE
    legend = 2 * _LINE + sum(heights) + frame * len(lines) + _LINE
    canvas = Image.new("RGB", (width, legend + len(entries) * _LINE + _LINE // 2))
    draw = ImageDraw.Draw(canvas)
    _write(draw, (_MARGIN, 8), caption, (255, 255, 255))
    _write(draw, (_MARGIN, 8 + _LINE), NOTICE, (255, 190, 60))
    top = 2 * _LINE + 8
    for line, height in zip(lines, heights, strict=True):
        for number, panel in enumerate(line):
            columns = panel.annotated.shape[1]
            left = number * (_PANEL + 2 * _MARGIN) + _MARGIN + (_PANEL - columns) // 2
            _place(canvas, draw, panel, (left, top + _LINE + 4))
        top += height + frame
    for number, entry in enumerate(entries):
        top = legend + number * _LINE
        draw.rectangle((_MARGIN, top + 3, _MARGIN + 14, top + 17), fill=color_of(answer, number))
        _write(draw, (_MARGIN + 24, top), entry, (225, 225, 225))
    return canvas


def _place(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, corner: tuple[int, int]
) -> None:
    """One image with title, side marks and scale bar around it."""
    left, top = corner
    rows, columns = panel.annotated.shape[:2]
    canvas.paste(Image.fromarray(panel.annotated), corner)
    _write(draw, (left, top - _LINE), panel.title, (200, 200, 200))
    middle = top + rows // 2
    _write(draw, (left - 9, middle), panel.sides[0], (255, 255, 255), "rm")
    _write(draw, (left + columns + 9, middle), panel.sides[1], (255, 255, 255), "lm")
    length = next(
        (each for each in _BARS_MM if each * (panel.pixels_per_mm or 0) <= columns / 3), None
    )
    if panel.pixels_per_mm is None or length is None:
        return
    end, bar = left + round(length * panel.pixels_per_mm), top + rows + _LINE // 2
    draw.line((left, bar, end, bar), fill=(200, 200, 200), width=2)
    for place in (left, end):
        draw.line((place, bar - 4, place, bar + 4), fill=(200, 200, 200), width=2)
    words = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    _write(draw, (end + 9, bar), words, (200, 200, 200), "lm")


def _legend(finding: Finding) -> str:
    kind = finding.type.meaning
    name = kind if kind.lower() == finding.name.lower() else f"{finding.name}: {kind}"
    if not finding.measurements:
        return name
    first = finding.measurements[0]
    return f"{name}, {first.name.meaning.lower()} {first.value:.4g} {first.unit.value}"


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    words: str,
    color: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    draw.text(place, plain(words), fill=color, font=_FONT, anchor=anchor)

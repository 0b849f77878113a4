"""Pictures of a source and of an answer, as PNG or JPEG, for the eye of whoever looks first.

What stands around the images says which way the patient lies, how long a centimetre is, what was
found and how sure the model is; the images themselves are those of `drawing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from ai.types import Answer, Finding, Volume
from dicomnode.results.drawing import PANEL, Panel, color_of, draw_cut, render
from dicomnode.results.provenance import plain

NOTICE: Final = "AI, unverified - not for diagnosis without validation"
THUMBNAIL: Final = 128
PREVIEW: Final = 512

Format = Literal["PNG", "JPEG"]

_MARGIN: Final = 40
_LINE: Final = 22
_FONT: Final = ImageFont.load_default(15)
_BARS_MM: Final = (500, 200, 100, 50, 20, 10, 5, 2, 1)
_MOST_ENTRIES: Final = 24
_WHITE: Final = (255, 255, 255)
_PALE: Final = (200, 200, 200)
_AMBER: Final = (255, 190, 60)
_JPEG_QUALITY: Final = 90


def annotated_picture(
    volume: Volume,
    answer: Answer,
    sources: Sequence[Dataset],
    caption: str,
    form: Format = "PNG",
) -> bytes:
    """The answer drawn over the source, with legend, caption, scale bars and side marks.

    Args:
        volume: The primary input, ``(slices, rows, columns)``.
        answer: What the model said.
        sources: Header data sets, one a slice, in the volume's order.
        caption: Model name and version.
        form: ``PNG`` or ``JPEG``.

    Returns:
        8-bit RGB; the same bytes for the same input.
    """
    return _encoded(compose(render(volume, answer, sources), answer, caption), form)


def source_picture(
    volume: Volume,
    sources: Sequence[Dataset],
    *,
    longest: int = PREVIEW,
    index: int | None = None,
    form: Format = "PNG",
) -> bytes:
    """One slice of the source alone, as it asks to be shown.

    Args:
        volume: ``(slices, rows, columns)``.
        sources: Header data sets, one a slice, in the volume's order.
        longest: Longer side in pixels: `THUMBNAIL`, `PREVIEW` or any other.
        index: Which slice, from 0; None for the middle one.
        form: ``PNG`` or ``JPEG``.

    Raises:
        IndexError: There is no such slice.
    """
    index = volume.voxels.shape[0] // 2 if index is None else index
    panel = draw_cut(volume, Answer(()), sources, index, longest=longest)
    return _encoded(Image.fromarray(panel.plain), form)


def _encoded(picture: Image.Image, form: Format) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **({"quality": _JPEG_QUALITY} if form == "JPEG" else {}))
    return buffer.getvalue()


@dataclass(frozen=True)
class Layout:
    """Where the images and what stands around them lie on a canvas, in pixels.

    Attributes:
        size: Width and height of the canvas.
        corners: Left and top of each image.
        foot: Left and top of the legend.
    """

    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    foot: tuple[int, int]


def layout(sizes: Sequence[tuple[int, int]], answer: Answer, caption: str) -> Layout:
    """Images below caption and notice, above the legend; at most three side by side.

    Args:
        sizes: Width and height of each image, at least one.
        answer: What the model said.
        caption: Model name and version.
    """
    across = min(3, len(sizes))
    column = max(PANEL, *(width for width, _ in sizes)) + 2 * _MARGIN
    entries = legend(answer)
    words = max(_FONT.getlength(plain(each)) for each in (caption, NOTICE, *entries))
    corners = []
    top = 2 * _LINE + 8
    for start in range(0, len(sizes), across):
        line = sizes[start : start + across]
        for number, (width, _) in enumerate(line):
            corners.append((number * column + (column - width) // 2, top + 2 * _LINE))
        # Above each image its title, below it the bar, on all sides a letter.
        top += max(height for _, height in line) + 5 * _LINE
    width = max(across * column, round(words) + 3 * _MARGIN)
    return Layout((width, top + (len(entries) + 1) * _LINE), tuple(corners), (_MARGIN, top))


def compose(panels: Sequence[Panel], answer: Answer, caption: str) -> Image.Image:
    """Images with caption and notice above and the legend below, as `layout` lays them.

    Args:
        panels: At least one.
        answer: What the model said.
        caption: Model name and version.
    """
    sizes = [(panel.annotated.shape[1], panel.annotated.shape[0]) for panel in panels]
    places = layout(sizes, answer, caption)
    canvas = Image.new("RGB", places.size)
    draw = ImageDraw.Draw(canvas)
    _write(draw, (_MARGIN, 8), caption, _WHITE)
    _write(draw, (_MARGIN, 8 + _LINE), NOTICE, _AMBER)
    for panel, corner in zip(panels, places.corners, strict=True):
        _place(canvas, draw, panel, corner)
    _draw_legend(draw, answer, places.foot)
    return canvas


def _place(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, corner: tuple[int, int]
) -> None:
    """One image with title, side marks and scale bar around it."""
    left, top = corner
    rows, columns = panel.annotated.shape[:2]
    canvas.paste(Image.fromarray(panel.annotated), corner)
    _write(draw, (left, top - 2 * _LINE), panel.title, _PALE)
    middle, centre = top + rows // 2, left + columns // 2
    places = (
        ((left - 7, middle), "rm"),
        ((left + columns + 7, middle), "lm"),
        ((centre, top - 3), "md"),
        ((centre, top + rows + 3), "ma"),
    )
    for letters, (place, anchor) in zip(panel.sides, places, strict=True):
        _write(draw, place, letters, _WHITE, anchor)
    _draw_bar(draw, panel, (left, top + rows + round(1.6 * _LINE)))


def _draw_bar(draw: ImageDraw.ImageDraw, panel: Panel, start: tuple[int, int]) -> None:
    per_mm, (left, middle) = panel.pixels_per_mm, start
    room = panel.annotated.shape[1] / 3
    length = next((each for each in _BARS_MM if per_mm and each * per_mm <= room), None)
    if per_mm is None or length is None:
        return
    end = left + round(length * per_mm)
    draw.line((left, middle, end, middle), fill=_PALE, width=2)
    for place in (left, end):
        draw.line((place, middle - 4, place, middle + 4), fill=_PALE, width=2)
    words = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    words += " on the detector" if panel.on_detector else ""
    _write(draw, (end + 9, middle), words, _PALE, "lm")


def legend(answer: Answer) -> list[str]:
    """One line a finding; of more than two dozen the last line says how many more there are."""
    lines = [_entry(finding) for finding in answer.findings]
    if len(lines) > _MOST_ENTRIES:
        lines = [*lines[: _MOST_ENTRIES - 1], f"and {len(lines) - _MOST_ENTRIES + 1} more"]
    return lines or ["nothing found"]


def _entry(finding: Finding) -> str:
    kind = finding.type.meaning
    parts = [kind if kind.lower() == finding.name.lower() else f"{finding.name}: {kind}"]
    for first in finding.measurements[:1]:
        parts.append(f"{first.name.meaning.lower()} {first.value:.4g} {first.unit.value}")
    if finding.confidence.value is not None:
        parts.append(f"confidence {100 * finding.confidence.value:.0f} %")
    return ", ".join(parts)


def _draw_legend(draw: ImageDraw.ImageDraw, answer: Answer, corner: tuple[int, int]) -> None:
    """The lines of `legend`, one below the other, each with its colour."""
    left, top = corner
    for number, entry in enumerate(legend(answer)):
        line = top + number * _LINE
        if number < min(len(answer.findings), _MOST_ENTRIES):
            square = (left, line + 3, left + 14, line + 17)
            draw.rectangle(square, fill=color_of(answer, number))
        _write(draw, (left + 24, line), entry, (225, 225, 225))


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    words: str,
    color: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    if words:
        draw.text(place, plain(words), fill=color, font=_FONT, anchor=anchor)

"""Images a second as a picture: an SVG of bars, a panel for each shape and sender."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.intaking.figures import Case, Results
from tests.bench.intaking.images import SHAPES
from tests.bench.intaking.senders import NAGLE

WIDTH, MARGIN, GAP = 960, 24, 28
PANEL_HEIGHT, PLOT_HEIGHT = 200, 140
HEAD = 92
PANELS_A_ROW = 2
COLOURS = {
    "node": "#0b6e8f",
    "whole-node": "#5fa8bf",
    "storescp": "#e09f3e",
    "storescp+B": "#b5651d",
    "Orthanc": "#7a7f87",
    "pynetdicom": "#c3c7cc",
}
SENDER_WORDS = {
    "own": "sender without delay",
    "dcmsend": "dcmsend without delay",
    NAGLE: "sender with Nagle's algorithm",
}
STYLE = """
text { font-family: system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; fill: #24292f }
.title { font-size: 20px; font-weight: 600 }
.note, .group, .legend { font-size: 12px }
.note, .group { fill: #57606a }
.panel { font-size: 14px; font-weight: 600 }
.value { font-size: 10px; text-anchor: middle }
.group { text-anchor: middle }
line { stroke: #d0d7de }
"""


@dataclass(frozen=True)
class Panel:
    """One shape and kind of sender: a group of bars for each number of associations."""

    title: str
    unit: str
    groups: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def panels(results: Results) -> list[Panel]:
    """What is drawn: no delay for each shape, and with Nagle's algorithm."""
    found = []
    for sender, shape in dict.fromkeys((case.sender, case.shape) for case in results.cases):
        if sender == "dcmsend":
            continue
        cases = [case for case in results.cases if (case.sender, case.shape) == (sender, shape)]
        title = f"{_size(shape)}, {SENDER_WORDS[sender]}"
        groups = tuple((_associations(case), tuple(_bars(results, case))) for case in cases)
        found.append(Panel(title, "images/s", groups))
    return found


def _size(shape: str) -> str:
    size = SHAPES[shape].bytes
    if size < 1e5:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.{0 if size > 1e7 else 1}f} MB"


def _associations(case: Case) -> str:
    return f"{case.associations} association{'s' if case.associations > 1 else ''}"


def _bars(results: Results, case: Case) -> Iterable[tuple[str, float]]:
    for name in results.receivers:
        rate = results.rate(case, name)
        if rate is not None:
            yield name, rate


def write_plot(path: Path, results: Results, note: str) -> None:
    """Write the picture.

    Args:
        path: An SVG file.
        results: Of the comparison.
        note: What it was made on, one line.
    """
    drawn = panels(results)
    rows = -(-len(drawn) // PANELS_A_ROW)
    height = HEAD + rows * (PANEL_HEIGHT + GAP) + MARGIN - GAP
    width = (WIDTH - 2 * MARGIN - GAP * (PANELS_A_ROW - 1)) / PANELS_A_ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img">',
        "<title>Images a second that receivers take</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text("title", MARGIN, 34, "Images a second, by receiver"),
        _text("note", MARGIN, 54, note),
        *_legend(results.receivers),
    ]
    for number, panel in enumerate(drawn):
        row, column = divmod(number, PANELS_A_ROW)
        left = MARGIN + column * (width + GAP)
        parts += _panel(panel, left, HEAD + row * (PANEL_HEIGHT + GAP), width)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _legend(names: Sequence[str]) -> Iterable[str]:
    x = float(MARGIN)
    for name in names:
        yield f'<rect x="{x:.1f}" y="66" width="11" height="11" rx="2" fill="{COLOURS[name]}"/>'
        yield _text("legend", x + 17, 76, name)
        x += 17 + 7.2 * len(name) + 22


def _panel(panel: Panel, left: float, top: float, width: float) -> Iterable[str]:
    base = top + 34 + PLOT_HEIGHT
    highest = max((rate for _, bars in panel.groups for _, rate in bars), default=1.0)
    yield _text("panel", left, top + 12, panel.title)
    yield f'<line x1="{left:.1f}" x2="{left + width:.1f}" y1="{base:.1f}" y2="{base:.1f}"/>'
    room = width / max(1, len(panel.groups))
    for number, (label, bars) in enumerate(panel.groups):
        thick = min(34.0, room * 0.86 / max(1, len(bars)))
        x = left + number * room + (room - thick * len(bars)) / 2
        yield _text("group", left + (number + 0.5) * room, base + 17, label)
        for name, rate in bars:
            tall = PLOT_HEIGHT * rate / highest
            yield (
                f'<rect x="{x + 1:.1f}" y="{base - tall:.1f}" width="{thick - 2:.1f}"'
                f' height="{tall:.1f}" fill="{COLOURS[name]}">'
                f"<title>{escape(f'{name}, {label}: {_rate(rate)} {panel.unit}')}</title></rect>"
            )
            yield _text("value", x + thick / 2, base - tall - 4, _rate(rate))
            x += thick


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.{1 if rate >= 1 else 2}f}"

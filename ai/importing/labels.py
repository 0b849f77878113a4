"""Segments of models whose files name them."""

from __future__ import annotations

import colorsys

from ai.importing.codes import structure
from ai.importing.draft import Tree

_GOLDEN_ANGLE = 0.381966  # of a turn: neighbours in number lie far apart in hue


def segment(number: int, name: str, channel: int | None = None) -> Tree:
    """A segment with a colour, and with the codes that its name stands for."""
    known: Tree = {"number": number, "color": color(number), "description": f"{name}."}
    if channel is not None and channel != number:
        known["channel"] = channel
    return known | structure(name)


def color(number: int) -> list[int]:
    """An sRGB colour, 0 to 255, for a segment's number."""
    hue = number * _GOLDEN_ANGLE % 1.0
    channels = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return [round(255 * channel) for channel in channels]

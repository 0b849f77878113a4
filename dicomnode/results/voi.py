"""The window an image asks to be shown with (PS3.3 C.11.2), and the image shown with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ai.types import Volume
from dicomnode.results.content import items_of

Grey = NDArray[np.uint8]
_Values = NDArray[np.float32]


def _linear(values: _Values, centre: float, width: float) -> _Values:
    # PS3.3 C.11.2.1.2.1: a window of width 1 is a threshold.
    return (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5


def _linear_exact(values: _Values, centre: float, width: float) -> _Values:
    return (values - centre) / width + 0.5


def _sigmoid(values: _Values, centre: float, width: float) -> _Values:
    exponent = np.clip(-4 * (values - centre) / width, -80, 80)
    return np.asarray(1 / (1 + np.exp(exponent)), np.float32)


# PS3.3 C.11.2.1.3: what each VOI LUT Function gives, before it is clipped to 0 to 1; and the
# smallest width it may have.
FUNCTIONS: Final[dict[str, tuple[Callable[[_Values, float, float], _Values], float]]] = {
    "LINEAR": (_linear, 1.0),
    "LINEAR_EXACT": (_linear_exact, 1e-6),
    "SIGMOID": (_sigmoid, 1e-6),
}


@dataclass(frozen=True)
class Window:
    """A window over real-world values.

    Attributes:
        centre: In units of the volume.
        width: The same; at least what its function asks for.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.
    """

    centre: float
    width: float
    function: str = "LINEAR"

    def grey(self, values: NDArray[Any]) -> Grey:
        """Values of any shape as 0 to 255."""
        curve = FUNCTIONS[self.function][0]
        shown = curve(values.astype(np.float32), self.centre, self.width)
        return np.asarray(np.rint(255 * np.clip(np.nan_to_num(shown), 0, 1)), np.uint8)

    def __str__(self) -> str:
        return f"window centre {self.centre:g} width {self.width:g} ({self.function})"


@dataclass(frozen=True)
class Table:
    """A VOI LUT (PS3.3 C.11.2.1.1).

    Attributes:
        first: The lowest value that has an entry; lower ones take the first entry, those beyond
            the last entry take the last.
        bits: Bits of an entry, 8 to 16.
        entries: 16-bit little endian.
        explanation: What the source calls it.
    """

    first: int
    bits: int
    entries: bytes
    explanation: str = ""

    def grey(self, values: NDArray[Any]) -> Grey:
        """Values of any shape as 0 to 255, the range of the entries."""
        table = np.frombuffer(self.entries, "<u2").astype(np.float32) * (255 / (2**self.bits - 1))
        places = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(table) - 1)
        shown: Grey = np.rint(np.clip(table, 0, 255)).astype(np.uint8)[places]
        return shown

    def __str__(self) -> str:
        return "VOI LUT of the source"


Voi = Window | Table

_TISSUE: Final = Window(40.0, 400.0)  # HU, where a CT names none


def voi_of(header: Dataset, volume: Volume) -> Voi:
    """What an image asks to be shown with: its VOI LUT, else its first window, else a fitting one.

    Args:
        header: Header data set of the image; broken attributes count as absent.
        volume: The volume it belongs to; decides where the image asks for nothing.

    Returns:
        The whole range of what was in colour; soft tissue for a CT that names none; else from the
        first to the ninety-ninth percentile of the volume.
    """
    if volume.colour:  # PS3.3 C.11.2 is for grey images: colours are shown as they are
        low, high = volume.value_range
        return Window((low + high) / 2, max(high - low, 1e-3), "LINEAR_EXACT")
    named = _table(header) or _named_window(header)
    if named is not None:
        return named
    return _TISSUE if volume.units == "[hnsf'U]" else _spanning(volume)


def _table(header: Dataset) -> Table | None:
    try:
        item = items_of(header, "VOILUTSequence")[0]
        count, first, bits = (int(each) for each in item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):  # OW, in the byte order of the file
            data = np.frombuffer(data, "<u2" if header.original_encoding[1] is not False else ">u2")
        entries = np.asarray(data, "<u2")
        explanation = str(item.get("LUTExplanation") or "")
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError):
        return None
    if not 8 <= bits <= 16 or len(entries) != (count or 1 << 16):
        return None
    return Table(first, bits, entries.tobytes(), explanation)


def _named_window(header: Dataset) -> Window | None:
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if centre is None or width is None or function not in FUNCTIONS:
        return None
    return Window(centre, width, function) if width >= FUNCTIONS[function][1] else None


def _first(header: Dataset, keyword: str) -> float | None:
    try:
        value = header.get(keyword)
        value = value[0] if isinstance(value, MultiValue) else value
        number = None if value is None else float(value)
    except (IndexError, TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _spanning(volume: Volume) -> Window:
    step = max(1, round((volume.voxels.size / 1e6) ** (1 / 3)))
    low, high = np.nanpercentile(volume.voxels[::step, ::step, ::step], (1, 99))
    low, high = float(np.nan_to_num(low)), float(np.nan_to_num(high))
    return Window((low + high) / 2, max(high - low, 1e-3), "LINEAR_EXACT")


def slice_grey(volume: Volume, sources: Sequence[Dataset], index: int) -> Grey:
    """One slice as its source asks to be shown.

    Args:
        volume: ``(slices, rows, columns)``.
        sources: Header data sets, one a slice.
        index: Which slice, from 0.

    Returns:
        ``(rows, columns)``, 0 black; turned over where the lowest value is meant to be white.
    """
    return as_shown(volume, voi_of(sources[index], volume), volume.voxels[index])


def as_shown(volume: Volume, voi: Voi, cut: NDArray[Any]) -> Grey:
    """Values of a volume through a window, turned over for MONOCHROME1 (PS3.3 C.7.6.3.1.2)."""
    grey = voi.grey(cut)
    return 255 - grey if volume.lowest_is_white else grey

"""What the numbers of a series mean: the modality LUT, the units, the range.

Values are brought to the units that a model asks for where the headers say how: Hounsfield units of
CT, standardized uptake values of PET. Intensities of MR mean nothing by themselves; they are left
as they are, bias field and all, and so are counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from config.errors import SeriesError
from dicomnode.lossy import loses
from dicomnode.series.geometry import Reason
from dicomnode.series.headers import count, number, text, value
from dicomnode.series.kinds import Kind, kind_of
from dicomnode.series.suv import pet_units

HOUNSFIELD = "[hnsf'U]"
COUNTS = "{counts}"
NO_UNITS = "1"

COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR"})

_NOTES = {
    "mr": Reason("mr-intensities", "MR intensities are as they came; no bias field is corrected"),
    "colour": Reason("luminance", "the images are in colour; a model sees their luminance"),
    "lossy": Reason("lossy", "the images were compressed with loss"),
}


@dataclass(frozen=True)
class Meaning:
    """What the values of a series are.

    Attributes:
        units: UCUM code of the values after the modality LUT and `factor`.
        factor: What a value after the modality LUT is multiplied with.
        notes: What a reader of results should know of them.
    """

    units: str
    factor: float
    notes: tuple[Reason, ...]


def meaning_of(headers: Sequence[Dataset]) -> Meaning:
    """The units of a series and how its values come into them.

    Args:
        headers: One a slice.

    Raises:
        MalformedError: An attribute is broken.
    """
    modality = text(headers[0], "Modality")
    slices = kind_of(headers[0]) is Kind.SLICES
    notes = [
        _NOTES[name]
        for name, holds in (
            ("mr", modality == "MR"),
            ("colour", any(map(is_colour, headers))),
            ("lossy", any(map(_is_lossy, headers))),
        )
        if holds
    ]
    if slices and modality == "PT":
        pet = pet_units(headers)
        notes += [Reason("not-suv", pet.note)] if pet.note else []
        return Meaning(pet.units, pet.factor, tuple(notes))
    units = {"CT": HOUNSFIELD if slices else NO_UNITS, "NM": COUNTS}.get(modality, NO_UNITS)
    return Meaning(units, 1.0, tuple(notes))


def _is_lossy(header: Dataset) -> bool:
    return text(header, "LossyImageCompression") == "01" or loses(header)


def is_colour(header: Dataset) -> bool:
    """Whether the image is in colour, by its photometric interpretation (PS3.3 C.7.6.3.1.2)."""
    return text(header, "PhotometricInterpretation") in COLOUR


def is_float(header: Dataset) -> bool:
    """Whether the pixels are floating point: no BitsStored is among what describes them.

    PS3.3 C.7.6.24, C.7.6.25.
    """
    return count(header, "BitsStored") is None and count(header, "BitsAllocated") in (32, 64)


def bits_of(header: Dataset) -> int:
    """Bits that a value of the decoded image has: BitsStored, or those of its palette."""
    if text(header, "PhotometricInterpretation") == "PALETTE COLOR":
        descriptor = value(header, "RedPaletteColorLookupTableDescriptor")
        entries = tuple(descriptor) if isinstance(descriptor, Sequence) else ()
        return int(entries[2]) if len(entries) == 3 and entries[2] in (8, 16) else 16
    return count(header, "BitsStored") or 0


@dataclass(frozen=True)
class Scale:
    """From stored to real-world values of one slice (PS3.3 C.11.1).

    Attributes:
        slope: RescaleSlope, times what brings the values into the series' units.
        intercept: RescaleIntercept, times the same.
        table: The header whose modality LUT is looked up instead, or None.
    """

    slope: float
    intercept: float
    table: Dataset | None = None

    @classmethod
    def of(cls, header: Dataset, factor: float) -> Scale:
        """The scale of one slice, errors as `headers.number`."""
        if is_colour(header):  # the LUT would be one for grey
            return cls(1.0, 0.0)
        if value(header, "ModalityLUTSequence") is not None:
            return cls(factor, 0.0, header)
        slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
        return cls(
            (1.0 if slope is None else slope) * factor,
            (0.0 if intercept is None else intercept) * factor,
        )

    @property
    def whole(self) -> bool:
        """Whether whole numbers stay whole."""
        return self.slope.is_integer() and self.intercept.is_integer()

    def apply(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Real-world values in double precision, so that rounding to float32 is the last step.

        Raises:
            SeriesError: The modality LUT cannot be applied.
        """
        if self.table is not None:
            stored = _looked_up(stored, self.table)
        return stored.astype(np.float64) * self.slope + self.intercept


def value_range(headers: Sequence[Dataset], factor: float) -> tuple[float, float]:
    """Lowest and highest value that the stored bits can hold, in the series' units.

    Floating point pixels have no such ends: they are minus and plus infinity.

    Raises:
        MalformedError: An attribute is broken.
        SeriesError: A modality LUT cannot be applied.
    """
    ends: set[float] = set()
    seen: set[tuple[object, ...]] = set()
    for header in headers:
        if is_float(header):
            return -np.inf, np.inf
        scale, bits = Scale.of(header, factor), bits_of(header)
        signed = count(header, "PixelRepresentation") == 1 and not is_colour(header)
        key = (scale.slope, scale.intercept, bits, signed)
        if scale.table is None and key in seen:
            continue
        seen.add(key)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        dtype = np.int64 if bits > 16 else np.int32
        steps = 2 if scale.table is None else min(high - low + 1, 65536)
        reached = scale.apply(np.linspace(low, high, steps).astype(dtype))
        ends |= {float(reached.min()), float(reached.max())}
    return min(ends), max(ends)


def _looked_up(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    try:
        return np.asarray(apply_modality_lut(stored, header))
    except Exception as error:  # the table is a peer's, and pydicom takes it as it comes
        raise SeriesError("modality-lut", "the modality LUT cannot be applied") from error

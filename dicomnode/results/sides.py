"""Which way the patient lies in an image: the letters at its edges, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ai.types import Volume

# LPS: x grows to the patient's left, y to the back, z to the head (PS3.3 C.7.6.2.1.1).
_TOWARDS: Final = (("R", "L"), ("A", "P"), ("F", "H"))
_OPPOSITE: Final = {one: other for pair in _TOWARDS for one, other in (pair, pair[::-1])}
# A direction is named by every axis along which it runs by at least this part of its length.
_SHARE: Final = 0.5

Sides = tuple[str, str, str, str]
UNKNOWN: Final[Sides] = ("", "", "", "")


def sides_of(volume: Volume, header: Dataset, axis: int = 0) -> Sides:
    """Letters at the left, right, top and bottom edge of a cut, empty where not known.

    Args:
        volume: Its place in patient space counts where it has one.
        header: PatientOrientation counts where the volume has none (PS3.3 C.7.6.1.1.1).
        axis: 0 for a slice, 1 for a cut across the slices, whose rows are slices.
    """
    if volume.affine is not None:
        down, right = volume.affine[:3, 1 if axis == 0 else 0], volume.affine[:3, 2]
        return _around(_letters(right), _letters(down))
    stated = header.get("PatientOrientation")
    if axis != 0 or not isinstance(stated, MultiValue | list) or len(stated) != 2:
        return UNKNOWN
    return _around(*(_known(str(each)) for each in stated))


def _around(right: str, bottom: str) -> Sides:
    return _opposite(right), right, _opposite(bottom), bottom


def _opposite(letters: str) -> str:
    return "".join(_OPPOSITE[letter] for letter in letters)


def _known(letters: str) -> str:
    return letters if all(letter in _OPPOSITE for letter in letters) else ""


def _letters(direction: NDArray[np.float64] | Sequence[float]) -> str:
    along = np.asarray(direction, np.float64)
    shares = along / (float(np.linalg.norm(along)) or 1.0)
    order = sorted(range(3), key=lambda each: -abs(shares[each]))
    return "".join(
        _TOWARDS[each][int(shares[each] > 0)] for each in order if abs(shares[each]) >= _SHARE
    )

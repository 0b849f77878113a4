"""What rules can ask about a series: the attributes of its images, and facts derived from them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from config.errors import MalformedError
from dicomnode.series.geometry import examine, orientation
from dicomnode.series.headers import slices_of, text, texts, value, values
from dicomnode.series.kinds import SECONDARY_CAPTURE, is_localizer, is_within

# What each derived fact is, for the check of rules.
FACTS = {
    "slices": "number",
    "spacing": "number",
    "orientation": "plane",
    "contrast": "truth",
    "localizer": "truth",
    "derived": "truth",
}
ORIENTATIONS = ("axial", "coronal", "sagittal", "oblique")

# Projection radiographs: what a detector delivers for presentation is processed and therefore
# DERIVED\PRIMARY by right (PS3.3 C.8.11.1.1.1, C.8.11.7.1.4), so that value 1 says nothing.
_RADIOGRAPHS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # for processing
        "1.2.840.10008.5.1.4.1.1.1.2",  # Digital Mammography X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.2.1",  # for processing
        "1.2.840.10008.5.1.4.1.1.1.3",  # Digital Intra-Oral X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.3.1",  # for processing
    }
)


@dataclass(frozen=True)
class Facts:
    """A series as rules see it.

    Attributes:
        headers: One a slice, or one a file where a file contradicts itself about its frames.
        slices: How many images, frames counted one by one.
        spacing: Distance of neighbouring slices in mm; None where it is not one number.
        orientation: ``axial``, ``coronal``, ``sagittal`` or ``oblique``; None where the images do
            not say or differ.
        contrast: A contrast agent is named.
        localizer: At least one image is a scout.
        derived: At least one image is derived (but for radiographs), secondary or a secondary
            capture.
    """

    headers: tuple[Dataset, ...]
    slices: int
    spacing: float | None
    orientation: str | None
    contrast: bool
    localizer: bool
    derived: bool

    def values(self, key: str) -> tuple[object, ...]:
        """The different values of a fact or attribute over the images, in a fixed order.

        One is a tuple where the attribute has several values, and ``()`` where it is absent, empty
        or cannot be read, or where the fact is not known.
        """
        if key in FACTS:
            found = getattr(self, key)
            return ((),) if found is None else (found,)
        different = dict.fromkeys(_attribute(header, key) for header in self.headers)
        return tuple(sorted(different, key=repr))

    def as_json(self) -> dict[str, Any]:
        """The derived facts as plain values for `json`."""
        return {key: getattr(self, key) for key in FACTS}


def facts_of(headers: Sequence[Dataset]) -> Facts:
    """Derive the facts of a series from its headers, one or more, in any order."""
    with contextlib.suppress(MalformedError):
        headers = slices_of(headers)
    planes = {orientation(header) for header in headers}
    return Facts(
        headers=tuple(headers),
        slices=len(headers),
        spacing=_slice_step(headers),
        orientation=planes.pop() if len(planes) == 1 else None,
        contrast=any(map(_has_contrast, headers)),
        localizer=any(map(is_localizer, headers)),
        derived=any(map(_is_derived, headers)),
    )


def _attribute(header: Dataset, key: str) -> object:
    try:
        found = value(header, key)
        if isinstance(found, DicomSequence | bytes):
            return "(present)"
        plain = tuple(_plain(entry) for entry in values(header, key))
    except (MalformedError, TypeError, ValueError):
        return ()
    return plain[0] if len(plain) == 1 and not isinstance(found, MultiValue) else plain


def _plain(entry: object) -> str | int | float:
    if isinstance(entry, int):
        return int(entry)
    # pydicom's DS is a float or a Decimal, by configuration.
    return float(entry) if isinstance(entry, float | Decimal) else str(entry).strip()


def _slice_step(headers: Sequence[Dataset]) -> float | None:
    try:
        found = examine(headers)
    except MalformedError:
        return None
    if found.geometry is None or found.reasons or found.geometry.spacing[0] is None:
        return None
    return round(found.geometry.spacing[0], 4)


def _has_contrast(header: Dataset) -> bool:
    # PS3.3 C.7.6.4, C.7.6.4b: an empty agent means that it is not known to have been given.
    return any(
        _attribute(header, keyword) != ()
        for keyword in ("ContrastBolusAgent", "ContrastBolusAgentSequence")
    )


def _is_derived(header: Dataset) -> bool:
    # PS3.3 C.7.6.1.1.2: value 1 the pixels, value 2 the examination.
    try:
        kinds = texts(header, "ImageType")
        sop_class = text(header, "SOPClassUID")
    except MalformedError:
        return False
    return (
        (kinds[:1] == ("DERIVED",) and sop_class not in _RADIOGRAPHS)
        or kinds[1:2] == ("SECONDARY",)
        or is_within(sop_class, SECONDARY_CAPTURE)
    )

"""What an object is to a model: part of a volume, images by themselves, or neither.

The kind decides what is a unit of work, and when it is complete: slices of a volume are complete
together, images by themselves and whole volumes in one object at once (docs/decisions/0004).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.frames import number_of_frames
from dicomnode.series.headers import text, texts


class Kind(Enum):
    """What an object is to a model; the value is how people are told."""

    SLICES = "slices of a volume"
    IMAGES = "images by themselves"
    TILES = "tiles of a slide"
    OTHER = "objects of this kind"


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# By the SOP Class UID that it is or lies below (PS3.4 B.5), where it says more than the modality.
_BY_SOP_CLASS: tuple[tuple[str, Kind], ...] = (
    (SECONDARY_CAPTURE, Kind.IMAGES),
    ("1.2.840.10008.5.1.4.1.1.13.1", Kind.SLICES),  # X-Ray 3D, breast tomosynthesis
    ("1.2.840.10008.5.1.4.1.1.77.1.6", Kind.TILES),  # VL Whole Slide Microscopy
    ("1.2.840.10008.5.1.4.1.1.77.1.8", Kind.TILES),  # Confocal Microscopy Tiled Pyramidal
)
_BY_MODALITY: Mapping[str, Kind] = {
    **dict.fromkeys(("CT", "MR", "PT"), Kind.SLICES),
    **dict.fromkeys(
        ("CR", "DX", "MG", "IO", "PX", "RG", "US", "IVUS", "XA", "RF", "NM", "RTIMAGE"), Kind.IMAGES
    ),
    **dict.fromkeys(("ES", "XC", "GM", "OP", "OPT", "DMS", "OT"), Kind.IMAGES),
}


def kind_of(header: Dataset) -> Kind:
    """What an object is, by its SOP class and else its modality; errors as `headers.text`."""
    for beginning, kind in _BY_SOP_CLASS:
        if is_within(text(header, "SOPClassUID"), beginning):
            return kind
    return _BY_MODALITY.get(text(header, "Modality"), Kind.OTHER)


def is_within(uid: str, beginning: str) -> bool:
    """Whether a UID is another or one below it; 1.77 is not below 1.7."""
    return f"{uid}.".startswith(f"{beginning}.")


def stands_alone(header: Dataset) -> bool:
    """Whether the object is complete by itself and a unit of its own.

    So are images by themselves, loops among them, and volumes of many frames, but for the parts of
    a concatenation (PS3.3 C.7.6.16.2.2.4).
    """
    try:
        kind = kind_of(header)
        many = "PerFrameFunctionalGroupsSequence" in header or number_of_frames(header) > 1
        return kind is Kind.IMAGES or (many and not text(header, "ConcatenationUID"))
    except MalformedError:
        return False


def subject_of(header: Dataset) -> str:
    """UID of the unit that an object belongs to: its own, its concatenation's or its series'."""
    if stands_alone(header):
        return text(header, "SOPInstanceUID")
    try:
        return text(header, "ConcatenationUID") or text(header, "SeriesInstanceUID")
    except MalformedError:
        return text(header, "SeriesInstanceUID")


def is_localizer(header: Dataset) -> bool:
    """Whether the image is a scout (PS3.3 C.8.2.1.1.1, ImageType value 3)."""
    try:
        return texts(header, "ImageType")[2:3] == ("LOCALIZER",)
    except MalformedError:
        return False

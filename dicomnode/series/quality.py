"""Whether a series can be given to a model at all, judged from its headers alone.

Every reason is listed, not the first one. What a particular model asks for beyond this is its
manifest's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydicom.dataset import Dataset

from config.errors import MalformedError
from dicomnode.series.geometry import Geometry, Reason, examine
from dicomnode.series.headers import count, distinct, frames, number, text, texts

VOLUME_MODALITIES = frozenset({"CT", "MR"})
IMAGE_MODALITIES = frozenset({"CR", "DX", "MG", "US"})
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
MAX_VOXELS = 1 << 31
MAX_RESCALE = 1e9

# PS3.3 A.36, A.38, A.70, A.71 and others: one object holds many frames, whose geometry
# is in functional groups.
ENHANCED = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
        "1.2.840.10008.5.1.4.1.1.6.2",  # Enhanced US Volume
        "1.2.840.10008.5.1.4.1.1.13.1.3",  # Breast Tomosynthesis
    }
)


@dataclass(frozen=True)
class Quality:
    """The verdict on a series.

    Attributes:
        modality: As the headers say, "" where they do not.
        images: How many headers were judged.
        reasons: Why it cannot be taken; empty when it can.
        geometry: The grid of a sound volume; None for single images and for what is not sound.
    """

    modality: str
    images: int
    reasons: tuple[Reason, ...]
    geometry: Geometry | None

    @property
    def ok(self) -> bool:
        """Nothing speaks against it."""
        return not self.reasons

    @property
    def has_gap(self) -> bool:
        """Slices are missing between others, so more may be on their way."""
        return any(reason.code == "gap" for reason in self.reasons)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {
            "ok": self.ok,
            "modality": self.modality,
            "images": self.images,
            "reasons": [asdict(reason) for reason in self.reasons],
        }


def assess(headers: Sequence[Dataset]) -> Quality:
    """Judge a series.

    Args:
        headers: One or more headers of one series as `read_header` gives them, in any order.

    Returns:
        The verdict; a sound CT or MR series comes with its grid.
    """
    modality = _first_readable(headers, "Modality")
    reasons: list[Reason] = []
    for check in _CHECKS:
        try:
            reasons += check(headers)
        except MalformedError as error:
            reasons.append(Reason("malformed", f"an attribute is broken: {error}"))
    geometry = None
    if modality in VOLUME_MODALITIES and not {"multi-frame", "mixed-series"} & {
        reason.code for reason in reasons
    }:
        try:
            examination = examine(headers)
        except MalformedError as error:
            reasons.append(Reason("malformed", f"an attribute is broken: {error}"))
        else:
            reasons += examination.reasons
            geometry = examination.geometry
    return Quality(
        modality, len(headers), tuple(dict.fromkeys(reasons)), None if reasons else geometry
    )


def is_single_image(header: Dataset) -> bool:
    """Whether the object is complete by itself: CR, DX, MG or a US still (PS3.3 A.2, A.26, A.6)."""
    try:
        return text(header, "Modality") in IMAGE_MODALITIES and frames(header) == 1
    except MalformedError:
        return False


def is_localizer(header: Dataset) -> bool:
    """Whether the image is a scout (PS3.3 C.8.2.1.1.1, ImageType value 3)."""
    try:
        return texts(header, "ImageType")[2:3] == ("LOCALIZER",)
    except MalformedError:
        return False


def _first_readable(headers: Sequence[Dataset], keyword: str) -> str:
    try:
        return text(headers[0], keyword)
    except MalformedError:
        return ""


def _one_series(headers: Sequence[Dataset]) -> list[Reason]:
    reasons = []
    for keyword, code in (("SeriesInstanceUID", "mixed-series"), ("Modality", "mixed-modalities")):
        if distinct(text(header, keyword) for header in headers) > 1:
            reasons.append(Reason(code, f"the images differ in {keyword}"))
    return reasons


def _kind(headers: Sequence[Dataset]) -> list[Reason]:
    reasons = []
    modality = text(headers[0], "Modality")
    if modality not in VOLUME_MODALITIES | IMAGE_MODALITIES:
        reasons.append(
            Reason("modality-not-taken", "only CT, MR, CR, DX, MG and US images are taken")
        )
    if any(text(header, "SOPClassUID") in ENHANCED or frames(header) > 1 for header in headers):
        reasons.append(Reason("multi-frame", "objects of many frames are not taken yet"))
    elif modality in IMAGE_MODALITIES and len(headers) > 1:
        reasons.append(Reason("several-images", f"{len(headers)} separate images are no volume"))
    scouts = sum(map(is_localizer, headers))
    if 0 < scouts < len(headers):
        reasons.append(
            Reason("localizer-mixed", f"{scouts} of {len(headers)} images are localizers")
        )
    return reasons


def _pixels(headers: Sequence[Dataset]) -> list[Reason]:
    reasons = []
    found = {text(header, "PhotometricInterpretation") for header in headers}
    if any((count(header, "SamplesPerPixel") or 1) > 1 for header in headers) or found - GREY:
        reasons.append(Reason("colour", "the pixels are in colour, not grey"))
    elif len(found) > 1:
        reasons.append(
            Reason("mixed-photometric", "some images are MONOCHROME1 and others MONOCHROME2")
        )
    broken = sum(not _has_sound_pixel_format(header) for header in headers)
    if broken:
        reasons.append(
            Reason("pixel-format", f"{broken} of {len(headers)} images: no usable pixel format")
        )
    else:
        voxels = sum((count(h, "Rows") or 0) * (count(h, "Columns") or 0) for h in headers)
        if voxels > MAX_VOXELS:
            reasons.append(Reason("too-large", f"more than {MAX_VOXELS} voxels"))
    return reasons


def _has_sound_pixel_format(header: Dataset) -> bool:
    """PS3.5 8.1.1: sizes above 0, whole bytes, bits that end below the top one."""
    allocated, stored = count(header, "BitsAllocated"), count(header, "BitsStored")
    high = count(header, "HighBit")
    return (
        bool(count(header, "Rows"))
        and bool(count(header, "Columns"))
        and allocated in (8, 16, 32)
        and stored is not None
        and 1 <= stored <= allocated
        and high in (None, stored - 1)
        and count(header, "PixelRepresentation") in (0, 1)
    )


def _units(headers: Sequence[Dataset]) -> list[Reason]:
    """CT values must be Hounsfield units (PS3.3 C.8.2.1, C.11.1.1.2)."""
    for header in headers:
        slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
        if slope == 0 or max(abs(slope or 0), abs(intercept or 0)) > MAX_RESCALE:
            return [Reason("bad-rescale", "RescaleSlope or RescaleIntercept makes no sense")]
        if text(header, "Modality") != "CT":
            continue
        if slope is None or intercept is None:
            return [Reason("no-rescale", "at least one CT image has no RescaleSlope or Intercept")]
        if text(header, "RescaleType") not in ("", "HU"):
            return [Reason("units", "the values of at least one CT image are not Hounsfield units")]
    return []


_CHECKS: tuple[Callable[[Sequence[Dataset]], list[Reason]], ...] = (
    _one_series,
    _kind,
    _pixels,
    _units,
)

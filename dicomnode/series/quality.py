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
from dicomnode.frames import frame_number
from dicomnode.series.geometry import Geometry, Reason, examine
from dicomnode.series.headers import count, distinct, number, slices_of, text, values
from dicomnode.series.kinds import Kind, is_localizer, kind_of
from dicomnode.series.parts import several_volumes
from dicomnode.series.pixels import GREY
from dicomnode.series.values import COLOUR, is_float, meaning_of

MAX_VOXELS = 1 << 31
MAX_RESCALE = 1e9


@dataclass(frozen=True)
class Quality:
    """The verdict on a series.

    Attributes:
        modality: As the headers say, "" where they do not.
        images: How many slices were judged, frames counted one by one.
        reasons: Why it cannot be taken; empty when it can.
        geometry: The grid of a sound volume; None for images that have no place in patient space
            and for what is not sound.
        units: UCUM code of the values, "" for what is not sound.
        notes: What is worth knowing about a sound one, such as why PET values are not SUV.
    """

    modality: str
    images: int
    reasons: tuple[Reason, ...]
    geometry: Geometry | None
    units: str = ""
    notes: tuple[Reason, ...] = ()

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
            "units": self.units,
            "notes": [asdict(note) for note in self.notes],
        }


def assess(headers: Sequence[Dataset]) -> Quality:
    """Judge a unit.

    Args:
        headers: One or more headers of one series as `read_header` gives them, in any order.

    Returns:
        The verdict; a sound volume comes with its grid, whose order counts the slices of
        `headers.slices_of`.
    """
    modality = _first_readable(headers, "Modality")
    try:
        headers = slices_of(headers)
        refused = _not_taken(headers)
    except MalformedError as error:
        refused = _broken(error)
    if refused is not None:
        return Quality(modality, len(headers), (refused,), None)
    reasons: list[Reason] = []
    for check in _CHECKS:
        try:
            reasons += check(headers)
        except MalformedError as error:
            reasons.append(_broken(error))
    geometry = None
    if not _UNPLACEABLE & {reason.code for reason in reasons}:
        try:
            found, geometry = _place(headers)
            reasons += found
            meaning = meaning_of(headers)
        except MalformedError as error:
            reasons.append(_broken(error))
    if reasons:
        return Quality(modality, len(headers), tuple(dict.fromkeys(reasons)), None)
    return Quality(modality, len(headers), (), geometry, meaning.units, meaning.notes)


_UNPLACEABLE = frozenset({"malformed", "mixed-series", "mixed-kinds", "same-instance"})


def _place(headers: Sequence[Dataset]) -> tuple[tuple[Reason, ...], Geometry | None]:
    """Where the slices lie, and what is wrong with that; images by themselves lie nowhere."""
    if kind_of(headers[0]) is Kind.IMAGES and not all(map(_says_where, headers)):
        return (), None
    found = examine(headers)
    if not found.reasons:
        return (), found.geometry
    several = several_volumes(headers)
    return ((several,) if several else found.reasons), None


def _says_where(header: Dataset) -> bool:
    """Whether an image that need not lie in patient space says where it does, as NM may."""
    return (
        text(header, "Modality") == "NM"
        and len(values(header, "ImagePositionPatient")) == 3
        and len(values(header, "ImageOrientationPatient")) == 6
    )


def _broken(error: MalformedError) -> Reason:
    return Reason("malformed", f"an attribute is broken: {error}")


def _not_taken(headers: Sequence[Dataset]) -> Reason | None:
    """The one reason where nothing of it is of a kind that is taken; no other says more."""
    kinds = {kind_of(header) for header in headers}
    if kinds & {Kind.SLICES, Kind.IMAGES}:
        return None
    return Reason("not-taken", f"{' and '.join(sorted(k.value for k in kinds))} are not taken")


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


def _instances(headers: Sequence[Dataset]) -> list[Reason]:
    copies = len(headers) - distinct(
        (text(header, "SOPInstanceUID"), frame_number(header)) for header in headers
    )
    if copies:
        return [Reason("same-instance", f"{copies} images have a SOP Instance UID of another one")]
    return []


def _kind(headers: Sequence[Dataset]) -> list[Reason]:
    kinds = {kind_of(header) for header in headers}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.value for kind in kinds))
        return [Reason("mixed-kinds", f"the series mixes {names}")]
    reasons = []
    if not kinds <= {Kind.SLICES, Kind.IMAGES}:
        reasons.append(Reason("not-taken", f"{kinds.pop().value} are not taken"))
    elif (
        kinds == {Kind.IMAGES}
        and (files := distinct(text(header, "SOPInstanceUID") for header in headers)) > 1
    ):
        reasons.append(Reason("several-images", f"{files} separate images are no volume"))
    scouts = sum(map(is_localizer, headers))
    if 0 < scouts < len(headers):
        reasons.append(
            Reason("localizer-mixed", f"{scouts} of {len(headers)} images are localizers")
        )
    return reasons


def _pixels(headers: Sequence[Dataset]) -> list[Reason]:
    reasons = []
    found = {text(header, "PhotometricInterpretation") for header in headers}
    if found - GREY - COLOUR:
        reasons.append(
            Reason("photometric", "the photometric interpretation is missing or not taken")
        )
    elif len(found) > 1:
        reasons.append(
            Reason("mixed-photometric", "the images differ in their photometric interpretation")
        )
    elif found & COLOUR and kind_of(headers[0]) is Kind.SLICES:
        reasons.append(Reason("colour", "the slices are in colour: they are no measured values"))
    broken = sum(not _has_sound_pixel_format(header) for header in headers)
    if broken:
        reasons.append(
            Reason("pixel-format", f"{broken} of {len(headers)} images: no usable pixel format")
        )
    else:
        if distinct(map(_format, headers)) > 1:
            reasons.append(Reason("mixed-sizes", "the images differ in Rows or Columns"))
        voxels = sum((count(h, "Rows") or 0) * (count(h, "Columns") or 0) for h in headers)
        if voxels > MAX_VOXELS:
            reasons.append(Reason("too-large", f"more than {MAX_VOXELS} voxels"))
    return reasons


def _format(header: Dataset) -> tuple[object, ...]:
    return count(header, "Rows"), count(header, "Columns")


def _has_sound_pixel_format(header: Dataset) -> bool:
    """PS3.5 8.1.1: sizes above 0, whole bytes, bits that end below the top one."""
    samples = count(header, "SamplesPerPixel") or 1
    three = text(header, "PhotometricInterpretation") in COLOUR - {"PALETTE COLOR"}
    if not count(header, "Rows") or not count(header, "Columns") or samples != (3 if three else 1):
        return False
    if is_float(header):
        return not three
    allocated, stored = count(header, "BitsAllocated"), count(header, "BitsStored")
    high = count(header, "HighBit")
    return (
        allocated in (8, 16, 32)
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
        if text(header, "Modality") != "CT" or kind_of(header) is not Kind.SLICES:
            continue
        if slope is None or intercept is None:
            return [Reason("no-rescale", "at least one CT image has no RescaleSlope or Intercept")]
        if text(header, "RescaleType") not in ("", "HU"):
            return [Reason("units", "the values of at least one CT image are not Hounsfield units")]
    return []


_CHECKS: tuple[Callable[[Sequence[Dataset]], list[Reason]], ...] = (
    _one_series,
    _instances,
    _kind,
    _pixels,
    _units,
)

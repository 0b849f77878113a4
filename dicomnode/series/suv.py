"""PET values as standardized uptake values by body weight, where the headers allow it.

The formula is the vendor-neutral one of the QIBA SUV working group: the activity concentration
times the body weight, divided by the injected dose decayed to the time that the images are
corrected to. Where something it needs is missing the values stay what they are, and the note says
what was missing: a guessed SUV would be believed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.series.headers import number, text, texts, value

SUV_BODY_WEIGHT = "{SUVbw}g/ml"  # UCUM, as PS3.16 CID 85 has it
BECQUEREL = "Bq/ml"

# PS3.3 C.8.9.1.1.3: Units (0054,1001) → UCUM. Any other is told apart by its own word.
_UNITS = {
    "BQML": BECQUEREL,
    "CNTS": "{counts}",
    "CPS": "{counts}/s",
    "PROPCNTS": "{counts}",
    "PROPCPS": "{counts}/s",
    "NONE": "1",
}
_ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"
_LONGEST_SECONDS = 7 * 86400.0


@dataclass(frozen=True)
class PetUnits:
    """What the values of a PET series are.

    Attributes:
        units: UCUM code.
        factor: What a value after the modality LUT is multiplied with to be in these units.
        note: Why they are not SUV, in a plain sentence; "" where they are.
    """

    units: str
    factor: float
    note: str


class _MissingError(Exception):
    """Something that SUV needs is not there; the text says what."""


def pet_units(headers: Sequence[Dataset]) -> PetUnits:
    """The units of a PET series and how its values come into them.

    Args:
        headers: One a slice, of one series.

    Raises:
        MalformedError: An attribute is broken.
    """
    first = headers[0]
    if text(first, "SOPClassUID") == _ENHANCED_PET:
        declared = _mapped_units(first) or "BQML"
    else:
        declared = text(first, "Units")
    # SUVType empty means by body weight (PS3.3 C.8.9.1).
    if declared == "GML" and text(first, "SUVType") in ("", "BW"):
        return PetUnits(SUV_BODY_WEIGHT, 1.0, "")
    units = _UNITS.get(declared, f"{{{declared}}}" if declared.isalnum() else "1")
    if declared != "BQML":
        return PetUnits(units, 1.0, f"the values are not SUV: they were sent in {units}")
    try:
        return PetUnits(SUV_BODY_WEIGHT, _factor(headers), "")
    except _MissingError as missing:
        return PetUnits(BECQUEREL, 1.0, f"the values stay Bq/ml: {missing}")


def _mapped_units(header: Dataset) -> str | None:
    """The declared word for what RealWorldValueMappingSequence says, for enhanced PET."""
    mappings = value(header, "RealWorldValueMappingSequence")
    words = {"Bq/ml": "BQML", SUV_BODY_WEIGHT: "GML", "{counts}": "CNTS"}
    for mapping in mappings if isinstance(mappings, Sequence) else ():
        codes = value(mapping, "MeasurementUnitsCodeSequence")
        if isinstance(codes, Sequence) and len(codes):
            return words.get(text(codes[0], "CodeValue"), "NONE")
    return None


def _factor(headers: Sequence[Dataset]) -> float:
    """SUV by body weight for 1 Bq/ml."""
    first = headers[0]
    weight = number(first, "PatientWeight")
    if weight is None or not 0 < weight < 1000:
        raise _MissingError("PatientWeight is missing")
    drugs = value(first, "RadiopharmaceuticalInformationSequence")
    if not isinstance(drugs, Sequence) or len(drugs) != 1:
        raise _MissingError("not exactly one radiopharmaceutical is described")
    dose = number(drugs[0], "RadionuclideTotalDose")
    half_life = number(drugs[0], "RadionuclideHalfLife")
    if dose is None or half_life is None or dose <= 0 or half_life <= 0:
        raise _MissingError("RadionuclideTotalDose or RadionuclideHalfLife is missing")
    if text(first, "SOPClassUID") == _ENHANCED_PET:
        dose *= 1e6  # PS3.3 C.8.22.4: here in MBq
    elif not {"ATTN", "DECY"} <= set(texts(first, "CorrectedImage")):
        raise _MissingError("the images are not corrected for attenuation and decay")
    decayed = dose * math.exp2(-_decay_seconds(headers, drugs[0], half_life) / half_life)
    return weight * 1000.0 / decayed


def _decay_seconds(headers: Sequence[Dataset], drug: Dataset, half_life: float) -> float:
    """From the injection to the time that the images are corrected to."""
    first = headers[0]
    if text(first, "SOPClassUID") == _ENHANCED_PET:
        if text(first, "DecayCorrected") != "YES":
            raise _MissingError("the images are not corrected for decay")
        corrected_to = _moment(text(first, "DecayCorrectionDateTime"))
    else:
        correction = text(first, "DecayCorrection")
        if correction == "ADMIN":
            return 0.0
        if correction != "START":
            raise _MissingError("the images are not corrected for decay")
        corrected_to = _scan_start(headers, half_life)
    injected = _moment(text(drug, "RadiopharmaceuticalStartDateTime"))
    if corrected_to is None:
        raise _MissingError("the time of the scan is missing")
    if injected is None:
        clock = _moment(f"{corrected_to:%Y%m%d}{text(drug, 'RadiopharmaceuticalStartTime')}")
        if clock is None or not text(drug, "RadiopharmaceuticalStartTime"):
            raise _MissingError("the time of the injection is missing")
        # A time without a date: of the day of the scan, or of the one before it at midnight.
        injected = clock if clock <= corrected_to else clock - timedelta(days=1)
    seconds = (corrected_to - injected).total_seconds()
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise _MissingError("the injection does not lie before the scan")
    return seconds


def _scan_start(headers: Sequence[Dataset], half_life: float) -> datetime | None:
    """The start of the series; reckoned from each frame where a later step changed that time."""
    acquired = [_acquired(header) for header in headers]
    series = _moment(text(headers[0], "SeriesDate") + text(headers[0], "SeriesTime"))
    known = [moment for moment in acquired if moment is not None]
    if series is not None and known and series <= min(known):
        return series
    starts = []
    for header, moment in zip(headers, acquired, strict=True):
        reference = number(header, "FrameReferenceTime")
        duration = number(header, "ActualFrameDuration")
        if moment is None or reference is None or not duration or duration < 0:
            return None
        # The moment within the frame at which the activity is the frame's average.
        rate = np.log(2) / half_life
        decay = rate * duration / 1000.0
        average = np.log(decay / -np.expm1(-decay)) / rate
        starts.append(moment + timedelta(seconds=float(average) - reference / 1000.0))
    return min(starts)


def _acquired(header: Dataset) -> datetime | None:
    whole = text(header, "AcquisitionDateTime")
    return _moment(whole or text(header, "AcquisitionDate") + text(header, "AcquisitionTime"))


def _moment(written: str) -> datetime | None:
    """A DT value (PS3.5 6.2) as local time; times of one object share their zone."""
    digits = re.split("[+-]", written, maxsplit=1)[0]
    whole, _, fraction = digits.partition(".")
    if len(whole) not in (10, 12, 14) or not whole.isdecimal():
        return None
    try:
        moment = datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    part = float(f"0.{fraction}") if fraction.isdecimal() else 0.0
    return moment + timedelta(seconds=part)

"""Burned-in text: is there lettering in the pixels, and does it repeat what names the patient?

What is read is compared and forgotten: it is never kept, logged or shown.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from ai.content.lettering import Piece, Reader, read_lettering
from ai.engine import Engine
from ai.package import Package
from ai.registry import Registry
from config.errors import MalformedError, ModelError
from dicomnode.series.headers import texts
from dicomnode.series.volume import LoadedSeries

# Attributes that name the patient or where he was (PS3.15 Table E.1-1), and the fewest letters and
# digits of each that are no coincidence.
_NAMING: Final = {
    "PatientName": 3,
    "PatientID": 4,
    "OtherPatientIDs": 4,
    "PatientBirthDate": 6,
    "AccessionNumber": 4,
    "ReferringPhysicianName": 3,
    "InstitutionName": 5,
}
_ONE_WRONG_IN = 8  # characters: what reading may get wrong


@dataclass(frozen=True)
class Written:
    """What was found in the pixels of one image.

    Attributes:
        pieces: How many pieces of lettering.
        named: Attributes of the header that they repeat.
    """

    pieces: int
    named: tuple[str, ...]

    @property
    def doubt(self) -> str | None:
        """Why a person should look, in a plain sentence; None without lettering."""
        if not self.pieces:
            return None
        many = "1 piece" if self.pieces == 1 else f"{self.pieces} pieces"
        repeated = f", which repeats {' and '.join(self.named)} of the header" if self.named else ""
        return f"{many} of lettering in the pixels{repeated}"


@dataclass(frozen=True)
class BurnedIn:
    """How one run is checked for burned-in text.

    Attributes:
        check: Looks for it.
        strict: The model does not run where the text repeats what names the patient.
    """

    check: LetteringCheck
    strict: bool


class LetteringCheck:
    """Looks for lettering with the model that the settings name; threads may share one.

    Args:
        registry: Holds the model.
        engine: Runs it.
        model: Its reference.
    """

    def __init__(self, registry: Registry, engine: Engine, model: str) -> None:
        self._registry = registry
        self._engine = engine
        self._model = model
        self._lock = threading.Lock()
        self._readers: dict[str, Reader] = {}

    @property
    def reference(self) -> str:
        """``name@version`` of the model; what the settings name where there is none."""
        try:
            return self._registry.find(self._model).manifest.reference
        except ModelError:
            return self._model

    def look(self, series: LoadedSeries) -> Written | None:
        """What is written in an image; None where the model does not take such images.

        Raises:
            ModelError: There is no such model, its files are wrong, or it gave no usable answer;
                it names this model as the one at fault.
        """
        reference = self.reference
        try:
            package = self._registry.find(self._model)
            if package.accepts(series.volume, series.modality) is not None:
                return None
            found = read_lettering(package, self._engine, self._reader(package), series.volume)
            pieces = [piece for piece in found if piece.is_lettering]
        except ModelError as error:
            error.by = reference
            raise
        return Written(len(pieces), named_in(pieces, series.headers[0]))

    def _reader(self, package: Package) -> Reader:
        with self._lock:
            if package.digest not in self._readers:
                self._readers = {package.digest: Reader(package)}
            return self._readers[package.digest]


def named_in(pieces: list[Piece], header: Dataset) -> tuple[str, ...]:
    """Attributes of a header that lettering repeats, one wrong character in eight allowed."""
    read = [_plain(piece.text) for piece in pieces]
    return tuple(
        keyword
        for keyword, least in _NAMING.items()
        if any(_is_in(value, text) for value in _values(header, keyword, least) for text in read)
    )


def _values(header: Dataset, keyword: str, least: int) -> list[str]:
    try:
        held = texts(header, keyword)
    except MalformedError:
        return []
    found = [each for value in held for each in _forms(keyword, value)]
    return [plain for plain in map(_plain, found) if len(plain) >= least]


def _forms(keyword: str, value: str) -> list[str]:
    if keyword.endswith("Name") and keyword != "InstitutionName":
        # PS3.5 6.2.1: groups of a name are divided by =, its components by ^.
        return value.replace("=", "^").replace(" ", "^").split("^")
    if keyword == "PatientBirthDate" and len(value) == 8:
        year, month, day = value[:4], value[4:6], value[6:]
        return [value, day + month + year, month + day + year]
    return [value]


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.upper()))


def _is_in(value: str, text: str) -> bool:
    size, wrong = len(value), len(value) // _ONE_WRONG_IN
    return any(
        sum(a != b for a, b in zip(value, text[at : at + size], strict=True)) <= wrong
        for at in range(len(text) - size + 1)
    )

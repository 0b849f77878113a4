"""A dry run on files: what the node would do with them, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ai.registry import Registry
from config.errors import InputError
from config.schema import RouteSettings
from dicomnode.series.headers import read_header, text
from dicomnode.series.priors import Entries, earlier_among
from dicomnode.series.study import StudyExplanation, explain_study
from dicomnode.series.unit import UnitExplanation, explain_unit, units_of


@dataclass(frozen=True)
class RefusedFile:
    """A file that is no DICOM object to work with, and why in one sentence."""

    path: Path
    why: str


@dataclass(frozen=True)
class Explanation:
    """What the node would do with files.

    Attributes:
        units: All that were found, in the order of their first file.
        studies: For each study, what each route of studies comes to.
        refused: The files that hold none.
    """

    units: tuple[UnitExplanation, ...]
    refused: tuple[RefusedFile, ...]
    studies: tuple[StudyExplanation, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {
            "series": [
                {**entry.as_json(), "files": [str(path) for path in entry.unit.files]}
                for entry in self.units
            ],
            "studies": [entry.as_json() for entry in self.studies],
            "refused": [{**asdict(file), "path": str(file.path)} for file in self.refused],
        }

    def sentences(self) -> Iterator[str]:
        """The same for a reader, a line each."""
        for entry in self.units:
            yield from entry.sentences()
        for study in self.studies:
            yield from study.sentences()
        for file in self.refused:
            yield f"{file.path}: not taken: {file.why}"


def explain(
    paths: Iterable[Path],
    routes: Sequence[RouteSettings],
    registry: Registry,
    made_here: Callable[[Dataset], bool],
) -> Explanation:
    """Say what the node would do with files.

    Args:
        paths: Files, or folders that are searched for files.
        routes: The routes of the settings.
        registry: The models that routes may name.
        made_here: Whether the node made an object.

    Raises:
        SettingsError: A rule is wrong.
    """
    files, headers, refused = [], [], []
    for path in _files(paths):
        try:
            headers.append(read_header(path))
            files.append(path)
        except InputError as error:
            refused.append(RefusedFile(path, str(error)))
    units = tuple(
        explain_unit(unit, routes, registry, made_here) for unit in units_of(files, headers)
    )
    by_study: dict[str, list[UnitExplanation]] = {}
    for entry in units:
        uid = text(entry.unit.headers[0], "StudyInstanceUID")
        by_study.setdefault(uid, []).append(entry)
    studies = tuple(
        found
        for uid, entries in by_study.items()
        for found in explain_studies(entries, routes, registry, earlier_among(by_study, uid))
    )
    return Explanation(units, tuple(refused), studies)


def explain_studies(
    entries: Sequence[UnitExplanation],
    routes: Sequence[RouteSettings],
    registry: Registry,
    earlier: Iterable[Entries] = (),
) -> list[StudyExplanation]:
    """What each route of studies does with one study.

    Args:
        entries: Every unit of the study; none where nothing is left of it.
        routes: The routes of the settings; those of series are not asked here.
        registry: The models that routes may name.
        earlier: Every unit of each earlier study of the patient, the newest first.
    """
    asked = [route for route in routes if route.scope == "study"] if entries else []
    return [found for route in asked for found in explain_study(entries, route, registry, earlier)]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(entry for entry in path.rglob("*") if entry.is_file())
        else:
            yield path

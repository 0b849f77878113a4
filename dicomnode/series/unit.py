"""What one model run looks at, and what the node does with it and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ai.package import Package
from ai.registry import Registry
from config.errors import MalformedError, ModelError, SeriesError
from config.schema import RouteSettings
from dicomnode.series.assembly import Announced, announced_by
from dicomnode.series.conditions import Outcome
from dicomnode.series.facts import Facts, facts_of
from dicomnode.series.headers import slices_of, text
from dicomnode.series.kinds import subject_of
from dicomnode.series.quality import Quality, assess
from dicomnode.series.routing import WHY_NOT_ROUTED, Answer, route_series
from dicomnode.series.split import (
    LIVE,
    SHADOW,
    Asked,
    missed_canary,
    shadow_of,
    versions_for,
)
from dicomnode.series.volume import outline


@dataclass(frozen=True)
class Unit:
    """What one model run would look at: a series, or one object that stands by itself.

    Attributes:
        subject: Series Instance UID, SOP Instance UID of the object that stands by itself, or
            Concatenation UID.
        series_instance_uid: The series it is, or is part of.
        files: In the order given.
        headers: One a slice; one a file where a file contradicts itself about its frames.
    """

    subject: str
    series_instance_uid: str
    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]


@dataclass(frozen=True)
class Run:
    """One matched route and what stands in its way.

    Attributes:
        package: The model that runs; None when there is none, or when it cannot take the input.
        why_not: Why it does not run, or why its canary does not, in plain words; None where
            nothing stands in the way.
        mode: ``live``, or ``shadow`` for what runs beside it and is not delivered.
    """

    route: RouteSettings
    package: Package | None
    why_not: str | None
    mode: str = LIVE

    def __str__(self) -> str:
        reference = self.package.manifest.reference if self.package is not None else "no model"
        return reference if self.mode == LIVE else f"{reference} in shadow"


@dataclass(frozen=True)
class UnitExplanation:
    """What the node would do with one unit, and why.

    Attributes:
        unit: What was looked at.
        facts: The facts that rules can ask about.
        quality: Whether it can be given to a model.
        answer: The routes that matched, or why none.
        matched: One a matched route, in order.
        shadows: What runs beside them, in no way of theirs.
    """

    unit: Unit
    facts: Facts
    quality: Quality
    answer: Answer
    matched: tuple[Run, ...]
    shadows: tuple[Run, ...] = ()

    @property
    def runs(self) -> tuple[tuple[RouteSettings, Package], ...]:
        """The routes that lead to a run, each with its model."""
        return tuple((run.route, run.package) for run in self.matched if run.package is not None)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Everything that is to run, in shadow too."""
        return tuple(
            Asked(run.route, run.package, run.mode)
            for run in (*self.matched, *self.shadows)
            if run.package is not None
        )

    @property
    def outcome(self) -> str:
        """The one answer in a sentence: the models that would run, or why none would."""
        if self.answer.why_none:
            return f"No model: {WHY_NOT_ROUTED[self.answer.why_none]}."
        every = (*self.matched, *self.shadows)
        lacking = "; ".join(run.why_not for run in every if run.why_not is not None)
        there = ", ".join(str(run) for run in every if run.package is not None)
        if not there:
            return f"No model: {lacking}."
        return f"Goes to {there}" + (f"; {lacking}." if lacking else ".")

    @property
    def announced(self) -> Announced | None:
        """How many images its headers announce; nothing of an object that stands by itself."""
        unit = self.unit
        return announced_by(unit.headers) if unit.subject == unit.series_instance_uid else None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`, without file names."""
        return {
            "announced": asdict(self.announced) if self.announced else None,
            "series_instance_uid": self.unit.series_instance_uid,
            "subject": self.unit.subject,
            "facts": self.facts.as_json(),
            "quality": self.quality.as_json(),
            **self.answer.as_json(),
            "models": [package.manifest.reference for _, package in self.runs],
            "shadows": [run.package.manifest.reference for run in self.asked if run.mode == SHADOW],
            "outcome": self.outcome,
        }

    def sentences(self) -> Iterator[str]:
        """The same for a reader, a line each."""
        quality, files = self.quality, len(self.unit.files)
        what = f"{files} files" if files != 1 else str(self.unit.files[0])
        yield f"Series {self.unit.series_instance_uid}: {quality.modality or 'no modality'}, {what}"
        if self.announced is not None:
            yield f"  Its headers announce {self.announced.instances} images, {files} are here"
        yield "  Facts: " + ", ".join(
            f"{key} {'not known' if found is None else str(found).lower()}"
            for key, found in self.facts.as_json().items()
        )
        if quality.ok:
            yield f"  Quality: sound, values in {quality.units}"
        for note in quality.notes:
            yield f"  Note: {note.code}: {note.text}"
        for reason in quality.reasons:
            yield f"  Quality: {reason.code}: {reason.text}"
        for decision in self.answer.decisions:
            verdict = "matches" if decision.matched else "does not match"
            yield f"  Route {decision.route!r} ({decision.model}) {verdict}"
            yield from _outcome_lines(decision.outcomes, "    ")
        yield f"  {self.outcome}"


def units_of(paths: Sequence[Path], headers: Sequence[Dataset]) -> list[Unit]:
    """Sort files into what models look at, in the order of the first file of each.

    Args:
        paths: Files of any series.
        headers: One a file.
    """
    groups: dict[tuple[str, str], list[tuple[Path, Dataset]]] = {}
    for path, header in zip(paths, headers, strict=True):
        series = text(header, "SeriesInstanceUID")
        groups.setdefault((series, subject_of(header)), []).append((path, header))
    return [
        Unit(subject, series, tuple(path for path, _ in members), _slices(members))
        for (series, subject), members in groups.items()
    ]


def _slices(members: Sequence[tuple[Path, Dataset]]) -> tuple[Dataset, ...]:
    headers = tuple(header for _, header in members)
    try:
        return slices_of(headers)
    except MalformedError:  # the verdict on them says so
        return headers


def explain_unit(
    unit: Unit,
    routes: Sequence[RouteSettings],
    registry: Registry,
    made_here: Callable[[Dataset], bool],
) -> UnitExplanation:
    """Say what the node does with one unit. The node itself acts on this very answer.

    Args:
        unit: From `units_of`.
        routes: The routes of the settings.
        registry: The models that routes may name.
        made_here: Whether the node made an object.

    Raises:
        SettingsError: A rule is wrong.
    """
    quality = assess(unit.headers)
    answer = route_series(unit.headers, routes, made_here)
    matched = tuple(_run(route, unit, quality, registry) for route in answer.matched)
    beside = (_shadow(run, unit, quality, registry) for run in matched)
    shadows = tuple(run for run in beside if run is not None)
    return UnitExplanation(unit, facts_of(unit.headers), quality, answer, matched, shadows)


def _run(route: RouteSettings, unit: Unit, quality: Quality, registry: Registry) -> Run:
    if not quality.ok:
        return Run(route, None, "; ".join(reason.text for reason in quality.reasons))
    try:
        study = text(unit.headers[0], "StudyInstanceUID")
        packages = versions_for(route, study, registry)
    except (ModelError, MalformedError) as error:
        return Run(route, None, str(error))
    missed = missed_canary(route, study, registry)
    misfits = [missed] if missed else []
    for package in packages:
        misfit = _misfit(package, unit, quality)
        if misfit is None:
            return Run(route, package, "; ".join(misfits) or None)
        misfits.append(misfit)
    return Run(route, None, "; ".join(misfits))


def _shadow(live: Run, unit: Unit, quality: Quality, registry: Registry) -> Run | None:
    package = shadow_of(live.route, live.package, registry)
    if package is None or not quality.ok:
        return None
    misfit = _misfit(package, unit, quality)
    return Run(live.route, None if misfit else package, misfit, SHADOW)


def _misfit(package: Package, unit: Unit, quality: Quality) -> str | None:
    try:
        misfit = package.accepts(outline(unit.headers, quality), quality.modality)
    except SeriesError as error:
        return str(error)
    return f"{package.manifest.reference} cannot take it: {misfit}" if misfit else None


def _outcome_lines(outcomes: Sequence[Outcome], indent: str) -> Iterator[str]:
    for outcome in outcomes:
        mark = "yes" if outcome.held else "no "
        yield f"{indent}{mark} {outcome.key}: wanted {outcome.wanted}; found {outcome.found}"
        yield from _outcome_lines(outcome.parts, indent + "  ")

"""Which series of a study a route picks for each input of its model, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ai.inputs import Input
from ai.package import Package
from ai.registry import Registry
from config.errors import MalformedError, ModelError, SeriesError
from config.schema import RouteInputSettings, RouteSettings
from dicomnode.series.conditions import Outcome, compile_rule
from dicomnode.series.headers import text
from dicomnode.series.priors import Entries, contradiction
from dicomnode.series.routing import Decision, decision_of
from dicomnode.series.split import LIVE, SHADOW, missed_canary, shadow_of, versions_for
from dicomnode.series.unit import Unit, UnitExplanation
from dicomnode.series.volume import outline


@dataclass(frozen=True)
class Candidate:
    """One series, or object that stands by itself, held against one input.

    Attributes:
        subject: As of its unit.
        decision: The conditions of the route and of the input.
        rank: Place of the first condition in `prefer` that holds, from 0; their number where none
            does.
        why_not: Why it cannot be this input although its conditions hold; None where it can.
    """

    subject: str
    decision: Decision
    rank: int
    why_not: str | None

    @property
    def fits(self) -> bool:
        """Whether it may be chosen."""
        return self.decision.matched and self.why_not is None


@dataclass(frozen=True)
class Choice:
    """What was chosen for one input, and of what.

    Attributes:
        role: The input.
        optional: The model runs without it.
        unit: What was chosen, or None.
        candidates: Everything that was looked at, the preferred first.
    """

    role: str
    optional: bool
    unit: Unit | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class StudyExplanation:
    """What one route of studies does with a study, and why.

    Attributes:
        package: The model that runs, or None.
        choices: One an input, the primary one first; none where the model is not there.
        why_not: Why nothing runs, or why the canary does not, in plain words; None where nothing
            stands in the way.
        mode: ``live``, or ``shadow`` for what runs beside it and is not delivered.
    """

    study_instance_uid: str
    route: RouteSettings
    package: Package | None
    choices: tuple[Choice, ...]
    why_not: str | None
    mode: str = LIVE

    @property
    def inputs(self) -> dict[str, Unit]:
        """What was chosen, by role, the primary input first."""
        return {choice.role: choice.unit for choice in self.choices if choice.unit is not None}

    @property
    def outcome(self) -> str:
        """The answer in a sentence."""
        if self.package is None:
            return f"No model: {self.why_not}."
        given = ", ".join(f"{role} {unit.subject}" for role, unit in self.inputs.items())
        beside = " in shadow" if self.mode == SHADOW else ""
        lacking = f"; {self.why_not}" if self.why_not else ""
        return f"Goes to {self.package.manifest.reference}{beside} with {given}{lacking}."

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {
            "study_instance_uid": self.study_instance_uid,
            "route": self.route.name,
            "model": self.package.manifest.reference if self.package else None,
            "mode": self.mode,
            "inputs": {role: unit.subject for role, unit in self.inputs.items()},
            "choices": [
                {
                    "role": choice.role,
                    "optional": choice.optional,
                    "candidates": [asdict(candidate) for candidate in choice.candidates],
                }
                for choice in self.choices
            ],
            "outcome": self.outcome,
        }

    def sentences(self) -> Iterator[str]:
        """The same for a reader, a line each."""
        yield f"Study {self.study_instance_uid}: route {self.route.name!r} ({self.route.model})"
        for choice in self.choices:
            needed = " (optional)" if choice.optional else ""
            found = f"is {choice.unit.subject}" if choice.unit else "is not there"
            yield f"  Input {choice.role!r}{needed} {found}"
            for candidate in choice.candidates:
                yield f"    {candidate.subject}: {_said(candidate)}"
                yield from _lines(candidate.decision.outcomes, "      ")
        yield f"  {self.outcome}"


def explain_study(
    entries: Sequence[UnitExplanation],
    route: RouteSettings,
    registry: Registry,
    earlier: Iterable[Entries] = (),
) -> Iterator[StudyExplanation]:
    """Say what a route of studies does. The node itself acts on this very answer.

    Args:
        entries: Every unit of one study.
        route: With ``scope = "study"``.
        registry: The models that it may name.
        earlier: Every unit of each earlier study of the patient, the newest first; read only as
            far as a model asks for them.

    Yields:
        What answers, and after it what runs in shadow where something does.

    Raises:
        SettingsError: A rule is wrong.
    """
    study = text(entries[0].unit.headers[0], "StudyInstanceUID")
    try:
        packages = versions_for(route, study, registry)
    except ModelError as error:
        yield StudyExplanation(study, route, None, (), str(error))
        live = None
    else:
        tried = [_with(package, entries, route, earlier) for package in packages]
        found = next((each for each in tried if each.package is not None), tried[-1])
        if found.package is not None:
            found = replace(found, why_not=missed_canary(route, study, registry))
        yield found
        live = found.package
    shadow = shadow_of(route, live, registry)
    if shadow is not None:
        yield replace(_with(shadow, entries, route, earlier), mode=SHADOW)


def _with(
    package: Package, entries: Entries, route: RouteSettings, earlier: Iterable[Entries]
) -> StudyExplanation:
    """What a route of studies comes to with one version of its model."""
    study = text(entries[0].unit.headers[0], "StudyInstanceUID")
    manifest = package.manifest
    specs = sorted(manifest.inputs, key=lambda spec: not spec.primary)
    asked = {entry.role: entry for entry in route.inputs}
    unknown = sorted(asked.keys() - {spec.role for spec in specs})
    if unknown:
        why = f"{manifest.reference} has no input {' or '.join(map(repr, unknown))}"
        return StudyExplanation(study, route, None, (), why)
    choices: list[Choice] = []
    for spec in specs:
        taken = [choice.unit for choice in choices if choice.unit is not None]
        wanted = asked.get(spec.role) or RouteInputSettings(role=spec.role)
        candidates: tuple[Candidate, ...] = ()
        for study_entries in earlier if spec.prior else [entries]:
            # What is no image, and what this node made, is not even shown to the rules.
            judged = [
                (_candidate(entry, route, wanted, _misfit(entry, package, spec, taken)), entry)
                for entry in study_entries
                if not entry.answer.never
            ]
            choice = _choice(spec, judged)
            candidates += choice.candidates
            if choice.unit is not None:
                break
        else:
            choice = Choice(spec.role, spec.optional, None, ())
        choices.append(replace(choice, candidates=candidates))
    missing = [choice.role for choice in choices if choice.unit is None and not choice.optional]
    if missing:
        prior = {spec.role for spec in specs if spec.prior}
        why = " and ".join(
            f"nothing in {'an earlier study of the patient' if role in prior else 'the study'}"
            f" is the input {role!r}"
            for role in missing
        )
        return StudyExplanation(study, route, None, tuple(choices), why)
    return StudyExplanation(study, route, package, tuple(choices), None)


def _candidate(
    entry: UnitExplanation, route: RouteSettings, wanted: RouteInputSettings, why_not: str | None
) -> Candidate:
    decision = decision_of(route, (route.when, wanted.when), entry.facts)
    return Candidate(
        entry.unit.subject, decision, _rank(wanted.prefer or route.prefer, entry), why_not
    )


def _choice(spec: Input, judged: list[tuple[Candidate, UnitExplanation]]) -> Choice:
    # Of equals the one with more slices; the UID makes the order the same on any day.
    judged.sort(
        key=lambda pair: (not pair[0].fits, pair[0].rank, -pair[1].facts.slices, pair[0].subject)
    )
    best = next((entry.unit for candidate, entry in judged if candidate.fits), None)
    return Choice(spec.role, spec.optional, best, tuple(candidate for candidate, _ in judged))


def _rank(prefer: Sequence[Mapping[str, Any]], entry: UnitExplanation) -> int:
    for place, condition in enumerate(prefer):
        if all(outcome.held for outcome in compile_rule(condition).check(entry.facts)):
            return place
    return len(prefer)


def _misfit(
    entry: UnitExplanation, package: Package, spec: Input, taken: Sequence[Unit]
) -> str | None:
    """Why an entry cannot be an input, where `taken` are chosen already, the primary one first."""
    quality, unit = entry.quality, entry.unit
    if unit in taken:
        return "it is another input"
    if not quality.ok:
        return "; ".join(reason.text for reason in quality.reasons)
    try:
        if spec.prior:
            other = contradiction(taken[0].headers[0], unit.headers[0]) if taken else None
            if other is not None:
                return other
        elif taken and _space(taken[0]) != _space(unit):
            return "it lies in another frame of reference than the primary input"
        return package.accepts(outline(unit.headers, quality), quality.modality, spec.role)
    except (SeriesError, MalformedError) as error:
        return str(error)


def _space(unit: Unit) -> str:
    return text(unit.headers[0], "FrameOfReferenceUID")


def _said(candidate: Candidate) -> str:
    if not candidate.decision.matched:
        return "its conditions do not hold"
    if candidate.why_not is not None:
        return candidate.why_not
    return f"fits, preferred as number {candidate.rank + 1}"


def _lines(outcomes: Sequence[Outcome], indent: str) -> Iterator[str]:
    for outcome in outcomes:
        mark = "yes" if outcome.held else "no "
        yield f"{indent}{mark} {outcome.key}: wanted {outcome.wanted}; found {outcome.found}"
        yield from _lines(outcome.parts, indent + "  ")

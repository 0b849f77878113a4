"""Which models a series goes to, and why: one answer a series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydicom.dataset import Dataset

from config.errors import MalformedError
from config.schema import RouteSettings
from dicomnode.series.conditions import Outcome, compile_rule
from dicomnode.series.facts import Facts, facts_of
from dicomnode.series.headers import count, text

# Storage classes whose objects are no images to be read, by the beginning of their UID (PS3.4 B.5).
NOT_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.30",  # parametric map
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registration, fiducials, segmentations, surfaces
    "1.2.840.10008.5.1.4.1.1.67",  # real world value mapping
    "1.2.840.10008.5.1.4.1.1.68.",  # surface scans
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.200.",  # content assessment results
    "1.2.840.10008.5.1.4.34.",  # procedure steps, delivery instructions
)
OWN_RESULT = "own-result"
NOT_AN_IMAGE = "not-an-image"
NO_RULE = "no-rule"
ASKS_FOR_DERIVED = frozenset({"derived", "ImageType", "SOPClassUID"})

WHY_NOT_ROUTED = {
    OWN_RESULT: "it holds results of this node, which are never analysed again",
    NOT_AN_IMAGE: "it holds documents, segmentations or the like, which are never analysed",
    NO_RULE: "no rule asks for it",
}


@dataclass(frozen=True)
class Decision:
    """What one route says about a series.

    Attributes:
        route: Its name.
        model: The model it names.
        matched: Whether all its conditions hold.
        outcomes: Every condition with what was wanted and found, in the order of the file.
    """

    route: str
    model: str
    matched: bool
    outcomes: tuple[Outcome, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """The one routing answer of a series: matched routes, or why there are none.

    Attributes:
        matched: The routes it takes, in the order of the file.
        why_none: ``own-result``, ``not-an-image`` or ``no-rule``; None when a route matched.
        decisions: One a route; empty where no rule was asked.
    """

    matched: tuple[RouteSettings, ...]
    why_none: str | None
    decisions: tuple[Decision, ...]

    @property
    def never(self) -> bool:
        """Whether it is not even shown to the rules."""
        return self.why_none in (OWN_RESULT, NOT_AN_IMAGE)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return {
            "routes": [route.name for route in self.matched],
            "why_none": self.why_none,
            "decisions": [decision.as_json() for decision in self.decisions],
        }


def route_series(
    headers: Sequence[Dataset],
    routes: Sequence[RouteSettings],
    made_here: Callable[[Dataset], bool],
) -> Answer:
    """Give a series its answer.

    Args:
        headers: One or more headers of one series, in any order.
        routes: The routes of the settings; those of studies are not asked here.
        made_here: Whether this node made the object.

    Raises:
        SettingsError: A rule is wrong.
    """
    why = not_routed(headers, made_here)
    if why is not None:
        return Answer((), why, ())
    routes = [route for route in routes if route.scope == "series"]
    decisions = decide(routes, facts_of(headers))
    matched = tuple(
        route for route, decision in zip(routes, decisions, strict=True) if decision.matched
    )
    return Answer(matched, None if matched else NO_RULE, decisions)


def decide(routes: Sequence[RouteSettings], facts: Facts) -> tuple[Decision, ...]:
    """Ask every route, in order.

    Raises:
        SettingsError: A rule is wrong.
    """
    return tuple(decision_of(route, (route.when,), facts) for route in routes)


def not_routed(headers: Sequence[Dataset], made_here: Callable[[Dataset], bool]) -> str | None:
    """Why a series is not even shown to the rules, or None.

    One object that this node made, or one that is no image, is enough.

    Returns:
        ``own-result``, ``not-an-image`` or None.
    """
    if any(map(made_here, headers)):
        return OWN_RESULT
    return None if all(map(_is_image, headers)) else NOT_AN_IMAGE


def decision_of(route: RouteSettings, whens: Sequence[Mapping[str, Any]], facts: Facts) -> Decision:
    """Ask a route whether a series passes these ``when`` tables, all of them.

    Raises:
        SettingsError: A rule is wrong.
    """
    rules = [compile_rule(when) for when in whens]
    outcomes = tuple(outcome for rule in rules for outcome in rule.check(facts))
    if facts.derived and not any(rule.keys & ASKS_FOR_DERIVED for rule in rules):
        outcomes += (Outcome("derived", "false, as the rule does not ask for it", "true", False),)
    matched = all(outcome.held for outcome in outcomes)
    return Decision(route.name, route.model, matched, outcomes)


def _is_image(header: Dataset) -> bool:
    try:
        sop_class = text(header, "SOPClassUID")
        has_pixels = bool(count(header, "Rows") and count(header, "Columns"))
    except MalformedError:
        return False
    return has_pixels and not sop_class.startswith(NOT_IMAGES)

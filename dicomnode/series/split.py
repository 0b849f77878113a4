"""Which version of its model a route gives a study to: the serving one, a canary, a shadow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ai.package import Package
from ai.registry import Registry
from config.errors import ModelError
from config.schema import RouteSettings

LIVE, SHADOW = "live", "shadow"
_MAY_ANSWER = ("validation", "production")


@dataclass(frozen=True)
class Asked:
    """One run that a route asks for.

    Attributes:
        package: The version of its model.
        mode: ``live``, or ``shadow`` for one that is not delivered.
    """

    route: RouteSettings
    package: Package
    mode: str = LIVE


def share(model: str, study_instance_uid: str) -> float:
    """Where a study lies between 0 and 100, the same at any time and on any node.

    Over many studies the places are spread evenly; each model has an order of its own, and the
    routes of one model agree. A study whose place lies below the percentage is on the canary's
    side, so a growing percentage takes studies over and gives none back.
    """
    digest = hashlib.sha256(f"{model}\n{study_instance_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def on_canary_side(route: RouteSettings, study_instance_uid: str) -> bool:
    """Whether a study is one of those that the route gives to its canary."""
    name = route.model.partition("@")[0]
    return share(name, study_instance_uid) < route.canary


def versions_for(
    route: RouteSettings, study_instance_uid: str, registry: Registry
) -> tuple[Package, ...]:
    """The versions that may answer a study, the one that is to answer first.

    A canary answers only where it can take the input; then comes the version that serves.

    Raises:
        ModelError: There is none.
    """
    canary = canary_of(route, registry) if on_canary_side(route, study_instance_uid) else None
    try:
        serving = registry.find(route.model)
    except ModelError:
        if canary is None:
            raise
        return (canary,)
    return (serving,) if canary is None or canary == serving else (canary, serving)


def canary_of(route: RouteSettings, registry: Registry) -> Package | None:
    """The route's canary, or None where there is none; one in development answers nobody."""
    try:
        if route.canary_model is None:
            return registry.candidate(route.model.partition("@")[0])
        return None if silent_canary(route, registry) else registry.find(route.canary_model)
    except ModelError:
        return None


def silent_canary(route: RouteSettings, registry: Registry) -> str | None:
    """Why the canary that a route names answers nobody, as the end of a sentence; else None."""
    if route.canary_model is None:
        return None
    try:
        status = registry.status(registry.find(route.canary_model))
    except ModelError as error:
        return f"the canary {route.canary_model} answers nobody: {error}"
    if status in _MAY_ANSWER:
        return None
    return f"the canary {route.canary_model} answers nobody: it is in {status}"


def missed_canary(route: RouteSettings, study_instance_uid: str, registry: Registry) -> str | None:
    """As `silent_canary`, of a study that it would answer; None for the others."""
    on_side = on_canary_side(route, study_instance_uid)
    return silent_canary(route, registry) if on_side else None


def shadow_of(route: RouteSettings, live: Package | None, registry: Registry) -> Package | None:
    """What runs beside the version that answers, or None; never that very version."""
    if route.shadow is False:
        return None
    try:
        if route.shadow is True:
            package = registry.candidate(route.model.partition("@")[0])
        else:
            package = registry.find(route.shadow)
    except ModelError:
        return None
    return None if package == live else package

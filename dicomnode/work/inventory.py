"""Every model of a site in rows: where it stands, which routes use it, how it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ai.inputs import Input
from ai.manifest import Manifest
from ai.outputs import Output
from ai.package import Package
from ai.registry import Registry
from config.errors import ModelError
from config.schema import RouteSettings, Settings
from dicomnode.series.split import canary_of, shadow_of
from dicomnode.work.models import make_registry
from storage import figures, versus

WINDOW_SECONDS = 30 * 86400.0
"""How far back the runs lie whose times are shown."""

_NO_FIGURES = {"provider": None, "runs": 0, "p50_seconds": None, "p95_seconds": None}


def inventory(settings: Settings, registry: Registry, *, figured: bool) -> list[dict[str, Any]]:
    """One row a version, by name and rising version, as plain values.

    Args:
        settings: The node's settings.
        registry: Its models.
        figured: Whether the database is open, where the figures lie.
    """
    used = uses(settings, registry)
    return [
        _row(package, registry, used.get(package.manifest.reference, []))
        | (_figures(package.manifest.reference) if figured else _NO_FIGURES)
        for package in registry.packages()
    ]


def in_use(settings: Settings) -> list[dict[str, Any]]:
    """The versions that routes use, with where they stand, as plain values."""
    registry = make_registry(settings, prove=False)
    used = uses(settings, registry)
    return [
        {
            "model": package.manifest.reference,
            "status": registry.status(package),
            "routes": used[package.manifest.reference],
        }
        for package in registry.packages()
        if package.manifest.reference in used
    ]


def uses(settings: Settings, registry: Registry) -> dict[str, list[str]]:
    """Which routes use each version, ``name@version``, and how."""
    found: dict[str, list[str]] = {}
    for route in settings.routes:
        for package, how in _used_by(route, registry):
            said = f"{route.name} ({how})" if how else route.name
            found.setdefault(package.manifest.reference, []).append(said)
    return found


def _used_by(route: RouteSettings, registry: Registry) -> Iterator[tuple[Package, str]]:
    serving = None
    try:
        serving = registry.find(route.model)
        yield serving, ""
    except ModelError:  # the list shows that nothing serves the route
        pass
    canary = canary_of(route, registry) if route.canary else None
    if canary is not None and canary != serving:
        yield canary, f"canary {route.canary:g} %"
    shadow = shadow_of(route, serving, registry)
    if shadow is not None:
        yield shadow, "shadow"


def idle_routes(settings: Settings, registry: Registry) -> list[str]:
    """Names of the routes whose model has no version that serves."""
    serving = {name for names in uses(settings, registry).values() for name in names}
    return [route.name for route in settings.routes if route.name not in serving]


def _row(package: Package, registry: Registry, routes: list[str]) -> dict[str, Any]:
    manifest = package.manifest
    in_production = registry.in_production(manifest.name)
    return {
        "model": manifest.reference,
        "status": registry.status(package),
        "serves": bool(in_production) and in_production[-1] == package,
        "routes": routes,
        "basis": manifest.basis,
        "modality": list(manifest.input.modality),
        "results": list(manifest.results),
        "shapes": {spec.tensor: _shape(spec) for spec in manifest.inputs},
        "thresholds": thresholds(manifest.output),
        "clinical_domain": manifest.clinical_domain,
        "regulatory_ids": list(manifest.regulatory_ids),
        "digest": package.digest,
        "vendor": manifest.vendor,
        "licence": manifest.licence,
        "intended_use": manifest.intended_use,
        "description": manifest.description,
        "variants": _variants(manifest),
    }


def _shape(spec: Input) -> str:
    size = " × ".join(map(str, spec.size)) if spec.size else "any size"
    return f"{spec.layout}, {size}"


def _variants(manifest: Manifest) -> list[str]:
    return [entry.precision for entry in manifest.variants]


def thresholds(output: Output) -> dict[str, float]:
    """From which probability on each finding, segment or kind of box is reported."""
    found = {entry.name: entry.score.threshold for entry in output.finding if entry.score}
    if output.labels is not None and output.labels.select == "threshold":
        found |= {entry.label: entry.threshold for entry in output.segment}
    if output.boxes is not None:
        usual = output.boxes.threshold
        found |= {
            entry.name: usual if entry.threshold is None else entry.threshold
            for entry in output.object
        }
    return found


def _figures(reference: str) -> dict[str, Any]:
    """What ran a version last, live or in shadow, and its times without the queue."""
    since = time.time() - WINDOW_SECONDS
    took = versus.run_seconds(reference, since)
    return {
        "provider": figures.last_provider(reference, since),
        "runs": len(took),
        "p50_seconds": figures.quantile(took, 0.5) if took else None,
        "p95_seconds": figures.quantile(took, 0.95) if took else None,
    }

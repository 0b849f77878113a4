"""The models of a node, as its settings name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai.registry import Registry, bundled_models_path
from config.schema import Settings

if TYPE_CHECKING:
    from ai.engine import Engine


def make_registry(settings: Settings) -> Registry:
    """The bundled models and the site's own."""
    return Registry([bundled_models_path(), settings.models.path])


def make_engine(settings: Settings, registry: Registry) -> Engine:
    """Runs models with one runtime thread for each thread that runs jobs."""
    from ai.engine import Engine  # noqa: PLC0415 - loads the runtime, which not every command needs
    from ai.session import SessionCache  # noqa: PLC0415

    return Engine(registry, SessionCache(settings.models.providers, 1))

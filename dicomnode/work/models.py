"""The models of a node, as its settings name them and its database says where they stand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ai.package import Package, read_package
from ai.registry import Registry, Standing, bundled_models_path
from config.errors import ModelError
from config.schema import ModelsSettings, Settings
from storage import versions

if TYPE_CHECKING:
    from ai.engine import Engine

log = structlog.get_logger(__name__)


def make_registry(
    settings: Settings, data_dir: Path | None = None, *, prove: bool = True
) -> Registry:
    """The bundled models and the site's own.

    Args:
        settings: The node's settings.
        data_dir: Its data folder, where the settings name another one.
        prove: Without it files are not read, for a list.
    """
    folder = settings.node.data_dir if data_dir is None else data_dir

    def standings() -> Mapping[str, Standing]:
        return {
            reference: Standing(state, digest, rank)  # type: ignore[arg-type]  # of its table
            for reference, state, digest, rank in versions.peek(folder)
        }

    return Registry(
        [bundled_models_path(), settings.models.path],
        standings=standings,
        demand=lambda package: demand_signature(settings.models, package),
        read=lambda folder: read_package(folder, prove=prove),
    )


def demand_signature(models: ModelsSettings, package: Package) -> None:
    """Refuse a package of the site that no trusted key signed, where the site demands that.

    Raises:
        ModelError: It is not signed so, or a key cannot be read.
    """
    if models.require_signature and not is_bundled(package):
        signed_by(models, package)


def signed_by(models: ModelsSettings, package: Package) -> str:
    """The name of the trusted key that signed a package.

    Raises:
        ModelError: There is none, or a key cannot be read.
    """
    from ai.signature import signer  # noqa: PLC0415 - loads what few sites need

    try:
        return signer(package, models.trusted_keys)
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from error


def is_bundled(package: Package) -> bool:
    """Whether it came with the node."""
    return package.folder.is_relative_to(bundled_models_path())


def make_engine(settings: Settings, registry: Registry, data_dir: Path | None = None) -> Engine:
    """Runs models; threads that run them times threads of the runtime are the cores.

    Args:
        settings: The node's settings.
        registry: Its models.
        data_dir: Where graphs are kept as the runtime made them ready; None keeps none.
    """
    from ai.batching import Lanes  # noqa: PLC0415 - loads the runtime, which not every command needs
    from ai.compiled import CompiledGraphs  # noqa: PLC0415
    from ai.engine import Engine  # noqa: PLC0415
    from ai.session import SessionCache  # noqa: PLC0415

    models, cores = settings.models, os.cpu_count() or 1
    lanes = min(models.worker_threads, cores)
    sessions = SessionCache(
        models.providers,
        max(1, cores // lanes),
        threads_alone=cores,
        compiled=None if data_dir is None else CompiledGraphs(data_dir / "cache"),
        idle_seconds=models.idle_seconds,
    )
    wait = None if models.join_milliseconds is None else models.join_milliseconds / 1000.0
    return Engine(registry, sessions, Lanes(sessions, lanes, wait))


def follow(registry: Registry, engine: Engine) -> bool:
    """Take up what commands did to the models since; whether they did anything.

    A job keeps the version that it was queued for. The sessions of versions that went or were
    retired are dropped; what runs on one of them runs to its end.
    """
    if not registry.refresh():
        return False
    usable = [entry for entry in registry.packages() if registry.status(entry) != "retired"]
    engine.sessions.keep_only({entry.digest for entry in usable})
    for reference, error in registry.faults.items():
        log.error("model.faulty", model=reference, why=str(error))
    stands = {entry.manifest.reference: registry.status(entry) for entry in registry.packages()}
    log.info("models.changed", models=stands)
    return True

"""Which models are there: the bundled ones and the site's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ai.package import MANIFEST, Package, read_package
from config.errors import Fault, ManifestError, ModelError


def bundled_models_path() -> Path:
    """Folder of the models that come with the node."""
    return Path(__file__).parent / "models"


class Registry:
    """The packages found under some folders, read and proved once, when it is made.

    One package that is wrong does not hide the others: it is told in `faults`, and asking for it
    raises what was wrong with it.

    Args:
        paths: Folders that hold ``NAME/VERSION/model.toml``; None and folders that are not there
            are passed over.
    """

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self._packages: dict[str, Package] = {}
        self.faults: dict[str, ModelError] = {}
        for path in paths:
            if path is not None:
                for manifest in sorted(path.glob(f"*/*/{MANIFEST}")):
                    self._add(manifest.parent)

    def _add(self, folder: Path) -> None:
        reference = f"{folder.parent.name}@{folder.name}"
        try:
            if reference in self._packages:
                fault = Fault(reference, "name", "a second package", "one version is there once")
                raise ManifestError([fault])
            self._packages[reference] = read_package(folder)
        except ModelError as error:
            self.faults[reference] = error

    def packages(self) -> tuple[Package, ...]:
        """Every sound package, by name and rising version."""
        return tuple(
            sorted(
                self._packages.values(),
                key=lambda package: (package.manifest.name, package.manifest.version_key),
            )
        )

    def find(self, reference: str) -> Package:
        """The package a route or a command means.

        Args:
            reference: ``name`` for its newest production version, ``name@version`` for that one
                whatever its status, but never a retired one.

        Raises:
            ModelError: There is none; for a pinned one that is faulty, what is wrong with it.
        """
        name, at, _ = reference.partition("@")
        if at and reference in self._packages:
            package = self._packages[reference]
            if package.manifest.status == "retired":
                raise ModelError(f"model {reference} is retired")
            return package
        if reference in self.faults:
            raise self.faults[reference]
        found = [package for package in self.packages() if package.manifest.name == name]
        in_production = [entry for entry in found if entry.manifest.status == "production"]
        if in_production and not at:
            return in_production[-1]
        there = ", ".join(
            f"{entry.manifest.reference} ({entry.manifest.status})" for entry in found
        )
        faulty = ", ".join(known for known in self.faults if known.partition("@")[0] == name)
        raise ModelError(
            f"no {'' if at else 'production version of '}model {reference!r}; "
            f"there is: {there or 'none of that name'}" + (f"; faulty: {faulty}" if faulty else "")
        )

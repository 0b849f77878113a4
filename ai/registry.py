"""Which models are there, the bundled ones and the site's own, and which of them serve."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ai.manifest import Status
from ai.package import MANIFEST, Package, read_package
from config.errors import Fault, ManifestError, ModelError

_Stamp = tuple[tuple[str, int, int, int], ...]


def bundled_models_path() -> Path:
    """Folder of the models that come with the node."""
    return Path(__file__).parent / "models"


@dataclass(frozen=True)
class Standing:
    """What a site has said of one version.

    Attributes:
        status: Where it stands.
        digest: Of the package that this was said of.
        rank: Grows with each promotion to production; 0 where the manifest alone says so.
    """

    status: Status
    digest: str
    rank: int = 0


@dataclass(frozen=True)
class _View:
    packages: Mapping[str, Package] = field(default_factory=dict)
    faults: Mapping[str, ModelError] = field(default_factory=dict)
    standings: Mapping[str, Standing] = field(default_factory=dict)

    def told(self) -> tuple[object, ...]:
        """What somebody who asks comes to hear."""
        faults = {reference: str(error) for reference, error in self.faults.items()}
        return self.packages, faults, self.standings


class Registry:
    """The packages found under some folders, read and proved when their files change.

    One package that is wrong does not hide the others: it is told in `faults`, and asking for it
    raises what was wrong with it. `refresh` may be called while other threads ask.

    Args:
        paths: Folders that hold ``NAME/VERSION/model.toml``; None and folders that are not there
            are passed over.
        standings: What the site has said, by reference; without a word on it a version stands
            where its manifest says.
        demand: Raises ModelError for a package that may not be used here.
        read: Reads a package; `read_package`, which proves every file, unless told otherwise.
    """

    def __init__(
        self,
        paths: Sequence[Path | None],
        *,
        standings: Callable[[], Mapping[str, Standing]] = dict,
        demand: Callable[[Package], None] = lambda package: None,
        read: Callable[[Path], Package] = read_package,
    ) -> None:
        self._paths = [path for path in paths if path is not None]
        self._standings = standings
        self._demand = demand
        self._reader = read
        self._known: dict[Path, tuple[_Stamp, Package | ModelError]] = {}
        self._view = _View()
        self._lock = threading.Lock()
        self.refresh()

    @property
    def faults(self) -> Mapping[str, ModelError]:
        """What is wrong with each package that cannot be used, by reference."""
        return self._view.faults

    def refresh(self) -> bool:
        """Takes up what came, changed, went or was said since; whether anything did.

        Files are read again only where their size or time changed. A folder that cannot be read,
        or that lost all of its packages at once, is a disk that is away: nothing is taken up.

        Raises:
            ModelError: A folder has lost its packages.
            OSError: The system refused to read one.
        """
        with self._lock:
            before, known = self._view, {}
            packages: dict[str, Package] = {}
            faults: dict[str, ModelError] = {}
            for folder in self._folders():
                reference = f"{folder.parent.name}@{folder.name}"
                if reference in packages:
                    fault = Fault(
                        reference, "name", "a second package", "one version is there once"
                    )
                    faults[reference] = ManifestError([fault])
                    continue
                stamp = _stamp(folder)
                kept = self._known.get(folder)
                found = kept[1] if kept and kept[0] == stamp else self._read(folder)
                known[folder] = stamp, found
                if isinstance(found, Package):
                    packages[reference] = found
                else:
                    faults[reference] = found
            for path in self._paths:
                if _holds(path, self._known) and not _holds(path, known):
                    raise ModelError(
                        f"{path} has lost its models; those that were there stay in use"
                    )
            self._known = known
            self._view = _View(packages, faults, dict(self._standings()))
            return self._view.told() != before.told()

    def _folders(self) -> Iterator[Path]:
        for path in self._paths:
            for manifest in sorted(path.glob(f"*/*/{MANIFEST}")):
                if not manifest.parent.parent.name.startswith("."):
                    yield manifest.parent

    def _read(self, folder: Path) -> Package | ModelError:
        try:
            package = self._reader(folder)
            self._demand(package)
        except ModelError as error:
            return error
        return package

    def packages(self) -> tuple[Package, ...]:
        """Every sound package, by name and rising version."""
        found = self._view.packages.values()
        return tuple(sorted(found, key=lambda entry: (entry.manifest.name, _version(entry))))

    def status(self, package: Package) -> Status:
        """Where a version stands on this site.

        What was said of other bytes does not count: such a version is in development again, unless
        it was retired.
        """
        return _status(self._view, package)

    def in_production(self, name: str) -> tuple[Package, ...]:
        """The versions of a model that are in production; the last one serves.

        Those promoted on this site come after the others, in the order of their promotion.
        """
        return _in_production(self._view, name)

    def rank(self, name: str) -> int:
        """The highest rank of any version of a model; 0 where none was promoted here."""
        said = self._view.standings.items()
        ranks = [entry.rank for reference, entry in said if reference.partition("@")[0] == name]
        return max(ranks, default=0)

    def candidate(self, name: str) -> Package:
        """The newest version of a model that is in validation.

        Raises:
            ModelError: There is none.
        """
        view = self._view
        found = [entry for entry in _named(view, name) if _status(view, entry) == "validation"]
        if not found:
            raise ModelError(f"no version of model {name!r} is in validation")
        return max(found, key=_version)

    def find(self, reference: str) -> Package:
        """The package a route or a command means.

        Args:
            reference: ``name`` for the version that serves, ``name@version`` for that one whatever
                its status, but never a retired one.

        Raises:
            ModelError: There is none; for a pinned one that is faulty, what is wrong with it.
        """
        view = self._view
        name, at, _ = reference.partition("@")
        if at and reference in view.packages:
            package = view.packages[reference]
            if _status(view, package) == "retired":
                raise ModelError(f"model {reference} is retired")
            return package
        if reference in view.faults:
            raise view.faults[reference]
        in_production = _in_production(view, name)
        if in_production and not at:
            return in_production[-1]
        there = ", ".join(
            f"{entry.manifest.reference} ({_status(view, entry)})" for entry in _named(view, name)
        )
        faulty = ", ".join(known for known in view.faults if known.partition("@")[0] == name)
        raise ModelError(
            f"no {'' if at else 'production version of '}model {reference!r}; "
            f"there is: {there or 'none of that name'}" + (f"; faulty: {faulty}" if faulty else "")
        )

    def knows(self, reference: str) -> bool:
        """Whether a package of that name, or of that name and version, is there in any state."""
        known = {*self._view.packages, *self._view.faults}
        return reference in known or reference in {each.partition("@")[0] for each in known}

    def any(self, reference: str) -> Package:
        """As `find` with ``name@version``, retired ones too."""
        package = self._view.packages.get(reference)
        return self.find(reference) if package is None else package


def _named(view: _View, name: str) -> list[Package]:
    found = [entry for entry in view.packages.values() if entry.manifest.name == name]
    return sorted(found, key=_version)


def _version(package: Package) -> tuple[int, ...]:
    return package.manifest.version_key


def _status(view: _View, package: Package) -> Status:
    standing = view.standings.get(package.manifest.reference)
    if standing is None:
        return package.manifest.status
    if standing.status == "retired" or standing.digest == package.digest:
        return standing.status
    return "development"


def _in_production(view: _View, name: str) -> tuple[Package, ...]:
    def rank(package: Package) -> int:
        standing = view.standings.get(package.manifest.reference)
        return 0 if standing is None else standing.rank

    found = [entry for entry in _named(view, name) if _status(view, entry) == "production"]
    return tuple(sorted(found, key=rank))  # stable: by version where the rank is the same


def _holds(path: Path, folders: Iterable[Path]) -> bool:
    return any(folder.parent.parent == path for folder in folders)


def _stamp(folder: Path) -> _Stamp:
    """What the files of a package look like from outside; it changes when one of them does."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            facts = path.stat()
        except FileNotFoundError:  # it goes, or leads nowhere: reading the package says so
            found.append((str(path), 0, 0, 0))
        else:
            found.append((str(path), facts.st_mtime_ns, facts.st_size, facts.st_ino))
    return tuple(found)

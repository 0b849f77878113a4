"""Which version serves is what the site said last, and what comes or goes is seen at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ai.package import Package, read_package
from ai.registry import Registry, Standing
from config.errors import ModelError, ModelFileError

PackageMaker = Callable[..., Package]


class Site:
    """A registry on ``tmp_path / "site"`` and what was said there."""

    def __init__(self, folder: Path) -> None:
        self.said: dict[str, Standing] = {}
        self.folder = folder / "site"
        self.registry = Registry([self.folder], standings=lambda: self.said)

    def say(self, package: Package, status: str, rank: int = 0) -> None:
        self.said[package.manifest.reference] = Standing(status, package.digest, rank)  # type: ignore[arg-type]
        assert self.registry.refresh()

    def serves(self) -> str:
        return self.registry.find("test-model").manifest.version


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.feature("F06", "F15")
def test_the_version_promoted_last_serves(make_package: PackageMaker, site: Site) -> None:
    old, new = make_package(version="1.0.0"), make_package(version="2.0.0", status="development")
    assert site.registry.refresh()
    assert not site.registry.refresh()
    assert site.serves() == "1.0.0"
    site.say(new, "validation")
    assert site.serves() == "1.0.0"
    assert site.registry.candidate("test-model").digest == new.digest
    site.say(new, "production", rank=1)
    assert site.serves() == "2.0.0"
    with pytest.raises(ModelError, match="in validation"):
        site.registry.candidate("test-model")
    site.say(old, "production", rank=2)
    assert site.serves() == "1.0.0"
    versions = [entry.manifest.version for entry in site.registry.in_production("test-model")]
    assert versions == ["2.0.0", "1.0.0"]
    site.say(old, "development", rank=2)
    assert site.serves() == "2.0.0"
    assert site.registry.find("test-model@1.0.0").digest == old.digest


def test_a_retired_version_is_not_found_and_still_known(
    make_package: PackageMaker, site: Site
) -> None:
    package = make_package()
    site.say(package, "retired")
    for reference in ("test-model", "test-model@1.0.0"):
        with pytest.raises(ModelError, match="retired"):
            site.registry.find(reference)
    assert site.registry.any("test-model@1.0.0").digest == package.digest
    with pytest.raises(ModelError, match="none of that name"):
        site.registry.any("other@1.0.0")


def test_what_was_said_of_other_bytes_does_not_make_a_version_serve(
    make_package: PackageMaker, site: Site
) -> None:
    package = make_package(status="validation")
    site.say(package, "production", rank=3)
    site.said["test-model@1.0.0"] = Standing("production", "0" * 64, 3)
    assert site.registry.refresh()
    assert site.registry.status(package) == "development"
    with pytest.raises(ModelError, match=r"there is: test-model@1\.0\.0 \(development\)"):
        site.registry.find("test-model")
    site.said["test-model@1.0.0"] = Standing("retired", "0" * 64, 3)
    site.registry.refresh()
    assert site.registry.status(package) == "retired"


def test_packages_that_come_change_and_go_are_seen(make_package: PackageMaker, site: Site) -> None:
    first = make_package()
    site.registry.refresh()
    make_package(version="1.1.0")
    assert site.registry.refresh()
    assert site.serves() == "1.1.0"
    graph = first.folder / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    assert site.registry.refresh()
    assert isinstance(site.registry.faults["test-model@1.0.0"], ModelFileError)
    shutil.rmtree(first.folder)
    assert site.registry.refresh()
    assert site.registry.faults == {}
    # What is being written beside the models is none yet.
    shutil.copytree(site.folder / "test-model", site.folder / ".incoming" / "x" / "test-model")
    (site.folder / ".other").mkdir()
    shutil.copytree(site.folder / "test-model" / "1.1.0", site.folder / ".other" / "1.1.0")
    assert not site.registry.refresh()


def test_a_folder_that_is_away_takes_no_model_out_of_use(
    make_package: PackageMaker, site: Site, tmp_path: Path
) -> None:
    make_package()
    site.registry.refresh()
    site.folder.rename(tmp_path / "away")
    for emptied in (False, True):
        if emptied:  # the place where a disk was mounted
            site.folder.mkdir()
        with pytest.raises(ModelError, match="has lost its models"):
            site.registry.refresh()
        assert site.serves() == "1.0.0"
    site.folder.rmdir()
    (tmp_path / "away").rename(site.folder)
    assert not site.registry.refresh()


@pytest.mark.feature("P35")
def test_files_are_read_again_only_where_they_changed(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    make_package()
    reads: list[str] = []

    def read(folder: Path) -> Package:
        reads.append(folder.name)
        return read_package(folder)

    registry = Registry([tmp_path / "site"], read=read)
    registry.refresh()
    make_package(version="1.0.1")
    registry.refresh()
    assert reads == ["1.0.0", "1.0.1"]


def test_what_a_site_demands_of_a_package_is_a_fault_where_it_lacks(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    make_package()

    def refuse(package: Package) -> None:
        raise ModelFileError(f"{package.manifest.reference} is not signed")

    registry = Registry([tmp_path / "site"], demand=refuse)
    assert registry.packages() == ()
    with pytest.raises(ModelFileError, match="is not signed"):
        registry.find("test-model@1.0.0")

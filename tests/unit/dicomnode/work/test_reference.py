"""A reference made from a folder of images, by the command and below it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ai.engine import Engine
from ai.package import Package, read_package
from ai.reference import FEWEST, read_reference, unusual
from ai.registry import Registry
from ai.seal import renew
from config.errors import InferenceError, ModelFileError, UsageError
from config.schema import Settings
from dicomnode.cli.reference import make_reference
from dicomnode.series.volume import load_series
from dicomnode.work.models import make_engine
from dicomnode.work.reference import add_reference
from tests import factories


@pytest.fixture(scope="module")
def engine(registry: Registry) -> Engine:
    return make_engine(Settings(models={"providers": ("cpu",)}), registry)


@pytest.fixture
def of_the_site(registry: Registry, tmp_path: Path) -> Callable[[str], Package]:
    """`mr-foreground` as a package of the site, in a status."""

    def make(status: str = "validation") -> Package:
        source = registry.find("mr-foreground").folder
        folder = tmp_path / "site" / "mr-foreground" / "2.0.0"
        shutil.copytree(source, folder)
        text = (folder / "model.toml").read_text("utf-8")
        text = text.replace('version = "1.0.0"', 'version = "2.0.0"')
        text = text.replace('status = "production"', f'status = "{status}"')
        (folder / "model.toml").write_text(text, "utf-8")
        return renew(folder, folder)

    return make


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [
        path
        for seed in range(FEWEST)
        for path in factories.write(
            factories.mr_series(slices=3, seed=seed), tmp_path / "images" / str(seed)
        )
    ]


def test_every_series_the_model_takes_is_in_it_and_the_others_are_told(
    of_the_site: Callable[..., Package], engine: Engine, images: list[Path], tmp_path: Path
) -> None:
    package = of_the_site()
    (radiograph,) = factories.write(factories.cr_image(), tmp_path / "cr")
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no DICOM")
    seen: list[None] = []
    made = add_reference(package, engine, [*images, radiograph, broken], lambda: seen.append(None))
    assert made.reference.images == FEWEST
    assert len(seen) == FEWEST + 1
    assert [reason.partition(":")[0] for reason in made.left_out] == ["broken.dcm", radiograph.name]
    assert made.package.digest != package.digest
    kept = read_package(package.folder)
    assert read_reference(kept) == made.reference
    assert kept.digest == made.package.digest
    alike = load_series(images[:3]).volume
    assert unusual(made.reference, {"image": alike}) == ()
    assert set(made.reference.measurements) == {"body/118565006"}


def test_too_few_images_leave_the_package_as_it_was(
    of_the_site: Callable[..., Package], engine: Engine, images: list[Path]
) -> None:
    package = of_the_site()
    with pytest.raises(InferenceError, match=f"needs {FEWEST} images; there are 1"):
        add_reference(package, engine, images[:3])
    assert read_package(package.folder).digest == package.digest


def test_a_folder_that_cannot_be_written_is_told(
    of_the_site: Callable[..., Package], engine: Engine, images: list[Path]
) -> None:
    package = of_the_site()
    (package.folder / "reference.json").mkdir()
    with pytest.raises(ModelFileError, match="cannot be written: Is a directory"):
        add_reference(package, engine, images)


def test_the_command_makes_one_and_says_the_new_digest(
    of_the_site: Callable[..., Package],
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = of_the_site()
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}"\n[models]\npath = "{tmp_path / "site"}"\n', "utf-8"
    )
    make_reference("mr-foreground@2.0.0", [tmp_path / "images"], config)
    digest = read_package(package.folder).digest
    said = f"mr-foreground@2.0.0 {digest}: a reference of {FEWEST} images"
    assert said in capsys.readouterr().out
    with pytest.raises(UsageError, match="came with the node"):
        make_reference("mr-foreground@1.0.0", [tmp_path / "images"], config)


def test_what_is_in_production_stays_as_it_is(
    of_the_site: Callable[..., Package], images: list[Path], tmp_path: Path
) -> None:
    of_the_site("production")
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}"\n[models]\npath = "{tmp_path / "site"}"\n', "utf-8"
    )
    with pytest.raises(UsageError, match="is in production"):
        make_reference("mr-foreground@2.0.0", images, config)

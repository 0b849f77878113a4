"""A dry run answers for every series in the files, and for every file that holds none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from ai.registry import Registry, bundled_models_path
from config.schema import RouteSettings
from dicomnode.series.explain import Explanation, explain
from dicomnode.series.headers import read_header
from dicomnode.series.unit import units_of
from tests import factories

ROUTES = (
    RouteSettings(name="CT tissue", when={"Modality": "CT"}, model="ct-tissue"),
    RouteSettings(name="radiographs", when={"Modality": ["CR", "DX"]}, model="xr-quality"),
    RouteSettings(name="MR", when={"Modality": "MR"}, model="no-such-model"),
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([bundled_models_path()])


def nobody(_: Dataset) -> bool:
    return False


def run(folder: Path, registry: Registry) -> Explanation:
    found = explain([folder], ROUTES, registry, nobody)
    json.dumps(found.as_json())
    assert all(list(found.sentences()))
    return found


@pytest.mark.feature("P06")
def test_each_series_gets_one_answer(tmp_path: Path, registry: Registry) -> None:
    factories.write(factories.ct_series(12), tmp_path / "ct")
    factories.write(factories.ct_series(12, drop=[5], seed=1), tmp_path / "gap")
    factories.write(factories.mr_series(), tmp_path / "mr")
    factories.write(factories.us_image(), tmp_path / "us")
    factories.write(factories.structured_report(), tmp_path / "sr")
    found = run(tmp_path, registry)
    outcomes = {entry.unit.files[0].parent.name: entry.outcome for entry in found.units}
    assert outcomes["ct"] == "Goes to ct-tissue@1.0.0."
    assert outcomes["gap"].startswith("No model: slices are missing at 1 place")
    assert "no-such-model" in outcomes["mr"]
    assert outcomes["us"] == "No model: no rule asks for it."
    assert outcomes["sr"].startswith("No model: it holds documents")
    assert found.refused == ()


def test_single_images_of_a_series_are_looked_at_one_by_one(
    tmp_path: Path, registry: Registry
) -> None:
    images = [factories.cr_image(seed=seed) for seed in range(3)]
    for image in images:
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
    factories.write(images, tmp_path)
    found = run(tmp_path, registry)
    assert [len(entry.unit.files) for entry in found.units] == [1, 1, 1]
    assert {entry.outcome for entry in found.units} == {"Goes to xr-quality@1.0.0."}


def test_a_model_that_cannot_take_the_series_says_why(tmp_path: Path, registry: Registry) -> None:
    factories.write(factories.mr_series(), tmp_path)
    routes = [RouteSettings(name="wrong", when={}, model="ct-tissue")]
    entry = explain([tmp_path], routes, registry, nobody).units[0]
    assert entry.runs == ()
    assert "ct-tissue@1.0.0 cannot take it: modality MR" in entry.outcome


def test_own_results_are_named(tmp_path: Path, registry: Registry) -> None:
    factories.write(factories.ct_series(3), tmp_path)
    entry = explain([tmp_path], ROUTES, registry, lambda _: True).units[0]
    assert entry.outcome == (
        "No model: it holds results of this node, which are never analysed again."
    )


def test_other_files_are_listed_with_a_sentence(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "notes.txt").write_text("x")
    factories.write(factories.ct_series(3), tmp_path / "ct")
    found = run(tmp_path, registry)
    assert [(file.path.name, file.why) for file in found.refused] == [
        ("notes.txt", "it is not a DICOM file: there is no DICM prefix")
    ]
    assert len(found.units) == 1


def test_files_that_alternate_are_sorted_into_their_series(tmp_path: Path) -> None:
    first, second = factories.ct_series(3), factories.ct_series(3, seed=1)
    mixed = [image for pair in zip(first, second, strict=True) for image in pair]
    paths = factories.write(mixed, tmp_path)
    units = units_of(paths, [read_header(path) for path in paths])
    assert [unit.files for unit in units] == [tuple(paths[0::2]), tuple(paths[1::2])]


def test_a_folder_is_searched_through(tmp_path: Path, registry: Registry) -> None:
    path = factories.write(factories.ct_series(1), tmp_path / "a" / "b")[0]
    shutil.copy(path, tmp_path / "without-suffix")
    assert len(run(tmp_path, registry).units[0].unit.files) == 2


def test_what_headers_announce_is_told(tmp_path: Path, registry: Registry) -> None:
    images = factories.ct_series(3)
    for image in images:
        image.ImagesInAcquisition = 5
    factories.write(images, tmp_path)
    (entry,) = run(tmp_path, registry).units
    assert entry.as_json()["announced"]["instances"] == 5
    assert "  Its headers announce 5 images, 3 are here" in list(entry.sentences())

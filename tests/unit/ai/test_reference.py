from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai.engine import Engine
from ai.package import Package, read_package
from ai.reference import (
    FEWEST,
    REFERENCE,
    Histogram,
    Reference,
    make_reference,
    read_reference,
    unusual,
)
from ai.seal import renew
from ai.types import Answer, Volume
from config.errors import InferenceError, ModelFileError

Images = list[tuple[dict[str, Volume], Answer]]


def noise(make_volume: Callable[..., Volume], seed: int, level: float = 40.0) -> Volume:
    values = np.random.default_rng(seed).normal(level, 12.0, (4, 24, 20))
    values[:, :6] = -1000.0
    return make_volume(values.astype(np.int16))


@pytest.fixture
def images(
    make_package: Callable[..., Package], make_volume: Callable[..., Volume], engine: Engine
) -> Images:
    package = make_package()
    found: Images = []
    for seed in range(FEWEST):
        volume = noise(make_volume, seed)
        found.append(({"image": volume}, engine.run(package, {"image": volume})))
    return found


def test_an_image_like_those_of_the_reference_is_not_unusual(
    images: Images, make_volume: Callable[..., Volume]
) -> None:
    assert unusual(make_reference(images), {"image": noise(make_volume, 99)}) == ()


def test_an_image_unlike_them_is_told_with_the_statistic_and_both_numbers(
    images: Images, make_volume: Callable[..., Volume]
) -> None:
    first, *_ = unusual(make_reference(images), {"image": noise(make_volume, 99, level=900.0)})
    assert first.role == "image"
    assert first.distance > 3.0
    far = unusual(make_reference(images), {"image": noise(make_volume, 99, level=900.0)})
    told = {entry.statistic: str(entry) for entry in far}
    assert "p50" in told
    assert told["p50"].startswith("p50 of the input 'image' is 8")


def test_turning_the_image_upside_down_changes_nothing(
    images: Images, make_volume: Callable[..., Volume]
) -> None:
    turned = noise(make_volume, 5)
    turned = replace(turned, voxels=turned.voxels[::-1, ::-1])
    assert unusual(make_reference(images), {"image": turned}) == ()


def test_a_role_the_reference_does_not_know_is_passed_over(
    images: Images, make_volume: Callable[..., Volume]
) -> None:
    assert unusual(make_reference(images), {"prior": noise(make_volume, 1, 900.0)}) == ()


def test_measured_numbers_are_kept_by_finding_and_code(images: Images) -> None:
    measurements = make_reference(images).measurements
    assert {key.count("/") for key in measurements} == {1, 2}
    assert all(sum(held.counts) == FEWEST for held in measurements.values())
    assert "dense/118565006" in measurements


def test_fewer_images_than_a_spread_needs_are_refused(images: Images) -> None:
    with pytest.raises(InferenceError, match=f"needs {FEWEST} images; there are {FEWEST - 1}"):
        make_reference(images[1:])


def test_a_package_keeps_its_reference(
    images: Images, make_package: Callable[..., Package], tmp_path: Path
) -> None:
    package = make_package(name="kept")
    assert read_reference(package) is None
    reference = make_reference(images)
    (package.folder / REFERENCE).write_text(reference.model_dump_json(), "utf-8")
    assert read_reference(renew(package.folder, package.folder)) == reference


@pytest.mark.parametrize(
    "spoil",
    [
        lambda held: held.update(images=2),
        lambda held: held["inputs"]["image"]["dark"].update(low=2.0),
        lambda held: held.update(extra=1),
        lambda held: held["measurements"]["dense/118565006"]["counts"].append(1),
        lambda held: held["measurements"]["dense/118565006"]["edges"].reverse(),
    ],
    ids=["too few", "not in order", "unknown key", "a count too many", "falling edges"],
)
def test_a_faulty_reference_is_refused(
    images: Images,
    make_package: Callable[..., Package],
    spoil: Callable[[dict[str, object]], None],
) -> None:
    package = make_package(name="faulty")
    held = json.loads(make_reference(images).model_dump_json())
    spoil(held)
    (package.folder / REFERENCE).write_text(json.dumps(held), "utf-8")
    with pytest.raises(ModelFileError, match="is no reference"):
        read_reference(renew(package.folder, package.folder))


def test_what_is_no_json_is_refused(make_package: Callable[..., Package]) -> None:
    package = make_package(name="broken")
    (package.folder / REFERENCE).write_text("[" * 100_000, "utf-8")
    with pytest.raises(ModelFileError, match="is no reference"):
        read_reference(read_package(renew(package.folder, package.folder).folder))


def test_values_beyond_the_edges_count_at_their_ends() -> None:
    assert Histogram.of([-3.0, 0.2, 7.0], [0.0, 0.5, 1.0]).counts == (2, 1)


def test_one_value_alone_still_has_a_histogram(images: Images) -> None:
    held = Reference.model_validate_json(make_reference([images[0]] * FEWEST).model_dump_json())
    assert sum(held.measurements["dense/118565006"].counts) == FEWEST

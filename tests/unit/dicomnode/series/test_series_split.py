"""Which version answers a study, and which runs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ai.registry import Registry, Standing, bundled_models_path
from config.errors import ModelError
from config.schema import RouteSettings
from dicomnode.series.explain import Explanation, explain
from dicomnode.series.headers import read_header
from dicomnode.series.split import canary_of, on_canary_side, shadow_of, versions_for
from dicomnode.series.unit import units_of
from tests import factories
from tests.model_versions import new_version

ROUTE = RouteSettings(name="CT", when={"Modality": "CT"}, model="ct-tissue")
V1, V2, V3 = "ct-tissue@1.0.0", "ct-tissue@2.0.0", "ct-tissue@3.0.0"
SAID: dict[str, Standing] = {}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    models = tmp_path_factory.mktemp("models")
    new_version(models, "2.0.0")
    new_version(models, "3.0.0", change=('dimensions = "2D"', 'dimensions = "2D"\nmin_slices = 90'))
    return Registry([bundled_models_path(), models], standings=lambda: SAID)


@pytest.fixture(autouse=True)
def nothing_said(site: Registry) -> Iterator[None]:
    yield
    SAID.clear()
    site.refresh()


def say(site: Registry, reference: str, status: str) -> None:
    SAID[reference] = Standing(status, site.any(reference).digest, 1)  # type: ignore[arg-type]
    site.refresh()


def routed(**keys: object) -> RouteSettings:
    return RouteSettings.model_validate({**ROUTE.model_dump(), **keys})


def answers(route: RouteSettings, site: Registry, study: str = "1.2") -> list[str]:
    return [package.manifest.reference for package in versions_for(route, study, site)]


@pytest.mark.feature("F15", "P48")
def test_ten_thousand_studies_split_as_the_route_says_and_stay_there() -> None:
    studies = [f"1.2.826.0.1.3680043.8.498.{number}" for number in range(10_000)]
    sides: dict[float, set[str]] = {}
    for percent in (0, 0.5, 1, 5, 10, 25, 33.3, 50, 75, 90, 99, 100):
        route = routed(canary=percent)
        sides[percent] = {study for study in studies if on_canary_side(route, study)}
        assert abs(len(sides[percent]) / 100 - percent) <= 1
        assert sides[percent] == {study for study in studies if on_canary_side(route, study)}
    assert (sides[0], sides[100]) == (set(), set(studies))
    rising = list(sides.values())
    assert all(fewer <= more for fewer, more in pairwise(rising))


def test_the_routes_of_a_model_agree_and_models_do_not() -> None:
    studies = [f"2.25.{number}" for number in range(2000)]
    one = routed(canary=50)
    other = routed(name="other", model="ct-tissue@1.0.0", canary=50)
    third = routed(model="xr-quality", canary=50)
    assert [on_canary_side(one, s) for s in studies] == [on_canary_side(other, s) for s in studies]
    same = sum(on_canary_side(one, s) == on_canary_side(third, s) for s in studies)
    assert 900 <= same <= 1100


@pytest.mark.feature("F15")
def test_the_newest_in_validation_is_the_canary_unless_one_is_named(site: Registry) -> None:
    route = routed(canary=100)
    assert answers(route, site) == [V1]
    say(site, V2, "validation")
    assert answers(route, site) == [V2, V1]
    assert answers(routed(canary=0), site) == [V1]
    say(site, V3, "validation")
    assert answers(route, site) == [V3, V1]
    assert answers(routed(canary=100, canary_model=V2), site) == [V2, V1]


def test_a_canary_that_was_rolled_back_retired_or_lost_answers_nobody(site: Registry) -> None:
    named = routed(canary=100, canary_model=V2)
    for status in ("development", "retired"):
        say(site, V2, status)
        assert canary_of(named, site) is None
        assert answers(named, site) == [V1]
    assert answers(routed(canary=100, canary_model="ct-tissue@9.0.0"), site) == [V1]
    say(site, V2, "production")
    assert answers(named, site) == [V2]


def test_a_study_route_says_why_its_canary_does_not_answer(site: Registry, tmp_path: Path) -> None:
    route = routed(canary=100, canary_model=V2, scope="study")
    files = factories.write(factories.ct_series(12), tmp_path)

    def outcome(route: RouteSettings) -> str:
        (found,) = explain(files, [route], site, lambda header: False).studies
        return found.outcome

    said = f"; the canary {V2} answers nobody: it is in development."
    assert outcome(route).endswith(said)
    assert V2 not in outcome(routed(canary=0, canary_model=V2, scope="study"))
    say(site, V2, "validation")
    assert outcome(route).startswith(f"Goes to {V2} ")
    assert "answers nobody" not in outcome(route)


def test_without_a_version_in_production_only_the_canary_answers(site: Registry) -> None:
    say(site, V1, "retired")
    with pytest.raises(ModelError, match="no production version"):
        versions_for(routed(canary=100), "1.2", site)
    say(site, V2, "validation")
    assert answers(routed(canary=100), site) == [V2]
    with pytest.raises(ModelError):
        versions_for(routed(canary=0), "1.2", site)


@pytest.mark.feature("F15")
def test_a_shadow_runs_beside_the_answer_and_never_twice(site: Registry) -> None:
    live = site.find(V1)
    assert shadow_of(routed(), live, site) is None
    assert shadow_of(routed(shadow=True), live, site) is None
    assert shadow_of(routed(shadow=V2), live, site) == site.find(V2)
    assert shadow_of(routed(shadow=V1), live, site) is None
    assert shadow_of(routed(shadow="xr-quality@9.9.9"), live, site) is None
    say(site, V2, "validation")
    assert shadow_of(routed(shadow=True), live, site) == site.find(V2)
    assert shadow_of(routed(shadow=True), site.find(V2), site) is None
    say(site, V2, "retired")
    assert shadow_of(routed(shadow=V2), live, site) is None


def explained(folder: Path, site: Registry, slices: int = 12, **keys: object) -> Explanation:
    if not folder.exists():
        factories.write(factories.ct_series(slices), folder)
    return explain([folder], [routed(**keys)], site, lambda _: False)


@pytest.mark.feature("P06", "F15")
def test_explain_tells_canary_and_shadow(tmp_path: Path, site: Registry) -> None:
    say(site, V2, "validation")
    (unit,) = explained(tmp_path / "ct", site, shadow=True).units
    assert unit.outcome == f"Goes to {V1}, {V2} in shadow."
    assert (unit.as_json()["models"], unit.as_json()["shadows"]) == ([V1], [V2])
    assert [(run.package.manifest.reference, run.mode) for run in unit.asked] == [
        (V1, "live"),
        (V2, "shadow"),
    ]
    (unit,) = explained(tmp_path / "ct", site, shadow=True, canary=100).units
    assert unit.outcome == f"Goes to {V2}."
    (unit,) = explained(tmp_path / "ct", site, canary=100, scope="study").units
    assert unit.asked == ()
    (study,) = explained(tmp_path / "ct", site, canary=100, scope="study").studies
    assert (study.package, study.mode) == (site.find(V2), "live")
    live, shadow = explained(tmp_path / "ct", site, shadow=True, scope="study").studies
    assert (live.package, live.mode) == (site.find(V1), "live")
    assert (shadow.package, shadow.mode) == (site.find(V2), "shadow")
    assert "in shadow with image" in shadow.outcome


def test_what_the_canary_cannot_take_the_serving_version_answers(
    tmp_path: Path, site: Registry
) -> None:
    say(site, V3, "validation")
    (unit,) = explained(tmp_path / "ct", site, canary=100).units
    assert unit.outcome.startswith(f"Goes to {V1}; {V3} cannot take it: ")
    assert [run.package.manifest.reference for run in unit.asked] == [V1]
    (unit,) = explained(tmp_path / "ct", site, shadow=True).units
    assert [run.mode for run in unit.asked] == ["live"]
    assert f"{V3} cannot take it" in unit.outcome
    (study,) = explained(tmp_path / "ct", site, canary=100, scope="study").studies
    assert study.package == site.find(V1)


def test_a_series_that_is_not_sound_runs_nowhere(tmp_path: Path, site: Registry) -> None:
    paths = factories.write(factories.ct_series(12, drop=[5]), tmp_path / "ct")
    (only,) = units_of(paths, [read_header(path) for path in paths])
    assert only.series_instance_uid
    (unit,) = explained(tmp_path / "ct", site, canary=100, shadow=V2).units
    assert unit.asked == ()
    assert unit.outcome.startswith("No model: slices are missing")

"""Whatever commands are given in whatever order: the version promoted last serves, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.registry import Registry
from config.errors import ModelError, UsageError
from config.schema import Settings
from dicomnode.work import life
from dicomnode.work.models import make_registry
from storage import audit_check, versions
from storage.db import Ledger, open_ledger
from storage.records import AuditEvent, ModelVersion
from storage.versions import Step
from tests.model_versions import new_version

NAME = "xr-quality"
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
COMMANDS = st.one_of(
    st.tuples(st.just("promote"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("retire"), st.sampled_from(VERSIONS)),
    st.tuples(st.just("rollback"), st.just("")),
)


class Expected:
    """What commands come to, in a few lines."""

    def __init__(self) -> None:
        self.states = {"1.0.0": "production", "2.0.0": "development", "3.0.0": "development"}
        self.serving = ["1.0.0"]

    def promote(self, version: str) -> bool:
        after = life.NEXT.get(self.states[version])
        if after is None:
            return False
        self.states[version] = after
        if after == "production":
            self.serving.append(version)
        return True

    def retire(self, version: str) -> bool:
        if self.states[version] == "retired":
            return False
        self.states[version] = "retired"
        self.serving = [each for each in self.serving if each != version]
        return True

    def rollback(self, _: str) -> bool:
        if len(self.serving) < 2:
            return False
        self.states[self.serving.pop()] = "development"
        return True


class Site:
    """The same on a database; what `promote` proves first is left out."""

    def __init__(self, ledger: Ledger, registry: Registry) -> None:
        self.ledger, self.registry = ledger, registry

    def promote(self, version: str) -> bool:
        package = self.registry.any(f"{NAME}@{version}")
        step = Step(f"{NAME}@{version}", package.digest, self.registry.status(package))
        after = life.NEXT.get(step.state)
        if after is None:
            return False
        versions.promote(self.ledger, step, after, actor="user:test", proof={})
        return True

    def retire(self, version: str) -> bool:
        return self._did(life.retire, f"{NAME}@{version}")

    def rollback(self, _: str) -> bool:
        return self._did(life.roll_back, NAME)

    def _did(self, command: object, name: str) -> bool:
        try:
            command(name, self.ledger, self.registry, "user:test")  # type: ignore[operator]
        except (UsageError, ModelError):
            return False
        return True


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for version in VERSIONS[1:]:
        new_version(folder, version, name=NAME)
    return folder


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path_factory.mktemp("node"))
    yield opened
    opened.close()


@pytest.mark.feature("F06", "F15")
@settings(max_examples=100, deadline=None)
@given(st.lists(COMMANDS, max_size=10))
def test_the_version_promoted_last_serves(
    models: Path, ledger: Ledger, commands: list[tuple[str, str]]
) -> None:
    ModelVersion.delete().execute()
    by_hand = AuditEvent.select().where(AuditEvent.actor == "user:test")
    before = by_hand.count()
    told = {"node": {"data_dir": ledger.data_dir}, "models": {"path": models}}
    registry = make_registry(Settings.model_validate(told), prove=False)
    site, expected, done = Site(ledger, registry), Expected(), 0
    for command, version in commands:
        moved = getattr(expected, command)(version)
        assert getattr(site, command)(version) is moved
        done += moved
        registry.refresh()
        stands = {
            package.manifest.version: registry.status(package)
            for package in registry.packages()
            if package.manifest.name == NAME
        }
        assert stands == expected.states
        serving = [package.manifest.version for package in registry.in_production(NAME)]
        assert serving == expected.serving
        if serving:
            assert registry.find(NAME).manifest.version == serving[-1]
        else:
            with pytest.raises(ModelError):
                registry.find(NAME)
    assert by_hand.count() - before == done


def test_the_chain_of_all_these_commands_is_intact(ledger: Ledger) -> None:
    assert audit_check.verify(ledger.data_dir).intact

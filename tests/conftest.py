"""What every test has: the report of which feature each test shows, and no silent skips."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("machine", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("machine")

_FEATURE = re.compile(r"[PF][0-9]{2}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--feature-report",
        metavar="PATH",
        type=Path,
        help="write JSON to PATH: feature → test → outcome",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mark that names no line of the feature table."""
    wrong = sorted(
        f"{item.nodeid}: {feature!r}"
        for item in items
        for feature in features(item)
        if not (isinstance(feature, str) and _FEATURE.fullmatch(feature))
    )
    if wrong:
        raise pytest.UsageError("a feature is P or F and two digits, not " + "; ".join(wrong))


def features(item: pytest.Item) -> list[str]:
    return [feature for mark in item.iter_markers("feature") for feature in mark.args]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that needs a program and was skipped: a missing tool proves nothing."""
    report = yield
    if report.skipped and item.get_closest_marker("tools"):
        report.outcome = "failed"
    return report


class FeatureReport:
    """Collects the worst outcome of each test's phases under the features it shows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: defaultdict[str, dict[str, str]] = defaultdict(dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for feature in features(item):
            before = self.outcomes[feature].get(item.nodeid, "passed")
            if before == "passed":
                self.outcomes[feature][item.nodeid] = report.outcome
        return report

    def pytest_sessionfinish(self) -> None:
        text = json.dumps(self.outcomes, indent=2, sort_keys=True, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--feature-report"):
        config.pluginmanager.register(FeatureReport(path), "feature-report")

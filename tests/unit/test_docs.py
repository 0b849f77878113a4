"""The documents say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from config.describe import options, settings_table
from config.load import load_settings
from dicomnode.series.conditions import compile_rule
from dicomnode.series.facts import FACTS
from dicomnode.work.rules import RULES

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_operations_hold_the_table_of_settings_as_the_schema_tells_it() -> None:
    shown = re.search(
        r"<!-- settings: .*? -->\n(.*?)\n<!-- end of settings -->",
        read("docs/operations.md"),
        re.DOTALL,
    )
    assert shown is not None
    assert shown[1] == settings_table()


def test_the_shipped_file_explains_every_option_in_its_own_table() -> None:
    tables: dict[str, str] = {}
    table = ""
    for line in read("medai_node.toml").splitlines():
        if header := re.fullmatch(r"(?:# )?\[{1,2}([\w.]+)\]{1,2}", line):
            table = header[1]
        tables[table] = tables.get(table, "") + line + "\n"
    for option in options():
        section, _, key = option.key.replace(".*.", ".").rpartition(".")
        written = re.search(rf"^(?:# )?{key} = ", tables[section], re.MULTILINE)
        assert written, f"{option.key} is not in medai_node.toml"


def test_the_shipped_file_marks_what_needs_a_restart() -> None:
    text = read("medai_node.toml")
    for option in options():
        section, _, key = option.key.rpartition(".")
        place = re.search(
            rf"^\[{re.escape(section)}\]\n.*?((?:#[^\n]*\n)*){key} = ", text, re.M | re.S
        )
        if place is not None:
            assert ("(restart)" in place[1]) == option.restart, option.key


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_commands_of_the_readme_are_one_line_each(number: int) -> None:
    block = re.findall(r"^```sh\n(.*?)^```$", read("README.md"), re.MULTILINE | re.DOTALL)[number]
    assert block.count("\n") == 1
    lock, end = [
        ("requirements.txt", "medai-node demo"),
        ("requirements-dev.txt", "pytest -n 2 --dist loadfile"),
    ][number]
    assert f"--require-hashes -r {lock} " in block
    assert block.endswith(f".venv/bin/{end}\n")


LOCKS = ["requirements.txt", "requirements-dev.txt", "requirements-import.txt"]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_every_dependency_with_hashes_and_no_place(lock: str) -> None:
    text = read(lock)
    assert "://" not in text
    assert not re.search(r"^\s*(--(find-links|index-url|extra-index-url)|/|file:)", text, re.M)
    pins = re.findall(r"^([a-z0-9-]+)==\S+(?: ; [^\\\n]*)? \\\n    --hash=sha256:", text, re.M)
    assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.M))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["build"]]
    further = {"dev": ["test", "dev"], "import": ["import"]}
    for name in further.get(re.split(r"[-.]", lock)[1], []):
        wanted += extras[name]
    names = {re.split(r"[^A-Za-z0-9_.-]", entry)[0].lower().replace("_", "-") for entry in wanted}
    assert names <= set(pins)


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_tests_and_imports_run_with_the_versions_that_are_shipped(lock: str) -> None:
    def versions(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+(?: ; [^\\\n]*)?", read(name), re.M))

    assert versions("requirements.txt") <= versions(lock)


def test_what_only_importing_needs_is_not_in_the_installation() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    names = {re.split(r"[^A-Za-z0-9_.-]", entry)[0].lower() for entry in extras["import"]}
    assert "torch" in names
    assert not names & set(re.findall(r"^([a-z0-9-]+)==", read("requirements.txt"), re.M))


def test_the_architecture_names_every_room_and_only_modules_that_are_there() -> None:
    text = read("docs/architecture.md")
    packages = [ROOT / name for name in ("ai", "config", "dicomnode", "storage")]
    modules = {path.name for package in packages for path in package.rglob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", text)) <= modules
    rooms = {path.parent.name for package in packages for path in package.rglob("__init__.py")}
    assert {room for room in rooms if not re.search(rf"(`|## ){room}\b", text)} == set()


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for target in re.findall(
            r"(?<!!)\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")
        )
        if not page.parent.joinpath(target).exists()
    ]
    assert broken == []


def test_the_routes_of_the_documents_are_settings_and_their_rules_compile(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", read("docs/routing.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        path = tmp_path / "medai_node.toml"
        path.write_text(block, encoding="utf-8")
        for route in load_settings(path, {}).routes:
            assert compile_rule(route.when).keys


def test_the_documents_name_every_fact_that_rules_may_use() -> None:
    assert re.findall(r"^\| `(\w+)` \|", read("docs/routing.md"), re.MULTILINE) == list(FACTS)


def test_the_night_shift_finds_every_alert_in_the_operations() -> None:
    section = read("docs/operations.md").split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(RULES)

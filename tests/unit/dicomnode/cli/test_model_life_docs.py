"""The page on a model's life shows what its commands print."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from config.schema import Settings
from tests.model_versions import new_version
from tests.unit.dicomnode.cli.conftest import Run

PAGE = Path(__file__).parents[4] / "docs" / "model-life.md"
ANSWER_IS_NO = 1  # `status`, since no node runs


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


def masked(line: str) -> str:
    return re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", line)


@pytest.mark.feature("F15")
def test_the_commands_of_the_page_print_what_it_shows(medai: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "medai_node.toml").write_text(blocks("toml")[0])
    folder = new_version(tmp_path / "source", "1.1.0", name="xr-quality").folder
    shutil.make_archive(str(here / "xr-quality-1.1.0"), "zip", folder)
    played = 0
    for block in blocks("console"):
        for command, shown in re.findall(r"^\$ medai-node (.*)\n((?:[^$].*\n)*)", block, re.M):
            done = medai(*command.split())
            assert done.code == (ANSWER_IS_NO if command == "status" else 0), done.err
            printed = [masked(line) for line in done.out.splitlines()]
            wanted = [masked(line) for line in shown.splitlines()]
            found = [line for line in printed if line in wanted]
            assert found == wanted, (command, done.out)
            played += 1
    assert played == 7


def test_the_settings_of_the_page_are_settings() -> None:
    for block in blocks("toml"):
        assert Settings.model_validate(tomllib.loads(block)) != Settings()


def test_the_page_names_every_command_of_a_life() -> None:
    text = PAGE.read_text("utf-8")
    for command in ("add", "verify", "sign", "promote", "rollback", "retire", "compare", "show"):
        assert f"models {command}" in text

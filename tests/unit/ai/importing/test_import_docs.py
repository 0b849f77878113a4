from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ai.importing.draft import Options
from ai.importing.kinds import KINDS
from ai.registry import Registry

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/model-import.md").read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.feature("F25")
def test_the_answers_of_the_page_are_all_that_the_example_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    packages = (ROOT / "docs/model-packages.md").read_text("utf-8")
    graph = next(block for block in blocks(packages, "python") if "onnx.save" in block)
    subprocess.run([sys.executable, "-c", graph], cwd=tmp_path, check=True, timeout=60)
    (answers,) = blocks(PAGE, "toml")
    (tmp_path / "answers.toml").write_text(answers, "utf-8")
    (command,) = (line for line in blocks(PAGE, "sh") if "import onnx" in line)
    done = subprocess.run(
        [sys.executable, "-m", "dicomnode", *command.split()[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    registry = Registry([tmp_path / "models"])
    assert registry.faults == {}
    package = registry.find("chest-example@1.0.0")
    assert done.stdout.splitlines() == [
        f"chest-example@1.0.0 {package.digest}",
        "  the golden case random expects opacity",
    ]


def test_open_questions_end_the_command_with_1_and_a_missing_file_with_2(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    for source, code, said in (
        ("a.onnx", 1, "a.onnx is no ONNX file\n"),
        ("b.onnx", 2, "there is no b.onnx\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "dicomnode", "models", "import", "onnx", source, "-o", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, said)


def test_the_page_names_every_kind_with_a_command_and_every_option() -> None:
    commands = "\n".join(blocks(PAGE, "sh"))
    for kind, entry in KINDS.items():
        assert f"medai-node models import {kind} " in commands
        for option in set(entry.options.model_fields) - set(Options.model_fields):
            assert re.search(rf"\b{option}\b", PAGE)
    for option in Options.model_fields:
        assert f"| `{option}` |" in PAGE

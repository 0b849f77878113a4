from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ai.package import Package, read_package
from ai.seal import main, renew

PackageMaker = Callable[..., Package]


@pytest.mark.feature("F06")
def test_the_command_seals_a_package_and_says_its_digest(
    make_package: PackageMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    before = make_package()
    (before.folder / "golden").mkdir()
    (before.folder / "golden" / "note.json").write_text("{}")
    assert main([str(before.folder)]) == 0
    after = read_package(before.folder)
    assert set(after.manifest.files) == {"model.onnx", "golden/note.json"}
    assert after.digest != before.digest
    assert capsys.readouterr().out == f"test-model@1.0.0 {after.digest}\n"


def test_sealing_again_changes_nothing(make_package: PackageMaker) -> None:
    package = make_package()
    text = (package.folder / "model.toml").read_text("utf-8")
    assert renew(package.folder, package.folder) == package
    assert (package.folder / "model.toml").read_text("utf-8") == text


def test_tables_after_the_files_survive_the_seal(make_package: PackageMaker) -> None:
    folder = make_package().folder
    path = folder / "model.toml"
    before = tomllib.loads(path.read_text("utf-8"))
    head, _, files = path.read_text("utf-8").partition("[files]")
    first, at, rest = head.partition("[output]")
    path.write_text(f"{first}[files]{files}\n{at}{rest}", "utf-8")
    renew(folder, folder)
    assert tomllib.loads(path.read_text("utf-8")) == before


def test_what_is_wrong_is_told_in_sentences_and_the_others_are_sealed(
    make_package: PackageMaker, tmp_path: Path
) -> None:
    faulty, sound = make_package(name="faulty"), make_package(name="sound")
    manifest = faulty.folder / "model.toml"
    manifest.write_text(manifest.read_text("utf-8").replace("vendor =", "seller ="), "utf-8")
    folders = [tmp_path / "absent", faulty.folder, sound.folder]
    done = subprocess.run(
        [sys.executable, "-m", "ai.seal", *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == f"sound@1.0.0 {sound.digest}\n"
    assert "Traceback" not in done.stderr
    assert "absent" in done.stderr
    assert "faulty/1.0.0/model.toml:3: seller: found an unknown key" in done.stderr
    assert main([]) == 2

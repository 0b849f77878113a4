"""What is said of deepbet without torch; the conversion itself: tests/interop/test_brain.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ai.importing.build import import_model
from ai.importing.draft import read_answers
from config.errors import ModelFileError


def test_a_wheel_without_the_networks_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "deepbet-1.0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("deepbet/__init__.py", "")
    with pytest.raises(ModelFileError, match=r"it has no data/models/bbox_model\.pt"):
        import_model("deepbet", wheel, tmp_path / "into", read_answers(None))


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "deepbet.whl"
    wheel.write_bytes(b"no archive")
    with pytest.raises(ModelFileError, match=r"deepbet\.whl is not deepbet 1\.0\.2"):
        import_model("deepbet", wheel, tmp_path / "into", read_answers(None))


def test_other_networks_under_the_same_names_are_refused(tmp_path: Path) -> None:
    models = tmp_path / "deepbet" / "data" / "models"
    models.mkdir(parents=True)
    (models / "bbox_model.pt").write_bytes(b"another")
    with pytest.raises(ModelFileError, match=r"bbox_model\.pt of deepbet is not that of"):
        import_model("deepbet", tmp_path / "deepbet", tmp_path / "into", read_answers(None))
    assert not (tmp_path / "into").exists()

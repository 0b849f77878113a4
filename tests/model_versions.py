"""Further versions of the bundled models, for tests of a model's life."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ai.package import MANIFEST, Package
from ai.registry import bundled_models_path
from ai.seal import renew


def new_version(
    models: Path,
    version: str,
    *,
    name: str = "ct-tissue",
    status: str = "development",
    change: tuple[str, str] = ("", ""),
) -> Package:
    """A copy of a bundled model under another version, sealed, as ``NAME/VERSION`` of a folder.

    Args:
        models: The folder of packages.
        version: Of the copy.
        name: Of the bundled model.
        status: What its manifest says.
        change: What else is replaced in ``model.toml``, and by what.
    """
    (bundled,) = (bundled_models_path() / name).iterdir()
    folder = models / name / version
    shutil.copytree(bundled, folder)
    text = (folder / MANIFEST).read_text("utf-8")
    for pattern, said in (("version", version), ("status", status)):
        text, found = re.subn(rf'(?m)^{pattern} = ".*?"', f'{pattern} = "{said}"', text, count=1)
        assert found == 1
    assert change[0] in text
    (folder / MANIFEST).write_text(text.replace(*change) if change[0] else text, "utf-8")
    return renew(folder, folder)

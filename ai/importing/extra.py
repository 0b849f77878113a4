"""Libraries that only importing needs; the node runs without them."""

from __future__ import annotations

import importlib
from typing import Any

from config.errors import UsageError

LOCK = "requirements-import.txt"


def need(module: str) -> Any:
    """A module of the extra ``import``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        package = module.partition(".")[0]
        raise UsageError(
            f"{package} is not installed here; this installs what importing needs: "
            f"pip install --require-hashes -r {LOCK}"
        ) from error

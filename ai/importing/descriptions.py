"""Files of JSON and YAML that describe a model, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ai.importing.extra import need
from config.errors import ModelFileError

_MOST_BYTES = 16 << 20


@contextmanager
def understood(source: Path) -> Iterator[None]:
    """Turns what a description of another shape leads to into a plain fault.

    Raises:
        ModelFileError: Something that stands in the source is not what it should be.
    """
    try:
        yield
    except (
        *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    ) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ModelFileError(
            f"what {one_line(source.name)} says of the model is not understood ({reason})"
        ) from error


def one_line(value: object, most: int = 200) -> str:
    """What somebody else wrote, fit for a sentence."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return " ".join(text.split())[:most]


def read_tree(path: Path) -> Mapping[str, Any]:
    """A file of JSON or YAML that holds a table.

    Raises:
        ModelFileError: It cannot be read, or holds something else.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ModelFileError(f"{path.name} is too long to be a configuration")
    try:
        text = path.read_text("utf-8")
        tree = json.loads(text) if path.suffix == ".json" else need("yaml").safe_load(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path.name} is no {path.suffix.removeprefix('.')}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise ModelFileError(f"{path.name} is no yaml") from error
    if not isinstance(tree, dict):
        raise ModelFileError(f"{path.name} holds no table")
    return tree

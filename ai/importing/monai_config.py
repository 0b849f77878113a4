"""Reads the configuration of a MONAI bundle without running anything in it.

References (``@name#part``) are followed. An expression (``$…``) is taken only where it is a
reference or a plain value; every other one stays an `Expression`, which is told and never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_REFERENCE = re.compile(r"@([A-Za-z0-9_]+(?:(?:#|::)[A-Za-z0-9_]+)*)")
_DEEPEST = 64
_MOST = 20_000  # values that one question may lead to; references can double at every step


@dataclass(frozen=True)
class Expression:
    """What would have to be run to be known."""

    text: str


class Config:
    """A configuration of a bundle.

    Args:
        tree: What the file holds.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree
        self._left = _MOST

    def get(self, *path: str) -> Any:
        """What stands at a place with its references followed; None where nothing stands."""
        self._left = _MOST
        return self._followed(self._raw(path, 0), 0)

    def _raw(self, path: tuple[str, ...], depth: int) -> Any:
        here: Any = self._tree
        for part in path:
            if isinstance(here, str):
                here = self._followed(here, depth + 1)
            if isinstance(here, list) and part.isdigit() and int(part) < len(here):
                here = here[int(part)]
            elif isinstance(here, Mapping):
                here = here.get(part)
            else:
                return None
        return here

    def _followed(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            return Expression("a reference that leads to itself")
        if isinstance(value, str):
            return self._text(value, depth)
        if isinstance(value, Mapping):
            return {str(name): self._followed(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list):
            return [self._followed(each, depth + 1) for each in value]
        return value

    def _text(self, text: str, depth: int) -> Any:
        bare = text.removeprefix("$").strip()
        if found := _REFERENCE.fullmatch(bare):
            parts = tuple(re.split(r"#|::", found[1]))
            held = self._raw(parts, depth) if depth < _DEEPEST else text
            return Expression(text) if held is None else self._followed(held, depth + 1)
        if not text.startswith(("$", "%")):
            return text
        try:
            return ast.literal_eval(bare)  # plain values only; it runs nothing
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return Expression(text[:120])

"""Writes TOML: a ``model.toml``, or answers to be completed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str, ...]
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
# Small tables that read best on one line.
_INLINE = frozenset({"window", "normalisation", "facts", "score", "percentiles"})


def written(tree: Mapping[str, Any], comments: Mapping[Path, Sequence[str]] | None = None) -> str:
    """A table as TOML 1.0.0.

    Args:
        tree: Strings, numbers, truth values, and lists and tables of them.
        comments: Lines put below the header of a table, by its path.
    """
    return "\n".join(_table(tree, (), comments or {})).strip("\n") + "\n"


def key(name: str) -> str:
    """A key, quoted where it must be."""
    return name if name and set(name) <= _BARE else _string(name)


def _table(
    tree: Mapping[str, Any], path: Path, comments: Mapping[Path, Sequence[str]]
) -> Iterator[str]:
    yield from (f"# {_printable(line)}" for line in comments.get(path, ()))
    nested = {name: value for name, value in tree.items() if _stands_alone(name, value)}
    for name, value in tree.items():
        if name not in nested:
            yield f"{key(name)} = {_value(value)}"
    for name, value in nested.items():
        below = (*path, name)
        header = ".".join(map(key, below))
        if isinstance(value, Mapping):
            bare = value and all(_stands_alone(n, v) for n, v in value.items())
            if not bare or comments.get(below):
                yield from ("", f"[{header}]")
            yield from _table(value, below, comments)
        else:
            for entry in value:
                yield from ("", f"[[{header}]]", *_table(entry, below, comments))


def _stands_alone(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return name not in _INLINE
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        pairs = (f"{key(name)} = {_value(entry)}" for name, entry in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

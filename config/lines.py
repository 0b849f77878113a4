"""On which line of a TOML text does a key stand?

``tomllib`` reads values and forgets where they stood. This walks a text that ``tomllib`` has taken
before, so it need not refuse anything: it follows table headers, arrays of tables, dotted and
quoted keys, inline tables and arrays (TOML 1.0.0), and notes the line of each.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+' r"|'''.*?'''+" r'|"(?:[^"\\]|\\.)*"' r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """Lines of every key and array element.

    Args:
        text: TOML that ``tomllib.loads`` takes.

    Returns:
        Path of keys and list indices to line number, from 1. A table that appears only as part of
        a dotted key or header has the line where it is first named.
    """
    return _Walk(text).run()


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.lengths: dict[Path, int] = {}  # of arrays of tables

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._blank()
        return self.lines

    def _blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, self.at) + 1)

    def _keys(self) -> list[str]:
        parts = []
        while match := _KEY.match(self.text, self.at):
            basic, literal, bare = match.groups()
            if basic is not None:
                basic = tomllib.loads(f'k = "{basic}"')["k"]
            parts.append(next(part for part in (basic, literal, bare) if part is not None))
            self.at = match.end()
            if not self.text.startswith(".", self.at):
                break
            self.at += 1
        return parts

    def _header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        start, self.at = self.at, self.at + (2 if array else 1)
        parts = self._keys()
        end, self.at = self.at + (2 if array else 1), start
        path: Path = ()
        for place, part in enumerate(parts):
            path = (*path, part)
            self._note(path)
            if array and place == len(parts) - 1:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
                self._note(path)
        self.at = end
        return path

    def _pair(self, table: Path) -> None:
        start = self.at
        parts = self._keys()
        end, self.at = self.at + 1, start  # past the equals sign
        path = table
        for part in parts:
            path = (*path, part)
            self._note(path)
        self.at = end
        self._value(path)

    def _value(self, path: Path) -> None:
        self._blank()
        opening = self.text[self.at]
        if opening == "{":
            self._inside("}", lambda _: self._pair(path))
        elif opening == "[":
            self._inside("]", lambda index: self._element((*path, index)))
        else:
            match = (_STRING if opening in "\"'" else _SCALAR).match(self.text, self.at)
            self.at = match.end() if match else len(self.text)

    def _element(self, path: Path) -> None:
        self._note(path)
        self._value(path)

    def _inside(self, closing: str, entry: Callable[[int], None]) -> None:
        self.at += 1
        index = 0
        self._blank()
        while self.text[self.at] != closing:
            entry(index)
            index += 1
            self._blank()
            if self.text[self.at] == ",":
                self.at += 1
                self._blank()
        self.at += 1

"""Read the settings file and the environment; name every fault at once, each with its line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.describe import known_keys, options, schema_at, toml_value, words
from config.errors import Fault, SettingsError
from config.lines import key_lines
from config.schema import DEFAULT_ROUTES, Settings, name_faults, with_paths

FILE_NAME = "medai_node.toml"
PREFIX = "MEDAI__"

Check = Callable[[Settings], Iterable[tuple[str, str, str]]]
_Path = tuple[str | int, ...]
_LONGEST_QUOTE = 60


def load_settings(
    path: Path | None, environ: Mapping[str, str], checks: Sequence[Check] = ()
) -> Settings:
    """Read the settings in force.

    Args:
        path: The file; None takes ``medai_node.toml`` of the current folder, and without one the
            built-in defaults, which are what the shipped file says.
        environ: Variables such as ``MEDAI__NODE__PORT=11113`` override single keys; lists and
            tables are written as JSON.
        checks: Checks of what this package cannot know (models, attributes of rules). Each gives
            dotted key, what was found, what is allowed. They see the tables that are sound in
            themselves, also when others are not.

    Returns:
        Settings with every path made absolute: relative ones are relative to the file, or to the
        current folder without one.

    Raises:
        SettingsError: With every fault found.
    """
    if path is None and (here := Path(FILE_NAME)).is_file():
        path = here
    source = _Source(path)
    source.override(environ)
    return source.settings(checks)


class _Source:
    """What the file and the environment say, and where each key was said."""

    def __init__(self, path: Path | None) -> None:
        self.file = FILE_NAME if path is None else path.name
        self.folder = Path.cwd() if path is None else path.absolute().parent
        self.raw: dict[str, Any]
        self.lines: dict[_Path, int] = {}
        self.variables: dict[_Path, str] = {}
        self.faults: list[tuple[_Path, Fault]] = []
        if path is None:
            self.raw = {"routes": [r.model_dump() for r in DEFAULT_ROUTES]}
        else:
            self.raw, self.lines = self._parsed(_text(path))

    def override(self, environ: Mapping[str, str]) -> None:
        """Lay ``MEDAI__…`` variables over the file."""
        by_path = {tuple(option.key.split(".")): option for option in options()}
        lists = {path[: path.index("*")] for path in by_path if "*" in path}
        known = [path for path in by_path if "*" not in path] + sorted(lists)
        for name in sorted(name for name in environ if name.upper().startswith(PREFIX)):
            path = tuple(name[len(PREFIX) :].lower().split("__"))
            if path not in known:
                self.variables[path] = name
                near = _nearest(".".join(path), [".".join(entry) for entry in known])
                variable = PREFIX + near.upper().replace(".", "__") if near else ""
                self._add(path, "an unknown variable", _instead(variable))
                continue
            table = self.raw
            for part in path[:-1]:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    break  # the file's own fault, found when the file is validated
            else:
                table[path[-1]] = _typed(environ[name], schema_at(path) or {})
                self.variables[path] = name

    def settings(self, checks: Sequence[Check]) -> Settings:
        """Validate everything, or raise with every fault."""
        self._dates((), self.raw)
        settings, kept = self._validated()
        self._names()
        settings = with_paths(settings, lambda path: self.folder / path)
        for check in checks:
            for key, found, allowed in check(settings):
                self._add(_original(key, kept), found, allowed)
        if self.faults:
            raise SettingsError(self._ordered())
        return settings

    def _parsed(self, text: str) -> tuple[dict[str, Any], dict[_Path, int]]:
        line = text.count("\n") + 1
        try:
            return tomllib.loads(text), key_lines(text)
        except RecursionError:
            found = "values nested too deeply"
        except ValueError as error:  # TOMLDecodeError, or a number too long for an int
            found = str(error).removesuffix(" (at end of document)")
            if at := re.search(r" \(at line (\d+), column \d+\)$", found):
                found, line = found[: at.start()], int(at[1])
        fault = Fault(f"{self.file}:{line}", "syntax", found, "the file must be TOML 1.0")
        raise SettingsError([fault])

    def _validated(self) -> tuple[Settings, dict[str, list[int]]]:
        """The settings, after pydantic's faults are noted and the tables they are in left out.

        Also gives, for each array of tables, which of its entries were kept.
        """
        kept = {k: list(range(len(v))) for k, v in self.raw.items() if isinstance(v, list)}
        try:
            return _validate(self.raw), kept
        except ValidationError as error:
            paths = self._schema_faults(error)
        sound: dict[str, Any] = {}
        for key, value in self.raw.items():
            wrong = {path[1:2] for path in paths if path[:1] == (key,)}
            if not wrong or (key in kept and () not in wrong):
                sound[key] = value
                if key in kept:
                    kept[key] = [i for i in kept[key] if (i,) not in wrong]
        self._drop_names(sound, kept)
        for key in kept.keys() & sound.keys():
            sound[key] = [sound[key][index] for index in kept[key]]
        # A destination that was left out is no fault of the route that names it.
        sound["routes"] = [{**route, "send_to": []} for route in sound.get("routes", [])]
        return _validate(sound), kept

    def _drop_names(self, sound: Mapping[str, Any], kept: dict[str, list[int]]) -> None:
        """Leave out the second bearer of a name, which `_names` reports."""
        for key in kept.keys() & sound.keys() & {"routes", "destinations"}:
            first = {sound[key][index]["name"]: index for index in reversed(kept[key])}
            kept[key] = sorted(first.values())

    def _schema_faults(self, error: ValidationError) -> list[_Path]:
        found: dict[_Path, str] = {}
        for entry in error.errors(include_url=False):
            if entry["type"] != "names":
                path = _in_file(entry["loc"], entry["type"], self.raw)
                found.setdefault(path, entry["type"])
        deepest = [p for p in found if not any(q != p and q[: len(p)] == p for q in found)]
        for path in deepest:
            if found[path] == "extra_forbidden":
                keys = known_keys(path[:-1])
                near = _nearest(str(path[-1]), keys)
                near = ".".join(map(str, (*path[:-1], near))) if near else _elsewhere(path[-1])
                self._add(path, "an unknown key", _instead(near, keys))
            else:
                missing = found[path] == "missing"
                self._add(path, "nothing" if missing else _quoted(path, self.raw), _wanted(path))
        return list(found)

    def _names(self) -> None:
        tables = {
            key: [entry if isinstance(entry, dict) else {} for entry in value]
            for key in ("routes", "destinations")
            if isinstance(value := self.raw.get(key, []), list)
        }
        if len(tables) == 2:
            for key, found, allowed in name_faults(tables["routes"], tables["destinations"]):
                self._add(_path(key), found, allowed)

    def _dates(self, path: _Path, value: Any) -> None:
        if isinstance(value, (datetime, date, time)):
            self._add(path, "a date or time", "no option takes one; put it in quotes")
        elif isinstance(value, dict):
            for key, entry in value.items():
                self._dates((*path, key), entry)
        elif isinstance(value, list):
            for index, entry in enumerate(value):
                self._dates((*path, index), entry)

    def _add(self, path: _Path, found: str, allowed: str) -> None:
        if all(known != path for known, _ in self.faults):
            key = ".".join(str(part) for part in path)
            self.faults.append((path, Fault(self._where(path), key, found, allowed)))

    def _where(self, path: _Path) -> str:
        for length in range(len(path), 0, -1):
            if (variable := self.variables.get(path[:length])) is not None:
                return variable
            if (line := self.lines.get(path[:length])) is not None:
                return f"{self.file}:{line}"
        return self.file

    def _ordered(self) -> list[Fault]:
        def line(fault: Fault) -> tuple[int, str]:
            number = fault.where.rpartition(":")[2]
            return (int(number) if number.isdigit() else 0, fault.key)

        return sorted((fault for _, fault in self.faults), key=line)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise SettingsError(
            [Fault(str(path), "file", reason.lower(), "a readable file is wanted")]
        ) from None
    try:
        # Editors on Windows put a byte order mark in front; a TOML text has none.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fault = Fault(f"{path.name}:{line}", "syntax", "bytes that are not UTF-8", "save as UTF-8")
        raise SettingsError([fault]) from None


def _validate(raw: Mapping[str, Any]) -> Settings:
    # Through JSON, where strict mode still takes arrays as tuples and strings as paths, and
    # neither "11112" nor true for a port.
    return Settings.model_validate_json(json.dumps(raw, default=str), strict=True)


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """A variable's text as the kind of value its option takes; the text itself if it is none."""
    kinds = {entry.get("type", "string") for entry in schema.get("anyOf", (schema,))}
    if kinds == {"string"}:
        return text
    try:
        value = json.loads(text.lower() if "boolean" in kinds else text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def _in_file(loc: tuple[str | int, ...], kind: str, raw: Any) -> _Path:
    """The place in the file that pydantic speaks of; its names for branches of unions left out."""
    path: list[str | int] = []
    for part in loc:
        if part in (
            raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ()
        ):
            raw = raw[part]
            path.append(part)
    return (*path, loc[-1]) if kind == "missing" else tuple(path)


def _quoted(path: _Path, raw: Any) -> str:
    if (schema_at(path) or {}).get("hidden"):
        return "a value that is not shown"
    for part in path:
        raw = raw[part]
    text = toml_value(raw)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def _wanted(path: _Path) -> str:
    schema = schema_at(path)
    if schema is None or not schema.keys() & {"type", "enum", "const", "anyOf", "words"}:
        return "see the settings in docs/operations.md"
    default = schema.get("default")
    hint = "" if default is None or "properties" in schema else f" (default {toml_value(default)})"
    return f"wanted: {words(schema)}{hint}"


def _instead(near: str | None, keys: Sequence[str] = ()) -> str:
    if near:
        return f"did you mean {near}?"
    return f"known here: {', '.join(keys)}" if keys else "see the settings in docs/operations.md"


def _elsewhere(key: str | int) -> str | None:
    """The full name of a key that stands in another table, ``port`` at the top say."""
    return next((o.key for o in options() if o.key.rpartition(".")[2] == key), None)


def _nearest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)), None)


def _path(key: str) -> _Path:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _original(key: str, kept: Mapping[str, list[int]]) -> _Path:
    """The path in the file of a key in the settings that checks saw."""
    path = _path(key)
    if len(path) > 1 and isinstance(path[1], int) and path[0] in kept:
        return (path[0], kept[str(path[0])][path[1]], *path[2:])
    return path

"""The settings told about: the list of options, their values in plain words, the JSON Schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.schema import Settings

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a table",
    "null": "left out",
}


@dataclass(frozen=True)
class Option:
    """One key that the file may hold.

    Attributes:
        key: Dotted; ``peers.*.hosts`` for a key of each table of an array.
        allowed: What may stand there, in words.
        default: As TOML writes it, None where the key must be given or may only be left out.
        required: The key must be given in its table.
        restart: A running node takes a change up only when started again.
        description: Unit and purpose.
    """

    key: str
    allowed: str
    default: str | None
    required: bool
    restart: bool
    description: str


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_root(),
        "title": "medai_node.toml",
    }


@functools.cache
def _root() -> dict[str, Any]:
    return Settings.model_json_schema()


def effective(settings: Settings) -> dict[str, Any]:
    """The settings in force, defaults filled in, as plain JSON values."""
    return settings.model_dump(mode="json")


def options() -> list[Option]:
    """Every option, in the order of the schema."""
    return list(_options(_root(), ""))


def settings_table() -> str:
    """Every option as a Markdown table, as docs/operations.md shows it."""
    rows = ["| key | what may stand there | default | what it does |", "|---|---|---|---|"]
    for option in options():
        default = f"`{option.default}`" if option.default else "none"
        rows.append(
            f"| `{option.key.replace('.*.', '[].')}` | {option.allowed} "
            f"| {'must be given' if option.required else default} "
            f"| {option.description}{' Restart.' if option.restart else ''} |"
        )
    return "\n".join(rows)


def schema_at(path: Sequence[str | int]) -> dict[str, Any] | None:
    """The schema of the value at a path, or None where the schema knows no such key.

    Args:
        path: Keys and list indices from the top of the file.
    """
    root = _root()
    places = [_resolved(root, root)]
    for part in path:
        places = [found for place in places for found in _step(root, place, part)]
    return places[0] if places else None


def known_keys(path: Sequence[str | int]) -> list[str]:
    """The keys that the table at a path may hold."""
    place = schema_at(path)
    return list((place or {}).get("properties", {}))


def words(schema: Mapping[str, Any]) -> str:
    """What a schema lets through, in plain words."""
    if "words" in schema:
        return str(schema["words"])
    if "const" in schema:
        return toml_value(schema["const"])
    if "enum" in schema or "anyOf" in schema:
        values = (toml_value(value) for value in schema.get("enum", ()))
        return _either((*values, *(words(entry) for entry in schema.get("anyOf", ()))))
    if schema.get("type") == "array":
        least = f" of at least {schema['minItems']}" if schema.get("minItems") else ""
        return f"a list{least}, each {words(_resolved(settings_schema(), schema['items']))}"
    if schema.get("format") == "path":
        return "a path"
    return _TYPES[schema["type"]] + _bounds(schema)


def toml_value(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {toml_value(entry)}" for key, entry in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(toml_value(entry) for entry in value)}]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _options(
    root: dict[str, Any], prefix: str, at: Mapping[str, Any] | None = None
) -> Iterator[Option]:
    place = _resolved(root, root if at is None else at)
    required = place.get("required", ())
    for name, entry in place["properties"].items():
        value = _resolved(root, entry)
        table = value if "properties" in value else _resolved(root, value.get("items", {}))
        if "properties" in table:
            yield from _options(root, f"{prefix}{name}." + ("" if table is value else "*."), table)
            continue
        default = value.get("default")
        yield Option(
            key=f"{prefix}{name}",
            allowed=words(value),
            default=None if default is None else toml_value(default),
            required=name in required,
            restart=bool(value.get("restart")),
            description=value.get("description", ""),
        )


def _resolved(root: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    tables = [choice for choice in schema.get("anyOf", ()) if "$ref" in choice]
    if tables:  # a table that may be left out
        return _resolved(root, tables[0])
    if "$ref" not in schema:
        return dict(schema)
    target = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _step(
    root: Mapping[str, Any], place: Mapping[str, Any], part: str | int
) -> Iterator[dict[str, Any]]:
    for choice in place.get("anyOf", (place,)):
        if isinstance(part, int) and "items" in choice:
            yield _resolved(root, choice["items"])
        elif isinstance(part, str) and part in choice.get("properties", {}):
            yield _resolved(root, choice["properties"][part])
        elif isinstance(part, str) and isinstance(choice.get("additionalProperties"), dict):
            yield _resolved(root, choice["additionalProperties"])


def _either(listed: Sequence[str]) -> str:
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high}" if isinstance(high, int) else f" from {low:g} to {high:g}"
    return f" of at least {low:g}" if low is not None else ""

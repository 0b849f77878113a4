"""The settings told about in words, as values and as a JSON Schema."""

from __future__ import annotations

import json

from config.describe import effective, options, schema_at, settings_schema
from config.schema import Settings


def test_every_option_says_what_it_is_for_and_what_may_stand_there() -> None:
    listed = options()
    assert len({option.key for option in listed}) == len(listed)
    for option in listed:
        assert option.description.endswith("."), option.key
        assert option.allowed, option.key


def test_an_option_is_told_with_bounds_default_and_restart() -> None:
    port = next(option for option in options() if option.key == "node.port")
    assert port.allowed == "a whole number from 0 to 65535"
    assert (port.default, port.required, port.restart) == ("11112", False, True)
    hosts = next(option for option in options() if option.key == "peers.*.hosts")
    assert (hosts.default, hosts.required) == (None, True)


def test_effective_settings_are_plain_values_that_load_again() -> None:
    shown = effective(Settings())
    assert Settings.model_validate_json(json.dumps(shown)) == Settings()
    assert shown["node"]["port"] == 11112


def test_the_schema_forbids_unknown_keys_in_every_table() -> None:
    schema = settings_schema()
    assert schema["title"] == "medai_node.toml"
    for table in (schema, *schema["$defs"].values()):
        assert table["additionalProperties"] is False
    assert schema_at(("routes", 3, "send_to", 0)) is not None
    assert schema_at(("node", "nothing")) is None

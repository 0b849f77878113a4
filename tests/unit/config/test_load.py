"""Settings: defaults, files, overrides, and every fault with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import Fault, SettingsError
from config.load import load_settings
from config.schema import Settings

SHIPPED = Path(__file__).parents[3] / "medai_node.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "medai_node.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path, environ: dict[str, str] | None = None) -> list[Fault]:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ or {})
    return list(caught.value.faults)


def test_the_shipped_file_says_what_holds_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_settings(write(tmp_path, SHIPPED.read_text(encoding="utf-8")), {})
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    built_in = load_settings(None, {})
    assert built_in.node.data_dir == empty / "var"
    assert shipped.model_dump(exclude={"node": {"data_dir"}}) == built_in.model_dump(
        exclude={"node": {"data_dir"}}
    )
    assert [route.model for route in built_in.routes] == ["ct-tissue", "xr-quality"]


def test_the_examples_of_the_shipped_file_load_too(tmp_path: Path) -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    starts = ("# [", '# path = "models"')
    uncommented, inside = [], False
    for line in lines:
        inside = line.startswith(starts) or (inside and line.startswith("# "))
        uncommented.append(line[2:] if inside else line)
    loaded = load_settings(write(tmp_path, "\n".join(uncommented)), {})
    assert [peer.ae_title for peer in loaded.peers] == ["CT1"]
    assert [destination.name for destination in loaded.destinations] == ["pacs"]
    assert loaded.models.path == tmp_path / "models"
    assert loaded.node.tls is not None
    assert loaded.node.tls.certificate == tmp_path / "tls/node.pem"
    assert loaded.destinations[0].tls is not None
    assert loaded.destinations[0].tls.ca == tmp_path / "tls/pacs-ca.pem"


def test_the_file_of_the_current_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[node]\nport = 104\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_settings(None, {})
    assert loaded.node.port == 104
    assert loaded.routes == ()


def test_five_mistakes_are_named_at_once_with_line_key_and_remedy(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
[node]
prot = 104
port = 70000

[storage]
own_results = "keep"

[[peers]]
ae_title = "CT1"

[[routes]]
name = "CT"
when = { Modality = "CT" }
model = "ct-tissue"
send_to = [
    "pacs",
    "pax",
]

[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
""",
    )
    assert [(fault.where, fault.key, fault.found, fault.allowed) for fault in faults(path)] == [
        ("medai_node.toml:2", "node.prot", "an unknown key", "did you mean node.port?"),
        (
            "medai_node.toml:3",
            "node.port",
            "70000",
            "wanted: a whole number from 0 to 65535 (default 11112)",
        ),
        (
            "medai_node.toml:6",
            "storage.own_results",
            '"keep"',
            'wanted: "store" or "refuse" (default "store")',
        ),
        (
            "medai_node.toml:8",
            "peers.0.hosts",
            "nothing",
            "wanted: a list of at least 1, each an address or a network such as 10.1.2.0/24",
        ),
        (
            "medai_node.toml:17",
            "routes.0.send_to.1",
            "the unknown destination 'pax'",
            "the destinations of this file: 'pacs'",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "where", "key", "found"),
    [
        ("[node\n", "medai_node.toml:1", "syntax", "Expected ']'"),
        ("\n\n[node]\nport = \n", "medai_node.toml:4", "syntax", "Invalid value"),
        ("[node]\nport = 1\nport = 2\n", "medai_node.toml:3", "syntax", "Cannot overwrite"),
        ("a = " + "[" * 3000 + "]" * 3000, "medai_node.toml:1", "syntax", "values nested too"),
        ('[node]\nport = "104"\n', "medai_node.toml:2", "node.port", '"104"'),
        ("[node]\nport = true\n", "medai_node.toml:2", "node.port", "true"),
        ("node.port = -1\n", "medai_node.toml:1", "node.port", "-1"),
        ("node = { port = 65536 }\n", "medai_node.toml:1", "node.port", "65536"),
        ("node = 3\n", "medai_node.toml:1", "node", "3"),
        ("[[node]]\nport = 1\n", "medai_node.toml:1", "node", "[{ port = 1 }]"),
        ("port = 104\n", "medai_node.toml:1", "port", "an unknown key"),
        ("[series]\nquiet_seconds = nan\n", "medai_node.toml:2", "series.quiet_seconds", "NaN"),
        ("[series]\nquiet_seconds = inf\n", "medai_node.toml:2", "series.quiet_seconds", "Inf"),
        ("[node]\nport = 2026-01-01\n", "medai_node.toml:2", "node.port", "a date or time"),
        ('[node]\nae_title = "A\\\\B"\n', "medai_node.toml:2", "node.ae_title", '"A\\\\B"'),
        ('[node]\nbind = "localhost"\n', "medai_node.toml:2", "node.bind", '"localhost"'),
        (
            '[node]\nprivate_sop_classes = ["1.02"]\n',
            "medai_node.toml:2",
            "node.private_",
            '"1.02"',
        ),
        (
            '[models]\nproviders = ["cpu", "gpu"]\n',
            "medai_node.toml:2",
            "models.providers.1",
            '"gpu"',
        ),
        (
            '[[peers]]\nae_title = "A"\nhosts = ["x"]\n',
            "medai_node.toml:3",
            "peers.0.hosts.0",
            '"x"',
        ),
        ("[[what]]\na = 1\n", "medai_node.toml:1", "what", "an unknown key"),
        ("peers = [1]\n", "medai_node.toml:1", "peers.0", "1"),
        ("peers = 1\n", "medai_node.toml:1", "peers", "1"),
    ],
)
def test_one_fault_has_its_line_and_key(
    tmp_path: Path, text: str, where: str, key: str, found: str
) -> None:
    (fault,) = faults(write(tmp_path, text))
    assert fault.where == where
    assert fault.key.startswith(key)
    assert fault.found.startswith(found)
    assert fault.allowed


def test_doubled_names_are_found_beside_other_faults(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "A"\nmodel = "ct-tissue"\nwhen = {}\n'
    found = faults(write(tmp_path, route + route + "[web]\nport = -1\n"))
    assert [(fault.where, fault.key) for fault in found] == [
        ("medai_node.toml:6", "routes.1.name"),
        ("medai_node.toml:10", "web.port"),
    ]


def test_bytes_that_are_not_text_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "medai_node.toml"
    path.write_bytes(b'[node]\nae_title = "\xe4"\n')
    assert [fault.where for fault in faults(path)] == ["medai_node.toml:2"]


def test_a_missing_file_is_one_fault(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path / "absent.toml")
    assert fault.where.endswith("absent.toml")
    assert fault.found == "no such file or directory"


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "medai_node.toml"
    path.write_bytes(b"\xef\xbb\xbf[node]\r\nport = 104\r\nprt = 1\r\n")
    assert [fault.where for fault in faults(path)] == ["medai_node.toml:3"]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\ndata_dir = "data"\n[models]\npath = "../models"\n')
    loaded = load_settings(path, {})
    assert loaded.node.data_dir == tmp_path / "data"
    assert loaded.models.path == tmp_path / "../models"


def test_variables_override_the_file_with_the_kinds_of_the_schema(tmp_path: Path) -> None:
    peer = {"ae_title": "MR1", "hosts": ["10.0.0.1"]}
    loaded = load_settings(
        write(tmp_path, '[node]\nport = 104\nbind = "0.0.0.0"\n[storage]\nmin_free = "auto"\n'),
        {
            "MEDAI__NODE__PORT": "11113",
            "MEDAI__NODE__AE_TITLE": "42",
            "MEDAI__STORAGE__MIN_FREE": "1000",
            "MEDAI__WEB__ENABLED": "False",
            "MEDAI__MODELS__PROVIDERS": '["cuda", "cpu"]',
            "MEDAI__PEERS": json.dumps([peer]),
            "HOME": "/nowhere",
        },
    )
    assert (loaded.node.port, loaded.node.ae_title, loaded.node.bind) == (11113, "42", "0.0.0.0")
    assert loaded.storage.min_free == 1000
    assert loaded.web.enabled is False
    assert loaded.models.providers == ("cuda", "cpu")
    assert [entry.hosts for entry in loaded.peers] == [("10.0.0.1/32",)]


def test_a_faulty_variable_is_named(tmp_path: Path) -> None:
    found = faults(
        write(tmp_path, "[node]\nport = 104\n"),
        {"MEDAI__NODE__PORT": "many", "MEDAI__NODE__PROT": "1", "MEDAI__PEERS": '[{"hosts":[]}]'},
    )
    assert [(fault.where, fault.key) for fault in found] == [
        ("MEDAI__NODE__PORT", "node.port"),
        ("MEDAI__NODE__PROT", "node.prot"),
        ("MEDAI__PEERS", "peers.0.ae_title"),
        ("MEDAI__PEERS", "peers.0.hosts"),
    ]
    assert found[1].allowed == "did you mean MEDAI__NODE__PORT?"


def unknown_models(loaded: Settings) -> Iterator[tuple[str, str, str]]:
    for index, route in enumerate(loaded.routes):
        if route.model != "ct-tissue":
            yield f"routes.{index}.model", f"the unknown model {route.model!r}", "'ct-tissue'"


def test_checks_of_the_caller_get_lines_also_beside_other_faults(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
[[routes]]
name = "broken"
[[routes]]
name = "CT"
when = {}
model = "ct-tisue"
send_to = ["pacs"]
""",
    )
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {}, [unknown_models])
    assert [(fault.where, fault.key) for fault in caught.value.faults] == [
        ("medai_node.toml:1", "routes.0.model"),
        ("medai_node.toml:1", "routes.0.when"),
        ("medai_node.toml:6", "routes.1.model"),
        ("medai_node.toml:7", "routes.1.send_to.0"),
    ]


def test_settings_made_in_code_are_held_to_the_same_names() -> None:
    with pytest.raises(ValueError, match="unknown destination 'pacs'"):
        Settings.model_validate(
            {"routes": [{"name": "A", "when": {}, "model": "m", "send_to": ["pacs"]}]}
        )


TOML_VALUES = st.one_of(
    st.sampled_from(['"CT1"', '""', '"a b"', "true", "0", "-1", "104", "1.5", "nan", "[]", "{}"]),
    st.sampled_from(['["sr"]', "[1]", "{ a = 1 }", "2026-01-01", '[["x"]]', "'''x'''"]),
)
KEYS = st.sampled_from(
    ["port", "ae_title", "hosts", "name", "when", "model", "send_to", "min_free", "prt", '"a b"']
)
HEADERS = st.sampled_from(
    ["[node]", "[storage]", "[[peers]]", "[[routes]]", "[[destinations]]", "[web]", "[x.y]", ""]
)


@settings(max_examples=200, deadline=None)
@given(tables=st.lists(st.tuples(HEADERS, st.dictionaries(KEYS, TOML_VALUES)), max_size=5))
def test_any_text_gives_settings_or_faults_on_its_own_lines(
    tmp_path_factory: pytest.TempPathFactory, tables: list[tuple[str, dict[str, str]]]
) -> None:
    text = "\n".join(
        "\n".join([header, *(f"{key} = {value}" for key, value in pairs.items())])
        for header, pairs in tables
    )
    path = write(tmp_path_factory.mktemp("settings"), text)
    try:
        load_settings(path, {})
    except SettingsError as error:
        count = text.count("\n") + 1
        for fault in error.faults:
            name, _, line = fault.where.partition(":")
            assert name == "medai_node.toml"
            assert 1 <= int(line) <= count


def test_tls_may_be_set_by_variables_and_is_checked_like_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, '[node.tls]\ncertificate = "node.pem"\n')
    loaded = load_settings(path, {"MEDAI__NODE__TLS__PRIVATE_KEY": "/keys/node.key"})
    assert loaded.node.tls is not None
    assert str(loaded.node.tls.private_key) == "/keys/node.key"
    with pytest.raises(SettingsError) as raised:
        load_settings(path, {})
    assert str(raised.value) == (
        "medai_node.toml:1: node.tls.private_key: found nothing; wanted: a path"
    )
    with pytest.raises(SettingsError, match=r"node.tls: found 3; wanted: a table"):
        load_settings(write(tmp_path, "[node]\ntls = 3\n"), {})
    with pytest.raises(SettingsError, match="did you mean MEDAI__NODE__TLS__CLIENT_CA"):
        load_settings(path, {"MEDAI__NODE__TLS__CLIENT_CAS": "x"})


@pytest.mark.parametrize(
    ("written", "taken"),
    [("AB:" * 31 + "AB", "ab" * 32), ("ab" * 32, "ab" * 32), ("ab" * 31, None), ("xy" * 32, None)],
)
def test_a_fingerprint_is_taken_as_openssl_writes_it(
    tmp_path: Path, written: str, taken: str | None
) -> None:
    path = write(
        tmp_path,
        f'[[peers]]\nae_title = "CT1"\nhosts = ["::1"]\ncertificate = "{written}"\n',
    )
    if taken is not None:
        assert load_settings(path, {}).peers[0].certificate == taken
        return
    with pytest.raises(SettingsError, match=r"peers.0.certificate: found .* SHA-256 fingerprint"):
        load_settings(path, {})


def test_a_limit_of_bytes_is_none_or_one_that_a_sender_lives_with(tmp_path: Path) -> None:
    peer = '[[peers]]\nae_title = "CT1"\nhosts = ["::1"]\nmax_bytes_per_second = {}\n'
    assert load_settings(write(tmp_path, peer.format(65536)), {}).peers[0].max_bytes_per_second
    assert not load_settings(write(tmp_path, peer.format(0)), {}).peers[0].max_bytes_per_second
    with pytest.raises(SettingsError, match="found 100; wanted: 0 or a whole number of at least"):
        load_settings(write(tmp_path, peer.format(100)), {})

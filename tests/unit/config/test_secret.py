"""Secrets are named by the settings, never held or shown by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.describe import effective
from config.errors import SettingsError
from config.load import load_settings
from dicomnode.cli.common import CHECKS, secret_faults

WORDS = "correct-horse-battery-staple-4711"
TABLE = """\
[[web.tokens]]
name = "viewer"
may = ["feedback"]
secret = {where}
"""


def said(folder: Path, text: str) -> list[str]:
    """Every fault of a file, with its secrets looked at."""
    path = folder / "medai_node.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {}, (*CHECKS, secret_faults))
    return [str(fault).partition(": ")[2] for fault in caught.value.faults]


@pytest.mark.feature("P41")
def test_a_secret_comes_from_its_file_or_variable_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "viewer").write_text(f"{WORDS}\n")
    monkeypatch.setenv("VIEWER_TOKEN", WORDS[::-1])
    path = tmp_path / "medai_node.toml"
    second = TABLE.replace("viewer", "other").format(where='{ env = "VIEWER_TOKEN" }')
    path.write_text(TABLE.format(where='{ file = "viewer" }') + second)
    settings = load_settings(path, {}, (*CHECKS, secret_faults))
    assert [token.secret.read("secret") for token in settings.web.tokens] == [WORDS, WORDS[::-1]]
    assert settings.web.tokens[0].secret.file == tmp_path / "viewer"
    shown = str(effective(settings)) + repr(settings)
    assert "VIEWER_TOKEN" in shown
    assert WORDS not in shown
    assert WORDS[::-1] not in shown


@pytest.mark.feature("P41")
@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        (f'"{WORDS}"', 'secret: found a value that is not shown; wanted: { file = "…" } or'),
        (f'["{WORDS}"]', "secret: found a value that is not shown; "),
        (f'{{ file = "a", env = "{WORDS}" }}', "secret.env: found a value that is not shown; "),
        ("{ }", "secret: found a value that is not shown; wanted: "),
        ('{ file = "a", env = "B" }', "secret: found a value that is not shown; wanted: "),
        (f'{{ env = "{WORDS}" }}', "secret.env: found a value that is not shown; wanted: the na"),
        (f'{{ value = "{WORDS}" }}', "secret.value: found an unknown key; known here: file, env"),
        ('{ env = "NO_SUCH_TOKEN" }', "secret.env: found a variable that is not set; wanted: 32 "),
        ('{ file = "gone" }', "secret.file: found a file that cannot be read: no such file"),
        ('{ file = "." }', "secret.file: found a file that cannot be read: is a directory"),
        ('{ file = "short" }', "secret.file: found a secret that is too short, too long or of "),
        ('{ file = "two" }', "secret.file: found a secret that is too short, too long or of "),
        ('{ file = "binary" }', "secret.file: found a file that is not plain text; wanted: 32 "),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_quoted(
    tmp_path: Path, secret: str, fault: str
) -> None:
    (tmp_path / "short").write_text(WORDS[:31])
    (tmp_path / "two").write_text(f"{WORDS}\n{WORDS}\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (found,) = said(tmp_path, TABLE.format(where=secret))
    assert found.startswith(f"web.tokens.0.{fault}")
    assert WORDS not in found


@pytest.mark.parametrize("tokens", [f'"{WORDS}"', f'["{WORDS}"]', f'[["{WORDS}"]]'])
def test_what_stands_where_tokens_belong_is_not_quoted_either(tmp_path: Path, tokens: str) -> None:
    (found,) = said(tmp_path, f"[web]\ntokens = {tokens}\n")
    assert "a value that is not shown" in found
    assert WORDS not in found


@pytest.mark.feature("P41")
@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.1.2.3"])
def test_tokens_do_not_go_out_in_the_clear(tmp_path: Path, bind: str) -> None:
    (tmp_path / "viewer").write_text(WORDS)
    web = f'[web]\nbind = "{bind}"\n'
    assert said(tmp_path, web + TABLE.format(where='{ file = "viewer" }')) == [
        f"web.bind: found {bind} beside web.tokens, which would pass there in the clear; "
        "bind 127.0.0.1 and put a proxy with TLS in front"
    ]
    (tmp_path / "medai_node.toml").write_text(web)
    assert load_settings(tmp_path / "medai_node.toml", {}, CHECKS).web.tokens == ()


def test_two_tokens_share_neither_name_nor_secret(tmp_path: Path) -> None:
    (tmp_path / "viewer").write_text(WORDS)
    assert said(tmp_path, TABLE.format(where='{ file = "viewer" }') * 2) == [
        "web.tokens.1.name: found the name 'viewer' a second time; names are unique",
        "web.tokens.1.secret: found the secret of another token; each token has its own",
    ]

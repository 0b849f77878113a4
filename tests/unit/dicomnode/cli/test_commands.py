"""Settings, models and the help of every command."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import click
import pytest
import typer

from ai.importing.kinds import KINDS
from ai.registry import bundled_models_path
from dicomnode.cli.app import app
from tests.unit.dicomnode.cli.conftest import Run

WRONG = """\
[node]
prot = 11112
ae_title = "A TITLE THAT IS TOO LONG"

[[peers]]
ae_title = "CT1"
hosts = ["10.0.0.300"]

[[routes]]
name = "CT"
when = { Modality = "CT", slcies = { min = 10 } }
model = "ct-tissue"
send_to = ["pasc"]

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
"""


@pytest.mark.feature("P41")
def test_five_mistakes_are_named_at_once_with_line_key_and_remedy(
    medai: Run, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(WRONG)
    done = medai("config", "check", "--config", path)
    assert done.code == 2
    assert done.out == ""
    told = {line.split(": ")[1]: line for line in done.err.splitlines()}
    expected = {
        "node.prot": (2, "node.port"),
        "node.ae_title": (3, "1 to 16 printable ASCII characters"),
        "peers.0.hosts.0": (7, "an address or a network"),
        "routes.0.when.slcies": (11, "slices"),
        "routes.0.send_to.0": (13, "pacs"),
    }
    assert told.keys() == expected.keys()
    for key, (line, remedy) in expected.items():
        assert told[key].startswith(f"{path}:{line}: ") or told[key].startswith(
            f"{path.name}:{line}: "
        )
        assert remedy in told[key]


def test_settings_shown_as_json_are_settings_again(
    medai: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI__NODE__AE_TITLE", "ROUNDTRIP")
    shown = medai("config", "show", "--json")
    content = json.loads(shown.out)
    assert content["node"]["ae_title"] == "ROUNDTRIP"
    monkeypatch.delenv("MEDAI__NODE__AE_TITLE")
    for section, table in content.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            if value is not None:
                text = value if isinstance(value, str) else json.dumps(value)
                monkeypatch.setenv(f"MEDAI__{section}__{key}".upper(), text)
        if isinstance(table, list):
            entries = [{k: v for k, v in entry.items() if v is not None} for entry in table]
            monkeypatch.setenv(f"MEDAI__{section}".upper(), json.dumps(entries))
    assert json.loads(medai("config", "show", "--json").out) == content


def test_settings_shown_as_text_are_toml(medai: Run) -> None:
    lines = [line for line in medai("config", "show").out.splitlines() if "= null" not in line]
    content = tomllib.loads("\n".join(line for line in lines if not line.startswith("when")))
    assert content["node"]["port"] == 11112


def test_the_schema_is_json(medai: Run) -> None:
    assert json.loads(medai("config", "schema").out)["properties"].keys() >= {"node", "routes"}


def test_the_shipped_settings_are_sound(medai: Run) -> None:
    shipped = Path(__file__).parents[4] / "medai_node.toml"
    done = medai("config", "check", "--config", shipped)
    assert done.code == 0
    assert done.out == "The settings are sound: 2 routes, no peers, destinations: none.\n"


@pytest.mark.feature("F06")
def test_models_are_listed_and_proved(medai: Run) -> None:
    listed = json.loads(medai("models", "list", "--json").out)
    names = ["ct-tissue", "mr-foreground", "us-region", "xr-quality"]
    assert [row["model"] for row in listed] == [f"{name}@1.0.0" for name in names]
    assert "ct-tissue@1.0.0" in medai("models", "list").out
    proved = medai("models", "verify", "--json")
    assert proved.code == 0, proved.err
    reports = json.loads(proved.out)
    assert {report["model"] for report in reports} == {row["model"] for row in listed}
    for report in reports:
        assert report["cases"]
        assert not any(report["cases"].values())
    assert "as expected" in medai("models", "verify", "xr-quality").out


@pytest.mark.feature("F05", "P41")
def test_a_model_whose_file_was_changed_is_named_and_not_run(medai: Run, tmp_path: Path) -> None:
    package = tmp_path / "models" / "ct-tissue" / "1.0.1"
    (bundled,) = (bundled_models_path() / "ct-tissue").iterdir()
    shutil.copytree(bundled, package)
    manifest = package / "model.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0.0"', 'version = "1.0.1"'))
    with (package / "model.onnx").open("ab") as graph:
        graph.write(b"\0")
    settings = tmp_path / "medai_node.toml"
    settings.write_text('[models]\npath = "models"\n')
    for command in (("models", "list"), ("models", "verify")):
        done = medai(*command, "--config", settings)
        assert done.code == 1
        assert "ct-tissue@1.0.1" in done.err
        assert "model.onnx" in done.err
        assert "Traceback" not in done.err


def test_a_route_that_wants_text_read_by_no_model_is_told(medai: Run, tmp_path: Path) -> None:
    settings = tmp_path / "medai_node.toml"
    route = '[[routes]]\nname = "US"\nwhen = { Modality = "US" }\nmodel = "us-region"\n'
    settings.write_text(f'{route}burned_in = "warn"\n')
    done = medai("config", "check", "--config", settings)
    assert done.code == 2
    assert (
        "medai_node.toml:5: routes.0.burned_in: found 'burned-in-text'; no production" in done.err
    )


def commands(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*before, name))
        if hasattr(command, "commands"):
            found += commands(command, (*before, name))
    return found


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)), ids=" ".join)
def test_every_command_has_help(medai: Run, command: tuple[str, ...]) -> None:
    done = medai(*command, "--help")
    assert done.code == 0
    assert "Usage: medai-node " + " ".join(command) in done.out
    said = done.out.splitlines()[3].strip()
    assert said.endswith(".") or "?" in said or len(said) > 20


@pytest.mark.feature("F25")
def test_the_help_of_import_names_every_kind(medai: Run) -> None:
    said = medai("models", "import", "--help").out
    assert [kind for kind in KINDS if kind not in said] == []

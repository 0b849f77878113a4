"""A model's life by commands: what they say, what they change, what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ai.package import read_package
from ai.seal import renew
from ai.types import Volume
from config.errors import SettingsError
from dicomnode.cli.common import START_CHECKS, read_settings
from dicomnode.node import Node
from tests import factories
from tests.model_packages import measuring
from tests.model_versions import new_version
from tests.unit.dicomnode.cli.conftest import Done, Run

V1, V2, V3 = "xr-quality@1.0.0", "xr-quality@2.0.0", "xr-quality@3.0.0"
SETTINGS = """\
[models]
path = "models"
{more}

[[routes]]
name = "Radiographs"
when = {{ Modality = "CR" }}
model = "xr-quality"
canary = 10
shadow = true
"""


class Site:
    """A settings file, and commands on it."""

    def __init__(self, folder: Path, medai: Run) -> None:
        self.folder, self._medai = folder, medai
        self.config = folder / "medai_node.toml"
        self.models = folder / "models"
        self.set()

    def set(self, more: str = "") -> None:
        self.config.write_text(SETTINGS.format(more=more))

    def __call__(self, *arguments: object, code: int = 0) -> Done:
        done = self._medai("models", *arguments, "--config", self.config)
        assert done.code == code, (done.out, done.err)
        assert "Traceback" not in done.err
        return done

    def source(self, version: str, **more: Any) -> Path:
        return new_version(self.folder / "source", version, name="xr-quality", **more).folder

    def stands(self) -> dict[str, str]:
        rows = json.loads(self("list", "--json").out)
        return {row["model"]: row["status"] for row in rows if row["model"].startswith("xr-")}

    def row(self, reference: str) -> dict[str, Any]:
        return dict(json.loads(self("show", reference, "--json").out))

    def events(self) -> list[tuple[str, str, str]]:
        with closing(sqlite3.connect(self.folder / "var" / "medai.sqlite")) as database:
            found = database.execute(
                "SELECT action, object, outcome FROM audit_event WHERE actor LIKE 'user:%'"
            )
            return list(found)


@pytest.fixture
def site(tmp_path: Path, medai: Run) -> Site:
    return Site(tmp_path, medai)


@pytest.mark.feature("F06", "F15")
def test_the_whole_life_by_commands(site: Site) -> None:
    added = site("add", site.source("2.0.0", status="production"))
    digest = read_package(site.models / "xr-quality" / "2.0.0").digest
    assert added.out.startswith(f"{V2} is added, in development: SHA-256 {digest}\n")
    assert site.stands() == {V1: "production", V2: "development"}
    promoted = site("promote", V2)
    assert promoted.out.startswith(f"{V2} is in validation: 2 golden cases as expected on ")
    assert site.row(V2)["routes"] == ["Radiographs (canary 10 %)", "Radiographs (shadow)"]
    site("promote", V2)
    assert site.row("xr-quality")["model"] == V2
    assert (site.row(V2)["serves"], site.row(V1)["serves"]) == (True, False)
    assert site.row(V2)["routes"] == ["Radiographs"]
    back = site("rollback", "xr-quality")
    assert back.out == f"{V1} serves again; {V2} is in development.\n"
    assert site.row("xr-quality")["model"] == V1
    site("promote", V2, "--to", "production")
    assert site.stands() == {V1: "production", V2: "production"}
    assert site("retire", V2).out == f"{V2} is retired.\n"
    assert site.stands() == {V1: "production", V2: "retired"}
    assert site.events() == [
        ("model.added", f"model:{V2}", "success"),
        ("model.validation", f"model:{V2}", "success"),
        ("model.production", f"model:{V2}", "success"),
        ("model.development", f"model:{V2}", "success"),
        ("model.production", f"model:{V2}", "success"),
        ("model.retired", f"model:{V2}", "success"),
    ]


def test_what_cannot_be_is_refused_in_one_sentence(site: Site) -> None:
    source = site.source("2.0.0")
    site("add", source)
    wrong: list[tuple[tuple[object, ...], int, str]] = [
        (("add", source), 2, f"{V2} is there already"),
        (("add", site.folder / "nothing"), 1, "neither a folder nor a file"),
        (("promote", "xr-quality"), 2, "say which version of xr-quality"),
        (("promote", "xr-quality@9.0.0"), 1, "no model 'xr-quality@9.0.0'"),
        (("promote", V1), 2, "is in production already"),
        (("promote", V1, "--to", "validation"), 2, "`models rollback` takes it back"),
        (("rollback", "xr-quality"), 2, "no other version of xr-quality is in production"),
        (("rollback", V1), 2, "without a version"),
        (("rollback", "nothing"), 1, "none of that name"),
        (("retire", "xr-quality"), 2, "say which version"),
        (("show", "nothing"), 1, "none of that name"),
    ]
    for command, code, said in wrong:
        done = site(*command, code=code)
        assert said in done.err
        assert done.err.count("\n") == 1
    assert site.stands() == {V1: "production", V2: "development"}
    site("retire", V2)
    assert "retired already" in site("retire", V2, code=2).err
    # What was retired by mistake may come back, proved again.
    site("promote", V2)
    assert site.stands()[V2] == "validation"


def test_retiring_the_last_version_says_which_routes_stand_still(site: Site) -> None:
    done = site("retire", V1)
    assert done.err == "The route 'Radiographs' has no version left that serves.\n"
    assert site("list").out.count("retired") == 1


def test_a_retired_model_is_no_reason_not_to_start(site: Site) -> None:
    site("retire", V1)
    wrong = site._medai("config", "check", "--config", site.config)
    assert wrong.code == 2
    assert "routes.0.model" in wrong.err
    assert f"{V1} (retired)" in wrong.err
    assert read_settings(site.config, START_CHECKS).routes[0].model == "xr-quality"
    text = site.config.read_text()
    site.config.write_text(text.replace('"xr-quality"', '"xr-qualty"\ncanary_model = "x@1.0.0"'))
    with pytest.raises(SettingsError) as told:
        read_settings(site.config, START_CHECKS)
    assert [fault.key for fault in told.value.faults] == [
        "routes.0.model",
        "routes.0.canary_model",
    ]


@pytest.mark.feature("F15")
def test_a_canary_that_answers_nobody_is_told_and_no_reason_not_to_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site("add", site.source("2.0.0"))
    text = site.config.read_text()
    named = text.replace("canary = 10", f'canary = 100\ncanary_model = "{V2}"')
    site.config.write_text(named)
    said = f"the canary {V2} answers nobody: it is in development"
    image = factories.write(factories.cr_image(), site.folder / "image")[0]

    def medai(*command: object) -> Done:
        return site._medai(*command, "--config", site.config)

    wrong = medai("config", "check")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert f"routes.0.canary_model: found {V2!r}; {said}" in wrong.err
    assert f"Goes to {V1}; {said}" in medai("explain", image).out
    monkeypatch.setattr(Node, "run", lambda self, on_ready: None)
    monkeypatch.setattr("dicomnode.node.start_logging", lambda data_dir: None)
    started = medai("run")
    assert started.code == 0
    assert started.err == f"The route 'Radiographs' goes on without its canary: {said}.\n"
    site("promote", V2)
    assert medai("config", "check").code == 0
    assert f"Goes to {V2}" in medai("explain", image).out
    assert medai("run").err == ""


def test_a_canary_of_another_model_is_a_fault(site: Site) -> None:
    text = site.config.read_text()
    site.config.write_text(text.replace("canary = 10", 'canary_model = "ct-tissue@1.0.0"'))
    said = "a canary is another version of the model of its route, xr-quality"
    for command in (("config", "check"), ("run",)):
        wrong = site._medai(*command, "--config", site.config)
        assert wrong.code == 2
        assert f"routes.0.canary_model: found 'ct-tissue@1.0.0'; {said}" in wrong.err


def test_a_version_whose_proof_fails_stays_where_it_is(site: Site) -> None:
    source = site.source("2.0.0")
    path = source / "golden" / "upright.json"
    case = json.loads(path.read_text())
    case["findings"][0]["measurements"][0] += 50
    path.write_text(json.dumps(case))
    renew(source, source)
    site("add", source)
    bare = site.source("3.0.0")
    shutil.rmtree(bare / "golden")
    renew(bare, bare)
    site("add", bare)
    for reference, said in ((V2, "golden case upright: "), (V3, "has no golden case")):
        refused = site("promote", reference, code=1)
        assert said in refused.err
        assert refused.err.endswith(f"{reference} stays where it is.\n")
        assert said in site("verify", reference, code=1).err
    assert site.stands() == {V1: "production", V2: "development", V3: "development"}
    assert site.events()[-1] == ("model.refused", f"model:{V3}", "failure")


@pytest.mark.feature("F06")
def test_a_version_whose_results_fail_the_gate_is_not_promoted(site: Site) -> None:
    values = np.full((1, 8, 8), -5, np.int16)
    below = Volume(values, "1", None, (None, None, None), (-100.0, 100.0))
    site("add", measuring(site.folder / "source", below, modality="CR", units="1").folder)
    said = "golden case flat: its results fail the gate: value: sr: a size is negative"
    refused = site("promote", "measuring@1.0.0", code=1)
    assert said in refused.err
    assert refused.err.endswith("measuring@1.0.0 stays where it is.\n")
    assert said in site("verify", "measuring@1.0.0", code=1).err
    (row,) = json.loads(site("verify", "measuring@1.0.0", "--json", code=1).out)
    assert row["cases"] == {"flat": []}
    assert row["results"]["flat"]["problems"]


def test_what_the_golden_cases_do_not_show_is_told(site: Site) -> None:
    values = np.full((1, 8, 8), 5, np.int16)
    nowhere = Volume(values, "[hnsf'U]", None, (None, None, None), (-100.0, 100.0))
    source = measuring(site.folder / "source", nowhere, modality="CT", units="[hnsf'U]").folder
    site("add", source)
    said = "golden case flat does not show what its results look like: "
    promoted = site("promote", "measuring@1.0.0")
    assert promoted.out.endswith("1 golden case as expected on CPUExecutionProvider.\n")
    assert promoted.err.startswith(said)
    verified = site("verify", "measuring@1.0.0")
    assert verified.out == "measuring@1.0.0 flat: as expected\n"
    assert said in verified.err


def test_a_graph_that_is_not_what_the_manifest_says_is_not_promoted(site: Site) -> None:
    source = site.source("2.0.0", change=('tensor = "pixels"', 'tensor = "other"'))
    site("add", source)
    refused = site("promote", V2, code=1)
    assert "pixels" in refused.err
    assert site.stands()[V2] == "development"


@pytest.mark.feature("F05")
def test_bytes_that_change_after_a_promotion_serve_no_more(site: Site) -> None:
    site("add", site.source("2.0.0"))
    site("promote", V2, "--to", "production")
    folder = site.models / "xr-quality" / "2.0.0"
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace("Points out", "Now points out"))
    assert site.stands()[V2] == "development"
    assert site.row("xr-quality")["model"] == V1
    site("promote", V2, "--to", "production")
    assert site.row("xr-quality")["model"] == V2


def traversing(site: Site) -> Path:
    path = site.folder / "hostile.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../../escaped", b"x")
    return path


def linked(site: Site) -> Path:
    source = site.source("5.0.0")
    (source / "golden" / "link").symlink_to("/etc/passwd")
    return source


def changed(site: Site) -> Path:
    source = site.source("6.0.0")
    with (source / "model.onnx").open("ab") as graph:
        graph.write(b"\0")
    return source


def unnamed(site: Site) -> Path:
    source = site.source("7.0.0")
    (source / "extra.bin").write_bytes(b"x")
    return source


def two(site: Site) -> Path:
    site.source("8.0.0")
    site.source("9.0.0")
    return site.folder / "source"


def empty(site: Site) -> Path:
    (site.folder / "empty").mkdir()
    return site.folder / "empty"


@pytest.mark.parametrize("hostile", [traversing, linked, changed, unnamed, two, empty])
def test_what_is_refused_leaves_nothing_behind(site: Site, hostile: Callable[[Site], Path]) -> None:
    done = site("add", hostile(site), code=1)
    assert done.err.count("\n") == 1
    assert sorted(os.listdir(site.models)) == [".lock"]
    assert not (site.folder / "escaped").exists()
    assert site.stands() == {V1: "production"}
    assert site.events() == [("model.refused", "models", "failure")]


def test_an_archive_comes_in_like_a_folder_and_leftovers_go(site: Site) -> None:
    source = site.source("2.0.0")
    archive = shutil.make_archive(str(site.folder / "packed"), "gztar", source)
    (site.models / ".incoming" / "killed").mkdir(parents=True)
    site("add", archive)
    assert sorted(os.listdir(site.models)) == [".lock", "xr-quality"]
    assert read_package(site.models / "xr-quality" / "2.0.0").digest == read_package(source).digest
    other = renew_with(site.source("2.0.1"), "2.0.0")
    assert "another package is there as xr-quality@2.0.0" in site("add", other, code=2).err
    bundled = renew_with(site.source("2.0.2"), "1.0.0")
    assert "comes with the node" in site("add", bundled, code=2).err


def renew_with(folder: Path, version: str) -> Path:
    """The package under another version, in a folder that is not called so."""
    manifest = folder / "model.toml"
    text = manifest.read_text().replace(f'version = "{folder.name}"', f'version = "{version}"')
    manifest.write_text(text.replace("Points out", "Also points out"))
    return folder


def test_a_site_may_demand_a_signature(site: Site) -> None:
    key = Ed25519PrivateKey.generate()
    encoding = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (site.folder / "author.key").write_bytes(key.private_bytes(*encoding))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (site.folder / "author.pem").write_bytes(public)
    source = site.source("2.0.0")
    site.set('require_signature = true\ntrusted_keys = ["author.pem"]')
    assert "xr-quality@2.0.0 is not signed" in site("add", source, code=1).err
    signed = site._medai("models", "sign", source, "--key", site.folder / "author.key")
    assert signed.code == 0, signed.err
    name = signed.out.partition("by the key ")[2][:16]
    site("add", source)
    site("promote", V2)
    assert f"{V2} is signed by the key {name}" in site("verify", V2).out
    # A package that was laid there by hand is not found.
    shutil.copytree(site.source("3.0.0"), site.models / "xr-quality" / "3.0.0")
    assert "xr-quality@3.0.0: xr-quality@3.0.0 is not signed" in site("list", code=1).err
    site.set('require_signature = true\ntrusted_keys = ["lost.pem"]')
    assert "lost.pem cannot be read" in site("list", code=1).err
    site.set("require_signature = true")
    assert "none of the keys that are trusted" in site("list", code=1).err

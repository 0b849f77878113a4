"""TLS with DCMTK, which calls the node and is called by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from config.peers import DestinationTlsSettings
from dicomnode.net.scu import Peer, echo, send
from tests import factories
from tests.certificates import Authority, Identity
from tests.harness import NodeUnderTest
from tests.interop.programs import StoreScp, run

SETTINGS = """\
[node.tls]
certificate = "{folder}/node.pem"
private_key = "{folder}/node.key"
client_ca = "{folder}/ca.pem"

[[peers]]
ae_title = "DCMTK"
hosts = ["127.0.0.1"]
certificate = "{fingerprint}"
"""


class TlsStoreScp(StoreScp):
    """``storescp`` over TLS; whoever calls it must show a certificate of the authority."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self.identity = authority.issue("storescp")
        self._ca = authority.path

    def command(self) -> list[str]:
        return [*super().command()[:-1], *options(self.identity, self._ca), str(self.port)]

    def is_up(self) -> bool:
        command = ("echoscu", *options(self.identity, self._ca), "-aec", self.ae_title)
        return run(*command, "127.0.0.1", str(self.port)).returncode == 0


def options(identity: Identity, ca: Path) -> list[str]:
    files = (identity.private_key, identity.certificate)
    return ["--enable-tls", *map(str, files), "--add-cert-file", str(ca)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def node(tmp_path: Path, authority: Authority) -> Iterator[NodeUnderTest]:
    authority.issue("node")
    fingerprint = authority.issue("dcmtk").fingerprint
    more = SETTINGS.format(folder=tmp_path, fingerprint=fingerprint)
    with NodeUnderTest(tmp_path / "node", more, receivers=2) as running:
        yield running


@pytest.mark.tools
@pytest.mark.feature("P03", "P25")
def test_dcmtk_calls_the_node_over_tls(
    node: NodeUnderTest, tmp_path: Path, authority: Authority
) -> None:
    files = factories.write(factories.ct_series(6, seed=1), tmp_path / "files")
    mine = Identity(tmp_path / "dcmtk.pem", tmp_path / "dcmtk.key")
    to = ("-aet", "DCMTK", "-aec", "MEDAI", "127.0.0.1", str(node.state.dicom[1]))
    for profile in ("--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"):
        done = run("echoscu", *options(mine, authority.path), profile, *to)
        assert done.returncode == 0, done.stdout
    done = run("storescu", *options(mine, authority.path), *to, *files)
    assert done.returncode == 0, done.stdout
    node.wait_until(lambda: len(node.rows("SELECT 1 FROM instance")) == len(files), "a row each")
    other = authority.issue("other")
    assert run("echoscu", *options(other, authority.path), *to).returncode != 0
    anonymous = ("--anonymous-tls", "--add-cert-file", authority.path)
    assert run("echoscu", *anonymous, *to).returncode != 0
    assert run("echoscu", *to).returncode != 0
    assert run("echoscu", *options(mine, authority.path), *to).returncode == 0


@pytest.mark.tools
@pytest.mark.feature("P03")
def test_the_node_sends_to_dcmtk_over_tls(tmp_path: Path, authority: Authority) -> None:
    files = factories.write(factories.ct_series(3, seed=2), tmp_path / "files")
    mine = authority.issue("node")
    tls = DestinationTlsSettings(ca=authority.path, **vars(mine))
    with TlsStoreScp(tmp_path / "pacs", authority) as pacs:
        peer = Peer(pacs.ae_title, "127.0.0.1", pacs.port, "MEDAI", tls)
        assert echo(peer) == 0
        assert all(sent.accepted for sent in send(files, peer))
        assert len(pacs.files()) == len(files)

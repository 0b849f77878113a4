"""Archives of others, asked how many instances a study has."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.net.find import Counts, ask_counts
from dicomnode.net.scu import Peer, send
from tests import factories
from tests.interop.programs import Orthanc, Program, free_ports

ARCHIVE = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 4
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQRSCP {folder} RW (9, 99mb) ANY
AETable END
"""


class QueryScp(Program):
    """DCMTK's ``dcmqrscp``, which knows no counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "DCMQRSCP")
        (folder / "received").mkdir()

    def command(self) -> list[str]:
        settings = self.folder / "dcmqrscp.cfg"
        with free_ports(1) as (self.port,):
            settings.write_text(ARCHIVE.format(port=self.port, folder=self.folder / "received"))
        return ["dcmqrscp", "-c", str(settings)]


@pytest.mark.tools
@pytest.mark.feature("P06")
@pytest.mark.parametrize("archive", ["Orthanc", "dcmqrscp"])
def test_an_archive_says_how_many_it_has_or_nothing(tmp_path: Path, archive: str) -> None:
    images = factories.ct_series(5, rows=16, columns=16)
    shot = factories.secondary_capture()
    shot.StudyInstanceUID = images[0].StudyInstanceUID
    paths = factories.write([*images, shot], tmp_path / "files")
    program = Orthanc(tmp_path / "pacs") if archive == "Orthanc" else QueryScp(tmp_path / "pacs")
    with program as pacs:
        peer = Peer(pacs.ae_title, "127.0.0.1", pacs.port)
        assert not [sent.why for sent in send(paths, peer) if sent.why]
        found = ask_counts(peer, images[0].StudyInstanceUID)
    series = {images[0].SeriesInstanceUID: 5, shot.SeriesInstanceUID: 1}
    assert found == (Counts(6, series) if archive == "Orthanc" else Counts(None, {}))

"""What the integration tests look at: what was sent, and what came to the stand-in PACS."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomnode.net.scu import Sent, send
from dicomnode.net.standin import StandInPacs
from storage.part10 import data_set_offset
from tests.harness import NodeUnderTest


def data_set_digest(path: Path) -> str:
    """SHA-256 of the data set's bytes: what goes over the network."""
    content = path.read_bytes()
    return hashlib.sha256(content[data_set_offset(content) :]).hexdigest()


def plain_digest(path: Path) -> str:
    """SHA-256 of the data set's bytes, inflated where they lie deflated (PS3.5 A.5)."""
    content = path.read_bytes()
    data = content[data_set_offset(content) :]
    if read_file_meta_info(path).TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    return hashlib.sha256(data).hexdigest()


def send_all(node: NodeUnderTest, paths: Sequence[Path]) -> list[Sent]:
    """Send files to the node, which must take every one."""
    answers = send(paths, node.peer)
    refused = [(answer.path.name, answer.status, answer.why) for answer in answers if answer.why]
    assert not refused
    assert len(answers) == len(paths)
    return answers


def headers(pacs: StandInPacs) -> list[Dataset]:
    """What the PACS holds, without pixels."""
    return [dcmread(path, stop_before_pixels=True) for path in pacs.files.values()]


def kinds_by_study(results: Iterable[Dataset]) -> dict[str, dict[str, int]]:
    """How many results of each modality each study has."""
    counted: dict[str, Counter[str]] = {}
    for result in results:
        counted.setdefault(str(result.StudyInstanceUID), Counter())[str(result.Modality)] += 1
    return {study: dict(kinds) for study, kinds in counted.items()}


def uid_of(path: Path, keyword: str) -> str:
    """One UID of a file."""
    return str(dcmread(path, specific_tags=[keyword])[keyword].value)


def events(node: NodeUnderTest) -> list[dict[str, Any]]:
    """The audit chain as it lies in the database, with the details read."""
    rows = node.rows("SELECT * FROM audit_event ORDER BY seq")
    return [{**row, "detail": json.loads(row["detail"])} for row in rows]


def assert_chain_is_intact(node: NodeUnderTest) -> None:
    """By the node's own command."""
    verdict = node.command("audit", "verify", check=None)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def assert_nothing_is_left_over(node: NodeUnderTest) -> None:
    """In the data folder of a node that ended in order: an empty spool, and no unnamed file."""
    assert not list((node.data_dir / "spool").iterdir())
    objects = node.data_dir / "objects"
    found = {str(path.relative_to(objects)) for path in objects.rglob("*.dcm")}
    named = node.rows("SELECT object_key FROM instance UNION SELECT object_key FROM result")
    assert found == {row["object_key"] for row in named}

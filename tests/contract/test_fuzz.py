"""A repeatable corpus of damaged associations against a receiver, and of damaged bytes to read.

``pytest -m slow tests/contract/test_fuzz.py`` runs the long forms. A case that fails is made again
by its number.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from config.errors import MalformedError
from dicomnode.net import dimse, walk
from dicomnode.net.dimse import Command, read_command
from dicomnode.net.walk import DatasetWalk, WalkedHeader
from storage.journal import SEGMENTS
from storage.part10 import data_set_offset
from tests.contract.conftest import Node, StartNode
from tests.contract.evolving import evolve, pieces
from tests.contract.mutations import CANARY, Mutant, damage, data_sets, mutant
from tests.contract.skipped import CHARACTER_SET, ITEM, why_unread
from tests.contract.wire import Wire, echo_rq, parse_command, store_rq
from tests.raw import CT, SYNTAXES, ct

SEED = 20260
PATIENCE = 5.0
"""Seconds: whoever waits longer for the node found a hang."""

EVERY = 25
"""Cases between two looks at the node."""

SMALL_FILES = (
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "rtplan.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
    "nested_priv_SQ.dcm",
    "UN_sequence.dcm",
)

A_ASSOCIATE_AC, P_DATA_TF, A_RELEASE_RP, A_ABORT = 0x02, 0x04, 0x06, 0x07
C_STORE_RSP = 0x8001


def provoke(port: int, case: Mutant) -> list[dict[int, bytes]]:
    """Send a damaged association and hear it out; the command sets of the answers."""
    answers: list[dict[int, bytes]] = []
    with Wire.connect(port) as wire:
        wire.sock.settimeout(PATIENCE)
        try:
            wire.sock.sendall(case.first)
            if case.asks and wire.read()[0] != A_ASSOCIATE_AC:
                hear_out(wire)
                return answers
            wire.sock.sendall(case.rest)
            if not case.whole:
                wire.sock.shutdown(socket.SHUT_WR)
            while (answer := wire.read())[0] not in (A_RELEASE_RP, A_ABORT):
                if answer[0] == P_DATA_TF:
                    answers.append(parse_command(answer[1][6:]))
            hear_out(wire)
        except TimeoutError:
            raise AssertionError(f"{case.fault}: the node hangs") from None
        except OSError:
            return answers  # the node ended the connection, as it may
    return answers


def hear_out(wire: Wire) -> None:
    """Say goodbye and wait until the node has closed the connection."""
    wire.sock.shutdown(socket.SHUT_WR)
    wire.closed()


class Corpus:
    """Sends cases to a node and looks after each few whether all promises hold."""

    def __init__(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        self.node = node
        self.caplog = caplog
        self.kept: dict[str, set[str]] = {}  # SOP instance → digests that were sent
        self.acknowledged: list[tuple[str, str]] = []
        self.seen = 0
        self.successes = 0
        self.unread = Counter[str]()  # objects that pydicom does not read, by the reason
        self.assert_promises_hold(-1)
        self.threads = set(threading.enumerate())
        self.at_rest: Counter[str] | None = None  # descriptors after the first cases

    def run(self, cases: range) -> None:
        for number in cases:
            case = mutant(SEED, number)
            begun = time.monotonic()
            answers = provoke(self.node.port, case)
            assert time.monotonic() - begun < PATIENCE, case.fault
            sent = {hashlib.sha256(data).hexdigest() for data in data_sets(case.first + case.rest)}
            for answer in answers:
                status = int.from_bytes(answer.get(0x0900, b"\xff\xff"), "little")
                if answer[0x0100] == C_STORE_RSP.to_bytes(2, "little") and status == 0:
                    uid = answer[0x1000].rstrip(b"\x00 ").decode()
                    self.kept.setdefault(uid, set()).update(sent)
                    self.acknowledged.append((case.fault, uid))
            if (number + 1) % EVERY == 0:
                self.assert_promises_hold(number)
                self.assert_nothing_grows(number)

    def assert_promises_hold(self, number: int) -> None:
        """The next good peer is served; what was acknowledged is there; logs name no one."""
        uid = f"1.9.{number + 1}"
        with Wire.associate(self.node.port) as wire:
            wire.sock.settimeout(PATIENCE)
            assert wire.echo().status == 0
            assert wire.store(ct(sop_instance=uid), uid).status == 0
            wire.release()
        assert self.node.receiver.wait_until_quiet(PATIENCE), f"open after case {number}"
        rows = self.node.rows()
        stored = {row["sop_instance_uid"] for row in rows}
        for fault, acknowledged in self.acknowledged:
            assert acknowledged in stored, f"{fault}: a wrong Success"
        self.successes += len(self.acknowledged)
        self.acknowledged.clear()
        for row in rows[self.seen :]:
            self.assert_is_as_sent(row)
        self.seen = len(rows)
        assert CANARY.split("^")[1] not in self.caplog.text
        assert CANARY.split("^")[0] not in self.caplog.text
        self.caplog.clear()

    def assert_is_as_sent(self, row: dict[str, Any]) -> None:
        """A stored object is whole, as it was sent, and pydicom reads it."""
        data = self.node.receiver.store.path(row["object_key"]).read_bytes()
        data_set = data[data_set_offset(data) :]
        digest = hashlib.sha256(data_set).hexdigest()
        assert digest == row["digest"]
        if row["sop_instance_uid"] in self.kept:
            assert digest in self.kept[row["sop_instance_uid"]]
        walked = verdict(row["transfer_syntax_uid"], [data_set])
        assert isinstance(walked, WalkedHeader)
        assert walked.sop_instance_uid == row["sop_instance_uid"]
        reason = why_unread(row["transfer_syntax_uid"], data_set)
        if reason is None:
            read = pydicom.dcmread(io.BytesIO(data))
            assert str(read.SOPInstanceUID).rstrip() == row["sop_instance_uid"]
        else:
            self.unread[reason] += 1

    def assert_nothing_grows(self, number: int) -> None:
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"a thread is left after case {number}"
        # The settler keeps its connection while there is something to settle, and a moment longer.
        patience = time.monotonic() + PATIENCE
        while more := self.more_descriptors(number):
            assert time.monotonic() < patience, f"more descriptors after case {number}: {more}"
            time.sleep(0.05)

    def more_descriptors(self, number: int) -> Counter[str]:
        """Those that were not open at rest, without the few that may be."""
        used = open_descriptors()
        self.at_rest = self.at_rest or used
        more = used - self.at_rest
        # SQLite keeps a database's descriptor for the next connection when another one held a
        # lock at its close (sqlite.org/src, os_unix.c, "pending close"): a few, and no more.
        held = sum(more.pop(name) for name in list(more) if name.endswith("medai.sqlite"))
        assert held <= 4, f"{held} more descriptors of the database after case {number}"
        # Another segment of the journal is made when one was written on for a while.
        for name in [name for name in more if Path(name).name.startswith("journal-")]:
            assert more.pop(name) == 1, f"{name} is open twice after case {number}"
        segments = [name for name in used if Path(name).name.startswith("journal-")]
        assert len(segments) <= SEGMENTS, f"{len(segments)} segments after case {number}"
        return more


def open_descriptors() -> Counter[str]:
    """What the descriptors of this process stand for, sockets without their numbers."""
    found = Counter[str]()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found[str(path.readlink()).partition(":")[0]] += 1
    return found


def verdict(syntax: str, chunks: list[bytes]) -> WalkedHeader | str:
    """What the walk says: the header, or why there is none."""
    walked = DatasetWalk(syntax)
    try:
        for chunk in chunks:
            walked.feed(chunk)
        return walked.finish()
    except MalformedError as error:
        return str(error)


def assert_all_promises_hold(
    start: StartNode, caplog: pytest.LogCaptureFixture, cases: range
) -> None:
    caplog.set_level(logging.INFO)
    corpus = Corpus(start(), caplog)
    corpus.run(cases)
    corpus.assert_promises_hold(cases.stop)
    # A corpus whose every case is refused at the door would show nothing.
    assert corpus.successes >= len(cases) // 50
    assert len(corpus.node.quarantined()) >= len(cases) // 20
    found = f"{corpus.successes} times Success, {corpus.seen} objects, unread {dict(corpus.unread)}"
    print(f"{len(cases)} cases, {found}")


@pytest.mark.feature("P01", "P02", "P40")
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of values it reads
def test_damaged_associations(start: StartNode, caplog: pytest.LogCaptureFixture) -> None:
    assert_all_promises_hold(start, caplog, range(150))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.feature("P01", "P02", "P40")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_associations_at_length(start: StartNode, caplog: pytest.LogCaptureFixture) -> None:
    assert_all_promises_hold(start, caplog, range(150, 2250))


def real_data_sets() -> Iterator[tuple[str, bytes]]:
    """Small files of pydicom's own collection, and one of ours for each transfer syntax."""
    for syntax in SYNTAXES:
        yield syntax, ct(syntax)
    for name in SMALL_FILES:
        path = get_testdata_file(name, download=False)
        assert path is not None, name
        data = Path(str(path)).read_bytes()
        syntax = str(pydicom.dcmread(str(path)).file_meta.TransferSyntaxUID)
        data_set = data[data_set_offset(data) :]
        yield syntax, data_set


def assert_one_verdict_however_cut(examples: int) -> None:
    sets = list(real_data_sets())
    joined = 0
    for syntax in sorted({syntax for syntax, _ in sets}):

        def check(data: bytes, random: Random, syntax: str = syntax) -> None:
            at_once, cut = verdict(syntax, [data]), verdict(syntax, pieces(data, random))
            if syntax in walk.DEFLATED and isinstance(at_once, str):
                # How much was inflated before the fault depends on the pieces, and so which
                # fault is seen first.
                assert isinstance(cut, str)
            else:
                assert cut == at_once

        seeds = [data for of, data in sets if of == syntax]
        joined += evolve(walk, seeds, check, examples // len({of for of, _ in sets}), SEED)
    assert joined > 10
    print(f"{examples} data sets, {joined} of them reached new code")


def assert_read_or_left_alone(examples: int) -> None:
    def check(data: bytes, random: Random) -> None:
        command = read_command(data)
        assert command is None or isinstance(command, Command)
        if command is not None:
            assert command.sop_class_uid.isascii()
            assert len(command.sop_class_uid) <= 64
            assert len(command.sop_instance_uid) <= 64
            assert read_command(data + b"\x00") is None  # it ends where its elements end

    joined = evolve(dimse, [store_rq(CT, "1.2.3.4"), echo_rq(), b""], check, examples, SEED)
    assert joined > 0
    print(f"{examples} command sets, {joined} of them reached new code")


@pytest.mark.feature("P01", "P02")
def test_the_walk_gives_one_verdict_however_the_bytes_are_cut() -> None:
    assert_one_verdict_however_cut(600)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.feature("P01", "P02")
def test_the_walk_gives_one_verdict_however_the_bytes_are_cut_at_length() -> None:
    assert_one_verdict_however_cut(20_000)


def unread_lies_in_what_is_skipped(examples: int) -> Counter[str | None]:
    """Damaged data sets that the walk lets through, by why pydicom does not read them."""
    random = Random(SEED)  # noqa: S311 - draws test data
    found = Counter[str | None]()
    for number in range(examples):
        syntax = SYNTAXES[number % len(SYNTAXES)]
        data = damage(ct(syntax, rows=random.randrange(1, 9)), random)
        if isinstance(verdict(syntax, [data]), WalkedHeader):
            found[why_unread(syntax, data)] += 1
    print(f"{examples} data sets, taken {found.total()}, not read by pydicom: {found}")
    return found


@pytest.mark.feature("P01")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_pydicom_does_not_read_is_damaged_in_what_the_walk_skips() -> None:
    found = unread_lies_in_what_is_skipped(3_000)
    assert found.keys() <= {None, ITEM, CHARACTER_SET}
    assert found[None] > 100
    assert found[ITEM] > 0


@pytest.mark.slow
@pytest.mark.feature("P01")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_pydicom_does_not_read_is_damaged_in_what_the_walk_skips_at_length() -> None:
    found = unread_lies_in_what_is_skipped(60_000)
    assert found.keys() == {None, ITEM, CHARACTER_SET}


@pytest.mark.feature("P02")
def test_a_command_set_is_read_or_left_alone() -> None:
    assert_read_or_left_alone(2_000)


@pytest.mark.slow
@pytest.mark.feature("P02")
def test_a_command_set_is_read_or_left_alone_at_length() -> None:
    assert_read_or_left_alone(20_000)

"""SIGKILL at random moments, of a random process or of the whole node, while four senders send.

``pytest -m slow -s tests/integration/test_kill.py`` is fifty rounds and prints what each kills and
when; the short form is five. ``KILL_SEED=…`` draws the same kills again.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.errors import PeerError
from dicomnode.net.scu import contexts_for, file_facts, open_association_to
from dicomnode.net.standin import StandInPacs
from dicomnode.state import node_state
from storage.objects import ObjectStore
from tests import factories
from tests.harness import NodeUnderTest, lives, routes_to
from tests.integration.looks import (
    assert_chain_is_intact,
    assert_nothing_is_left_over,
    data_set_digest,
    headers,
    kinds_by_study,
    plain_digest,
    uid_of,
)

SENDERS, SLICES = 4, 12
PAUSE = 0.1
"""Seconds between two images of a sender, so that associations last a while."""

PATIENCE = 90.0
SUPERVISOR, GROUP = "supervisor", "group"
TARGETS = ("receiver-0", "receiver-1", "worker", "web", SUPERVISOR, GROUP)
START_SECONDS = 3.0
"""Within this time of a start-up it is killed again: before, in and after its recovery."""

# What must have begun before the node is killed. They take turns, so that five rounds see each.
PHASES = {
    "receiving": "SELECT 1 FROM instance WHERE state = 'stored'",
    "inferring": "SELECT 1 FROM job WHERE state IN ('running', 'validating')",
    "delivering": "SELECT 1 FROM delivery WHERE state = 'sending'",
}

# Only the whole series matches: a part that was judged while its sender found no node must not
# give a second, older set of results.
WHOLE_SERIES = f"slices = {{ min = {SLICES} }}"


@dataclass(frozen=True)
class Kill:
    """What one round kills, and when.

    Attributes:
        target: A process by its name, the supervisor, or the whole group.
        phase: What must have begun.
        delay: Seconds after that.
        in_start_up: Seconds after which start-ups that follow are killed, whole, one by one.
    """

    target: str
    phase: str
    delay: float
    in_start_up: tuple[float, ...]

    @classmethod
    def draw(cls, seed: int, number: int) -> Kill:
        """The kill of one round: the same for the same seed."""
        draw = random.Random(f"{seed} {number}")  # noqa: S311 - draws moments, guards nothing
        target = draw.choice(TARGETS)
        again = draw.choice((0, 1, 2)) if target in (SUPERVISOR, GROUP) else 0
        return cls(
            target,
            tuple(PHASES)[number % len(PHASES)],
            draw.uniform(0, 0.4),
            tuple(draw.uniform(0, START_SECONDS) for _ in range(again)),
        )

    def __str__(self) -> str:
        again = "".join(f", again {after:.3f} s into start-up" for after in self.in_start_up)
        return f"{self.target} {self.delay:.3f} s after {self.phase} began{again}"


class Sender(threading.Thread):
    """Sends study after study until `enough`, and each to its end however often the node dies.

    What was answered 0x0000 is never sent again.
    """

    def __init__(
        self, node: NodeUnderTest, folder: Path, seeds: Iterator[int], enough: threading.Event
    ) -> None:
        super().__init__()
        self._node, self._folder, self._seeds, self._enough = node, folder, seeds, enough
        self.acknowledged: dict[str, str] = {}
        self.studies: list[str] = []

    def run(self) -> None:
        while not self._enough.is_set():
            seed = next(self._seeds)
            images = factories.ct_series(SLICES, rows=96, columns=96, seed=seed)
            paths = factories.write(images, self._folder / str(seed))
            self.studies.append(uid_of(paths[0], "StudyInstanceUID"))
            patience = time.monotonic() + PATIENCE
            while paths and time.monotonic() < patience:
                paths = self._send(paths)

    def _send(self, paths: list[Path]) -> list[Path]:
        """Over one association, until it breaks; what is left."""
        files = [file_facts(path) for path in paths]
        left = list(paths)
        try:
            if node_state(self._node.data_dir) is None:
                raise PeerError("the node does not run")
            with open_association_to(self._node.peer, contexts_for(files)[0]) as link:
                for facts in files:
                    if link.store(facts.path) == 0x0000:
                        self.acknowledged[facts.sop_instance_uid] = data_set_digest(facts.path)
                        left.remove(facts.path)
                    time.sleep(PAUSE)
        except (PeerError, AssertionError):  # it does not run, or not yet again
            time.sleep(PAUSE)
        return left


class Storm:
    """Kills a node round after round and looks at what is there after each."""

    def __init__(self, node: NodeUnderTest, pacs: StandInPacs, folder: Path) -> None:
        self.node, self.pacs, self._folder = node, pacs, folder
        self._seeds = iter(range(1, 1_000_000))
        self.acknowledged: dict[str, str] = {}
        self.studies: list[str] = []

    def one_round(self, kill: Kill) -> None:
        enough = threading.Event()
        senders = [Sender(self.node, self._folder, self._seeds, enough) for _ in range(SENDERS)]
        pids = self.node.state.pids
        for sender in senders:
            sender.start()
        try:
            begun = PHASES[kill.phase]
            self.node.wait_until(lambda: self.node.rows(begun), kill.phase, PATIENCE, pause=0.005)
            time.sleep(kill.delay)
            self._kill(kill)
        finally:
            enough.set()
            for sender in senders:
                sender.join()
        for sender in senders:
            self.acknowledged |= sender.acknowledged
            self.studies += sender.studies
        orphans = pids.values() if kill.target in (SUPERVISOR, GROUP) else ()
        self.node.wait_until(lambda: not any(map(lives, orphans)), "the end of the old processes")
        self.node.wait_until(self._rests, "rest", PATIENCE)
        self.look()

    def _kill(self, kill: Kill) -> None:
        if kill.target == GROUP:
            self.node.kill()
        elif kill.target == SUPERVISOR:
            self.node.kill_supervisor()
        else:
            self.node.kill_process(kill.target)
            return
        for seconds in kill.in_start_up:
            self.node.launch()
            time.sleep(seconds)
            self.node.kill()
        self.node.start()

    def _rests(self) -> bool:
        return self.node.at_rest() and not self.node.state.failing

    def look(self) -> None:
        """What was answered 0x0000 is there, as it was sent, once; each series was run once."""
        assert len(self.acknowledged) == SLICES * len(self.studies)
        store = ObjectStore(self.node.data_dir)
        instances = self.node.rows(
            "SELECT sop_instance_uid AS uid, object_key, state FROM instance"
        )
        kept = [(row["uid"], data_set_digest(store.path(row["object_key"]))) for row in instances]
        assert sorted(kept) == sorted(self.acknowledged.items())
        assert {row["state"] for row in instances} == {"indexed"}
        jobs = self.node.rows("SELECT study_instance_uid AS study, state FROM job")
        assert sorted(row["study"] for row in jobs) == sorted(self.studies)
        assert {row["state"] for row in jobs} == {"ready"}
        made = self.node.rows(
            "SELECT study_instance_uid AS study, kind, sop_instance_uid AS uid, digest, object_key"
            " FROM result JOIN job ON job.id = job_id"
            " WHERE result.id IN (SELECT result_id FROM delivery)"
        )
        kinds = sorted((row["study"], row["kind"]) for row in made)
        assert kinds == sorted((study, kind) for study in self.studies for kind in ("seg", "sr"))
        paths = {row["uid"]: store.path(row["object_key"]) for row in made}
        assert {row["uid"]: row["digest"] for row in made} == {
            uid: data_set_digest(path) for uid, path in paths.items()
        }
        # Kept deflated, sent as the PACS takes it: the same data set.
        assert {uid: plain_digest(path) for uid, path in paths.items()} == {
            uid: plain_digest(path) for uid, path in self.pacs.files.items()
        }


@pytest.mark.feature("P03", "P04", "P24", "P32", "P36", "P43")
@pytest.mark.timeout(3600)  # each wait in it has its own limit
@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_lost_or_doubled_however_often_the_node_is_killed(
    tmp_path: Path, rounds: int
) -> None:
    seed = int(os.environ.get("KILL_SEED", "0")) or 1 + secrets.randbits(31)
    with StandInPacs(tmp_path / "pacs") as pacs:
        routes = routes_to(pacs.port).replace("slices = { min = 10 }", WHOLE_SERIES)
        assert WHOLE_SERIES in routes
        with NodeUnderTest(tmp_path / "node", routes, receivers=2) as node:
            storm = Storm(node, pacs, tmp_path)
            for number in range(rounds):
                kill = Kill.draw(seed, number)
                print(f"KILL_SEED={seed} round {number + 1}: {kill}", flush=True)
                storm.one_round(kill)
            assert node.stop() == 0
            storm.look()
            expected = {study: {"SEG": 1, "SR": 1} for study in storm.studies}
            assert kinds_by_study(headers(pacs)) == expected
            assert_chain_is_intact(node)
            node.start()  # tidies what the last kill left
            assert node.stop() == 0
            storm.look()
            assert_nothing_is_left_over(node)
            found = f"{len(storm.acknowledged)} objects, {len(storm.studies)} series"
            print(f"{rounds} kills, {found}: all there, once")

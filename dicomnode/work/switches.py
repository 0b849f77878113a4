"""What holds for the node as a whole and outlives its processes: its id, whether AI is paused."""

from __future__ import annotations

import uuid

from storage import overview
from storage.db import Ledger

NODE_ID = "node_id"
PAUSED = "paused"


def node_id(ledger: Ledger) -> str:
    """The id of this node, made at its first start; part of every job's identity."""
    return overview.fact_once(ledger, NODE_ID, str(uuid.uuid4()))


def is_paused() -> bool:
    """Whether a person stopped AI."""
    return overview.fact(PAUSED) == "yes"


def paused_routes() -> list[str]:
    """The routes of which a person stopped AI, by name."""
    return [key.removeprefix(f"{PAUSED}:") for key in overview.facts(f"{PAUSED}:", "yes")]


def set_paused(ledger: Ledger, paused: bool, actor: str, route: str | None = None) -> None:
    """Stop AI or let it run again, of one route or of all; receiving goes on either way."""
    key = PAUSED if route is None else f"{PAUSED}:{route}"
    overview.set_fact(ledger, key, "yes" if paused else "no")
    with ledger.transaction() as change:
        place = "process:node" if route is None else f"route:{route}"
        change.audit("ai.paused" if paused else "ai.resumed", object=place, actor=actor)

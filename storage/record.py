"""What every table of the node has in common."""

from __future__ import annotations

from typing import ClassVar

from peewee import Model

Transitions = dict[str, frozenset[str]]


def transitions(**moves: str) -> Transitions:
    """A table of which state may follow which: ``queued="running failed"``."""
    return {state: frozenset(after.split()) for state, after in moves.items()}


class Record(Model):
    """A table; `noun` names its rows in the audit chain."""

    noun: ClassVar[str] = ""
    transitions: ClassVar[Transitions] = {}

    def label(self) -> str:
        """What the audit chain calls this row."""
        return f"{self.noun}:{self.get_id()}"
